"""What a client does while its servers are down, wrong, or replaced: how often it asks them, and for how long."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from certificates import Authority, put
from client_faults import BOUND, AnyClient, Fault, echo, fault_server, retry_info, within_bound
from turnout_client import Cancelled, DeadlineExceeded, Internal, RetryPolicy, Tls, Unavailable


class Accepting:
    """A listener that is no gRPC server: `answer` has each connection, which is closed afterwards."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.accepted = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = ThreadPoolExecutor()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                self._threads.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._answer(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self._threads.shutdown()


@contextmanager
def accepting(answer: Callable[[socket.socket], None]) -> Iterator[Accepting]:
    listener = Accepting(answer)
    try:
        yield listener
    finally:
        listener.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def at_once(_: socket.socket) -> None:
    """Closes the connection."""


@pytest.mark.parametrize("answer", [at_once, reset])
@pytest.mark.parametrize("tls", [None, Tls()], ids=["plain", "tls"])
async def test_calls_that_fail_together_are_explained_by_one_connection(kind, transport, answer, tls):
    with accepting(answer) as server:
        async with AnyClient(kind, server.address, transport=transport, tls=tls, timeout=BOUND) as client:
            ends = await asyncio.gather(*(client.predict("m", {}) for _ in range(200)), return_exceptions=True)
        assert {type(end) for end in ends} == {Unavailable}
        assert server.accepted < 40  # gRPC's own attempts, and two of a diagnosis every few seconds


async def test_no_explanation_is_waited_for_past_the_deadline(kind, monkeypatch):
    """A server that answers neither gRPC nor the diagnosis, and says so a little at a time."""
    asked, release = threading.Event(), threading.Event()

    def stuck(*_: object, **__: object) -> str:
        asked.set()
        release.wait(BOUND)
        return "an explanation that comes too late"

    monkeypatch.setattr("turnout_client.obstacles.find_obstacle", stuck)
    with accepting(at_once) as server:
        async with AnyClient(kind, server.address, retries=0, timeout=0.5) as client, asyncio.timeout(BOUND):
            with pytest.raises(Unavailable, match=r"Socket closed|reset"):
                await client.predict("m", {})
            assert asked.is_set()
            with pytest.raises(
                DeadlineExceeded, match=f"not ready within 0.5 s: no server answered at {server.address}"
            ):
                await client.wait_ready(timeout=0.5)
            release.set()


async def test_retries_do_not_multiply_the_load_of_a_server_that_is_down(kind, transport):
    def down(_):
        raise Fault(grpc.StatusCode.UNAVAILABLE, "overloaded")

    with fault_server() as server:
        server.predict = down
        policy = RetryPolicy(first_backoff=0.001, max_backoff=0.002, budget=20)
        async with AnyClient(kind, server.address, transport=transport, retries=policy) as client:
            for _ in range(30):
                ends = await asyncio.gather(*(client.predict("m", {}) for _ in range(10)), return_exceptions=True)
                assert {type(end) for end in ends} == {Unavailable}
            assert 300 < len(server.seen) <= 300 + 20 + 10  # the budget, and what was under way when it was spent
            server.predict = echo
            for _ in range(10):
                await client.predict("m", {})
            times = []

            def once(request):
                times.append(request)
                return down(request) if len(times) == 1 else echo(request)

            server.predict = once
            await client.predict("m", {})  # there are retries again
            assert len(times) == 2


@pytest.mark.parametrize("seconds", [3600.0, 9.2e9])
async def test_a_server_that_asks_for_hours_is_not_waited_for(kind, transport, seconds):
    def later(_):
        raise Fault(grpc.StatusCode.UNAVAILABLE, "under maintenance", retry_info(seconds))

    with fault_server() as server:
        server.predict = later
        async with AnyClient(kind, server.address, transport=transport, timeout=None) as client:
            with pytest.raises(Unavailable) as caught:
                await asyncio.wait_for(client.predict("m", {}), BOUND)
        assert caught.value.retry_after == seconds
        assert len(server.seen) == 1


async def test_closing_the_client_ends_the_pause_before_a_retry(kind, transport):
    def later(_):
        raise Fault(grpc.StatusCode.UNAVAILABLE, "in a while", retry_info(10_000.0))

    with fault_server() as server:
        server.predict = later
        patient = RetryPolicy(max_retry_after=20_000.0)
        client = AnyClient(kind, server.address, transport=transport, timeout=None, retries=patient)
        waiting = asyncio.ensure_future(client.predict("m", {}))
        await within_bound(lambda: bool(server.seen))
        await client.__aexit__()
        with pytest.raises(Cancelled, match="the client was closed"):
            await asyncio.wait_for(waiting, BOUND)
        assert not waiting.cancelled()


