"""TLS of the two transports by themselves: what methods see of a client, and what a change and an end do to calls."""

import asyncio
import errno
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from carried import SERVICE, Seen, carried, limited, listens, methods
from certificates import Authority, Certified
from turnout.config import Address
from turnout.errors import ConfigError
from turnout.rpc.transport.grpcio import GrpcioListener
from turnout.rpc.transport.port import CallListener
from turnout.telemetry.logging import make_logger
from turnout.tls.identity import PemFile, ServerIdentity, check_identity
from turnout_client.tls import ClosedOnReset

AUTHORITY, OTHERS = Authority.make("an authority"), Authority.make("others")
CLIENT = AUTHORITY.issue("a client")
TRANSPORTS = ("h2corn", "grpcio")
BOUND = 60.0
LOG = make_logger("json", "critical")


def identity(mode: Any = "none", name: str = "a server") -> ServerIdentity:
    server = AUTHORITY.issue(name)
    ca = PemFile("tls.client_ca", "ca.pem", AUTHORITY.pem) if mode != "none" else None
    return check_identity(
        PemFile("tls.cert", "c.pem", server.pem), PemFile("tls.key", "k.pem", server.key), ca, mode, time.time()
    )


def channel_to(target: str, client: Certified | None = None) -> grpc.aio.Channel:
    """Opens a channel of its own connection."""
    own = (client.key, client.pem) if client is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.pem, *own)
    return grpc.aio.secure_channel(target, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


class Served:
    """A listener of either transport, whose identity a test changes."""

    def __init__(self, target: str, seen: Seen, listener: CallListener, identity: ServerIdentity) -> None:
        self.target = target
        self.seen = seen
        self.listener = listener
        self.identity = identity

    async def show(self, identity: ServerIdentity) -> None:
        """Changes it, as `turnout.tls.certificates` does."""
        if not isinstance(self.listener, GrpcioListener):
            await self.listener.show(identity)  # type: ignore[attr-defined] # the other is h2corn's
        self.identity = identity


@asynccontextmanager
async def served(transport: str, identity: ServerIdentity, **more: Any) -> AsyncIterator[Served]:
    """Serves the methods for as long as it is entered."""
    if transport == "h2corn":
        async with carried(identity=identity, **more) as server:
            yield Served(server.target, server.seen, server.listener, identity)
        return
    seen, own = Seen(), [Served("", Seen(), None, identity)]  # type: ignore[arg-type] # until it listens
    listener = GrpcioListener(methods(seen), Address("127.0.0.1", 0), (), LOG, lambda: own[0].identity)
    own[0] = Served(str(listener.address), seen, listener, identity)
    await listener.start()
    try:
        yield own[0]
    finally:
        await listener.stop(0.0)


def subject_shown(target: str) -> bytes:
    """Returns the certificate that a new connection is shown."""
    host, port = target.split(":")
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.sslsocket_class = ClosedOnReset
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), BOUND) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return ssl.DER_cert_to_PEM_cert(encrypted.getpeercert(binary_form=True) or b"").encode()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_method_sees_the_certificate_of_its_client(transport: str) -> None:
    async with served(transport, identity("required")) as server, channel_to(server.target, CLIENT) as channel:
        assert await channel.unary_unary(SERVICE + "Certificate")(b"", timeout=BOUND) == CLIENT.pem
        assert await channel.unary_stream(SERVICE + "Certificates")(b"", timeout=BOUND).read() == CLIENT.pem
        assert "PRIVATE" not in server.seen.calls["Certificate"].certificate


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_error_that_nobody_foresaw_says_nothing_of_python(transport: str) -> None:
    async with served(transport, identity()) as server, channel_to(server.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await channel.unary_unary(SERVICE + "BreakDown")(b"x", timeout=BOUND)
        stream = channel.unary_stream(SERVICE + "BreakDownLate")(b"x", timeout=BOUND)
        assert await stream.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stream.read()
    for failed in (unary.value, late.value):
        assert (failed.code(), failed.details()) == (grpc.StatusCode.INTERNAL, "the call failed inside the server")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_shows_none_has_none(transport: str) -> None:
    async with served(transport, identity()) as server, channel_to(server.target, CLIENT) as channel:
        assert await channel.unary_unary(SERVICE + "Certificate")(b"", timeout=BOUND) == b""


async def test_an_optional_certificate_may_be_left_out_and_not_be_a_foreign_one() -> None:
    async with carried(identity=identity("optional")) as server:
        for client, expected in ((CLIENT, CLIENT.pem), (None, b"")):
            async with channel_to(server.target, client) as channel:
                assert await channel.unary_unary(SERVICE + "Certificate")(b"", timeout=BOUND) == expected
        async with channel_to(server.target, OTHERS.issue()) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(SERVICE + "Echo")(b"x", timeout=BOUND)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_grpcio_cannot_ask_for_optional_certificates_and_says_so() -> None:
    with pytest.raises(ConfigError, match="grpcio transport cannot ask for optional client certificates"):
        GrpcioListener({}, Address("127.0.0.1", 0), (), LOG, lambda: identity("optional"))


async def test_an_identity_that_h2corn_cannot_use_changes_nothing() -> None:
    before = identity(name="before")
    async with carried(identity=before) as server:
        with pytest.raises(ConfigError, match="h2corn cannot use the TLS certificate"):
            await server.listener.show(replace(identity(name="after"), key=b"nothing"))
        certificate = await asyncio.get_running_loop().run_in_executor(None, subject_shown, server.target)
        assert certificate == before.certificate


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_changes_under_load_fail_no_call(transport: str) -> None:
    async with served(transport, identity()) as server:
        ended: Counter[str] = Counter()
        stop = asyncio.Event()

        async def calls(channel: grpc.aio.Channel) -> None:
            method = channel.unary_unary(SERVICE + "Echo")
            while not stop.is_set():
                ended[await code_of(method(b"x", timeout=BOUND))] += 1

        async def messages(channel: grpc.aio.Channel) -> None:
            stream = channel.stream_stream(SERVICE + "Duplex")()
            while not stop.is_set():
                await stream.write(b"y")
                assert await stream.read() == b"y"
                ended["message"] += 1
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            ended[f"stream {(await stream.code()).name}"] += 1

        channels = [channel_to(server.target) for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for channel in channels:
                for work in (calls, calls, calls, calls, messages):
                    tasks.create_task(work(channel))
            for number in range(5):
                changed = identity(name=f"number {number}")
                await server.show(changed)
                while await asyncio.get_running_loop().run_in_executor(None, subject_shown, server.target) != (
                    changed.certificate
                ):
                    pass
                before = ended.total()
                while ended.total() < before + 100:
                    await asyncio.sleep(0.01)
            stop.set()
        for channel in channels:
            await channel.close()
        assert set(ended) == {"OK", "message", "stream OK"}
        assert ended["stream OK"] == 3


async def code_of(call: Any) -> str:
    """Returns how a call ended."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


async def test_calls_of_before_a_change_end_with_the_server() -> None:
    async with (
        carried(identity=identity(), settings=limited(grace_s=0.3)) as server,
        channel_to(server.target) as channel,
    ):
        sleeping = asyncio.ensure_future(code_of(channel.unary_unary(SERVICE + "Sleep")(b"x", timeout=BOUND)))
        await server.seen.began.wait()
        await server.listener.show(identity())
        await asyncio.sleep(0)
        begun = time.monotonic()
        async with asyncio.timeout(BOUND / 2):
            await server.listener.stop(0.3)
        assert time.monotonic() - begun >= 0.3
        assert await sleeping == "UNAVAILABLE: the server stopped before the call ended"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stop_that_is_given_up_ends_the_calls_under_way(transport: str) -> None:
    async with served(transport, identity()) as server, channel_to(server.target) as channel:
        sleeping = asyncio.ensure_future(code_of(channel.unary_unary(SERVICE + "Sleep")(b"x", timeout=2 * BOUND)))
        await server.seen.began.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await server.listener.stop(2 * BOUND)
        async with asyncio.timeout(BOUND):
            await server.seen.cancelled.wait()
            assert "DEADLINE" not in await sleeping
        assert not await listens(server.listener.address)


async def test_a_client_that_reads_nothing_does_not_keep_the_server_from_ending() -> None:
    async with carried(identity=identity()) as server, channel_to(server.target) as channel:
        for change in (False, True):  # a call of the present generation, and one of a generation before
            numbers = channel.unary_stream(SERVICE + "Count")(b"1000000", timeout=BOUND)
            await numbers.read()
            if not change:
                await server.listener.show(identity())
        async with asyncio.timeout(30.0):  # h2corn would wait for it a minute, and for the end of calls a month
            await server.listener.stop(0.1)


async def test_a_connection_that_stands_still_is_cut_at_the_end() -> None:
    begun = asyncio.Event()

    async def a_long_answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})

    async with carried(identity=identity(), fallback=a_long_answer) as server:

        def ask_and_read_nothing() -> ssl.SSLSocket:
            context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
            plain = socket.create_connection((server.address.host, server.address.port), BOUND)
            encrypted = context.wrap_socket(plain, server_hostname="localhost")
            encrypted.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return encrypted

        held = await asyncio.get_running_loop().run_in_executor(None, ask_and_read_nothing)
        await begun.wait()
        async with asyncio.timeout(30.0):
            await server.listener.stop(0.1)
        held.close()


async def test_generations_of_before_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.rpc.transport.h2corn._MOST_QUIET", 2)
    async with carried(identity=identity()) as server:
        held = len(os.listdir("/dev/fd"))
        for _ in range(20):
            await server.listener.show(identity())
        async with asyncio.timeout(BOUND):
            while len(os.listdir("/dev/fd")) > held + 2 * 8:
                await asyncio.sleep(0.01)


async def test_a_change_that_the_system_has_no_room_for_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(name="before")
    async with carried(identity=before) as server:

        async def no_room() -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as scarce:
            scarce.setattr(server.listener, "_begin", no_room)
            with pytest.raises(ConfigError, match=r"cannot be shown another certificate: .*Too many open files"):
                await server.listener.show(identity(name="after"))
        certificate = await asyncio.get_running_loop().run_in_executor(None, subject_shown, server.target)
        assert certificate == before.certificate


@pytest.mark.parametrize("first", ["show", "stop"])
async def test_a_change_that_meets_the_end_leaves_nobody_listening(first: str) -> None:
    async with carried(identity=identity()) as server:
        show, stop = server.listener.show(identity()), server.listener.stop(0.1)
        async with asyncio.timeout(BOUND):
            await asyncio.gather(*((show, stop) if first == "show" else (stop, show)))
            while await listens(server.address):  # what is let go last is closed a moment later
                pass