@pytest.mark.parametrize("sent", [[], [b"\xff\xff\xff"]], ids=["no response", "no message"])
async def test_ok_without_a_response_is_the_servers_fault(kind, sent):
    def nothing(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from sent

    methods = {name: grpc.unary_stream_rpc_method_handler(nothing) for name in ("Predict", "ListModels", "Watch")}
    services = ("turnout.v1.PredictionService", "turnout.v1.CatalogService", "grpc.health.v1.Health")
    with ThreadPoolExecutor() as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods) for name in services])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        async with AnyClient(kind, f"127.0.0.1:{port}") as client:
            with pytest.raises(Internal):
                await client.predict("m", {})
            with pytest.raises(Internal):
                await client.models()
            if sent:
                with pytest.raises((Internal, DeadlineExceeded)):
                    await client.wait_ready(timeout=0.5)
        server.stop(None).wait(BOUND)


async def test_a_status_without_a_message_still_says_something(kind, transport):
    def silent(_):
        raise Fault(grpc.StatusCode.INTERNAL, "")

    with fault_server() as server:
        server.predict = silent
        async with AnyClient(kind, server.address, transport=transport) as client:
            with pytest.raises(Internal, match="the call ended with INTERNAL, without a message"):
                await client.predict("m", {})


async def test_a_deadline_that_passes_in_a_retry_says_why_there_was_one(kind, transport):
    release, asked = threading.Event(), []

    def first_down_then_slow(request):
        asked.append(request)
        if len(asked) == 1:
            raise Fault(grpc.StatusCode.UNAVAILABLE, "m 1.0.0 is loading")
        release.wait(BOUND)
        return echo(request)

    with fault_server() as server:
        server.predict = first_down_then_slow
        async with AnyClient(kind, server.address, transport=transport, timeout=2.0) as client:
            with pytest.raises(DeadlineExceeded, match=r"before ended with UNAVAILABLE: m 1\.0\.0 is loading"):
                await client.predict("m", {})
        release.set()


class NameServer:
    """A DNS server. `addresses` has the IPv4 addresses of every name."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while (received := self._socket.recvfrom(2000))[0]:
            query, client = received
            end = query.index(b"\0", 12) + 5  # the name, then type and class of two bytes each
            found = self.addresses if query[end - 4 : end - 2] == b"\0\1" else []
            header = query[:2] + struct.pack(">5H", 0x8400, 1, len(found), 0, 0)
            records = (b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(one) for one in found)
            self._socket.sendto(header + query[12:end] + b"".join(records), client)

    def close(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


async def test_a_name_is_resolved_again_when_its_servers_are_replaced(kind):
    names = NameServer()
    with contextlib.closing(names), fault_server() as old, fault_server(old.port, "127.0.0.2") as new:
        names.addresses = [old.host]
        target = f"dns://127.0.0.1:{names.port}/turnout.test:{old.port}"
        patient = RetryPolicy(retries=10_000, first_backoff=0.01, max_backoff=0.05)
        async with AnyClient(kind, target, retries=patient, timeout=15.0) as client:  # gRPC would ask after 30 s
            await client.predict("m", {})
            names.addresses = [new.host]
            old.kill()
            await client.predict("m", {})
            assert len(new.seen) == 1


async def test_renewed_certificates_are_used_by_the_next_connection(kind, transport, tmp_path):
    trusted, unknown = Authority.make("trusted"), Authority.make("unknown")
    server_certificate = trusted.issue()
    identity = server_certificate.key, server_certificate.pem
    credentials = grpc.ssl_server_credentials([identity], trusted.pem, require_client_auth=True)
    ca = put(tmp_path / "ca.pem", trusted.pem)
    certificate, key = unknown.issue("a client").write(tmp_path, "client")
    with fault_server(credentials=credentials) as server:
        tls = Tls(ca=ca, cert=certificate, key=key)
        async with AnyClient(kind, server.address, transport=transport, tls=tls) as client:
            with pytest.raises(Unavailable):
                await client.predict("m", {})
            put(certificate, b"half of a certif")  # cannot be used, and is not
            with pytest.raises(Unavailable):
                await client.predict("m", {})
            renewed = trusted.issue("a client")
            put(key, renewed.key)
            put(certificate, renewed.pem)
            await client.predict("m", {})


async def test_closing_the_client_ends_a_call_under_way(kind, transport):
    answered = threading.Event()

    def never(_):
        answered.wait(BOUND)
        raise Fault(grpc.StatusCode.UNAVAILABLE, "at last")

    with fault_server() as server:
        server.predict = never
        client = AnyClient(kind, server.address, transport=transport, timeout=None)
        waiting = asyncio.ensure_future(client.predict("m", {}))
        try:
            await within_bound(lambda: bool(server.seen))
            await client.__aexit__()
            with pytest.raises(Cancelled, match="the client was closed"):
                await asyncio.wait_for(waiting, BOUND)
        finally:
            answered.set()
