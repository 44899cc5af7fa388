"""What clients can take of a server by their connections is bounded, and others are served meanwhile."""

import asyncio
import contextlib
import errno
import os
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import code_pb2
from hyperframe.frame import SettingsFrame

from carried import SERVICE, Carried, carried, limited
from http2_client import CALL, PREFACE, Http2Client
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.config import Address, Limits
from turnout.rpc.transport.asgi.framing import PREFIX
from turnout.telemetry.logging import make_logger
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X as INPUT
from wire import request

ECHO = SERVICE + "Echo"
X = PREFIX.pack(0, 1) + b"x"
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 7, 8, 9
MIB = 1 << 20


def connect(server: Carried, **how: Any) -> Http2Client:
    return Http2Client(server.address.host, server.address.port, **how)


async def served(server: Carried) -> bool:
    async with connect(server) as client:
        return (await client.call(ECHO, X)).body == X


async def test_ten_thousand_calls_at_once_on_one_connection_are_answered_or_refused() -> None:
    async with carried(max_requests=50) as server, grpc.aio.insecure_channel(server.target) as channel:
        echo = channel.unary_unary(ECHO)

        async def code(index: int) -> grpc.StatusCode:
            message = b"%d" % index
            try:
                assert await echo(message) == message
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        codes = await asyncio.gather(*map(code, range(10_000)))
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes.count(grpc.StatusCode.OK) > 0


@pytest.mark.parametrize("listener", ["grpc", "control"])
@pytest.mark.parametrize(("channels", "calls"), [(1, 4_000), (40, 100)])
async def test_no_call_to_a_listener_on_grpcio_is_cancelled_because_there_are_many(
    publish_model: Publish, start_server: StartServer, listener: str, channels: int, calls: int
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(transport={"data": "grpcio"}, limits=Limits(max_requests=50))
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        stubs = []
        for _ in range(channels):
            channel = grpc.aio.insecure_channel(str(getattr(server, listener)), options=own_connection)
            stubs.append(PredictionServiceStub(await stack.enter_async_context(channel)))
        answers = [stub.Predict(request("m", x=INPUT)) for stub in stubs for _ in range(calls)]
        codes = await asyncio.gather(*(answer.code() for answer in answers))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.count(grpc.StatusCode.OK) > 0


async def test_a_stream_too_many_is_refused_so_that_it_can_be_sent_again() -> None:
    async with carried(settings=limited(max_streams=3)) as server, connect(server) as client:
        assert client.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 3
        for _ in range(3):
            await client.begin(SERVICE + "Watch")
        refused = await client.answer(await client.begin(SERVICE + "Watch"))
        assert refused.reset == REFUSED_STREAM
        assert await served(server)


async def write_until_closed(writer: asyncio.StreamWriter, piece: bytes, total: int) -> int:
    """Writes `total` bytes; returns how many went before the server closed the connection."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
    return sent


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nhost: x\r\na: ", b"GET /"], ids=["header", "request line"])
async def test_a_header_of_150_mb_is_cut_off(head: bytes) -> None:
    async with carried() as server:
        _, writer = await asyncio.open_connection(server.address.host, server.address.port)
        writer.write(head)
        assert await write_until_closed(writer, b"a" * 65536, 150 * MIB) < 16 * MIB
        assert await served(server)
        writer.close()


async def test_headers_of_150_mb_in_continuation_frames_are_cut_off() -> None:
    async with carried() as server, connect(server) as client:
        literal = b"\x00" + b"\x01a" + b"\x7f\x80\xff\x7f" + b"a" * 16383  # one long header, never indexed
        frame = len(literal).to_bytes(3, "big")
        client.writer.write(frame + b"\x01\x00" + (1).to_bytes(4, "big") + literal)  # HEADERS that do not end
        continuation = frame + b"\x09\x00" + (1).to_bytes(4, "big") + literal
        before = psutil.Process().memory_info().rss
        await write_until_closed(client.writer, continuation, 150 * MIB)  # for a second it may come, and is dropped
        assert psutil.Process().memory_info().rss - before < 32 * MIB
        assert await served(server)
        with contextlib.suppress(ConnectionError):
            while await client.receive():
                pass
            assert client.goaway is not None
            assert client.goaway.error_code == COMPRESSION_ERROR


@pytest.mark.parametrize(
    "headers", [[("a", "b" * 3000)] * 30, [("a", "b")] * 150], ids=["too many bytes", "too many of them"]
)
async def test_headers_beyond_the_limits_end_their_request_and_no_other(headers) -> None:
    async with carried() as server, connect(server) as client, connect(server) as other:
        with contextlib.suppress(ConnectionError):
            stream = await client.begin(ECHO, (*CALL, *headers))
            await client.send(stream, X, end=True)
            answer = await client.answer(stream)
            assert answer.body == b""
            assert answer.reset is not None or client.closed or answer.status == 431
        assert (await other.call(ECHO, X)).body == X


async def until_closed(reader: asyncio.StreamReader, seconds: float = 60.0) -> bytes:
    """Returns what came until the server closed a connection."""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


@pytest.mark.parametrize(
    "begun", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nhost:"], ids=["nothing", "preface", "head"]
)
async def test_connections_that_are_half_open_are_closed_and_others_served(begun: bytes) -> None:
    async with carried(settings=limited(header_timeout_s=2.0)) as server:
        opened = [await asyncio.open_connection(server.address.host, server.address.port) for _ in range(100)]
        for _, writer in opened:
            writer.write(begun)
        assert await served(server)
        await asyncio.gather(*(until_closed(reader) for reader, _ in opened))
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize("listener", ["grpc", "control"])
async def test_listeners_on_grpcio_close_connections_that_are_half_open_idle_or_old(
    publish_model: Publish, start_server: StartServer, listener: str
) -> None:
    publish_model("m", "1.0.0", scaled(1))

    async def address(**limits: float) -> Address:
        server = await start_server(transport={"data": "grpcio"}, limits=limits)
        found: Address = getattr(server, listener)
        return found

    half_open = await address(header_timeout_s=1.0)
    for begun in (b"", PREFACE[:10], PREFACE):
        reader, writer = await asyncio.open_connection(half_open.host, half_open.port)
        writer.write(begun)
        assert b"handshake timeout" in await until_closed(reader)
        writer.close()
    for limit in ("idle_timeout_s", "max_connection_age_s"):
        limited = await address(**{limit: 1.0})
        async with Http2Client(limited.host, limited.port) as client:
            await client.end()
            assert client.goaway is not None


@pytest.mark.both_transports
@pytest.mark.parametrize("listener", ["grpc", "control"])
async def test_headers_have_the_same_limit_on_each_listener(
    publish_model: Publish, start_server: StartServer, listener: str
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    address = getattr(await start_server(limits=Limits(max_header_bytes=32 * 1024)), listener)
    body = request("m", x=INPUT).SerializeToString()
    for size, taken in ((30 * 1024, True), (40 * 1024, False)):
        async with Http2Client(address.host, address.port) as client:
            headers = (*CALL, *((f"x-{i}", "a" * 2000) for i in range(size // 2000)))
            answer = await client.call(
                "/turnout.v1.PredictionService/Predict", PREFIX.pack(0, len(body)) + body, headers
            )
            assert (bool(answer.fields) and answer.grpc_status == 0) == taken


async def test_connections_beyond_the_limit_wait_their_turn() -> None:
    async with carried(settings=limited(max_connections=2)) as server:
        async with connect(server) as first, connect(server) as second:
            assert (await first.call(ECHO, X)).body == X
            assert (await second.call(ECHO, X)).body == X
            third = asyncio.create_task(served(server))
            assert not (await asyncio.wait([third], timeout=0.3))[0]
        assert await asyncio.wait_for(third, 60)


async def test_a_connection_without_a_request_is_closed_after_a_while() -> None:
    async with carried(settings=limited(idle_timeout_s=1.5)) as server, connect(server) as client:
        assert (await client.call(ECHO, X)).body == X
        async with asyncio.timeout(100):
            while await client.receive():
                pass
        assert client.goaway is not None
        assert client.goaway.error_code == 0


async def test_a_connection_with_a_request_is_not_idle() -> None:
    async with carried(settings=limited(idle_timeout_s=1.5)) as server, connect(server) as client:
        stream = await client.begin(SERVICE + "Duplex")
        await client.send(stream, X)
        await asyncio.sleep(3.0)  # longer than a connection may be idle
        await client.send(stream, X, end=True)
        assert (await client.answer(stream)).body == X + X


async def test_a_unary_call_that_sends_nothing_is_given_up() -> None:
    async with carried(settings=limited(body_timeout_s=0.3)) as server, connect(server) as client:
        stream = await client.begin(ECHO)
        assert (await client.answer(stream)).reset == CANCEL
        async with asyncio.timeout(100):
            while server.admission.under_way:
                await asyncio.sleep(0.01)


async def test_an_answer_that_its_client_does_not_take_is_given_up() -> None:
    async with carried(settings=limited(stall_timeout_s=0.3)) as server, connect(server, window=0) as client:
        stream = await client.begin(ECHO)
        await client.send(stream, X, end=True)
        assert (await client.answer(stream)).reset == CANCEL
        assert await served(server)


async def test_connections_are_renewed_and_calls_under_way_end_on_theirs() -> None:
    settings = limited(max_connection_age_s=3.0, grace_s=60.0)  # nobody is late for either
    async with carried(settings=settings) as server, connect(server) as client:
        stream = await client.begin(SERVICE + "Duplex")
        await client.send(stream, X)
        async with asyncio.timeout(100):
            while client.goaway is None:
                assert await client.receive()
        assert client.goaway.error_code == 0
        assert await served(server)
        await client.send(stream, X, end=True)
        answer = await client.answer(stream)
        assert (answer.body, answer.grpc_status) == (X + X, 0)


async def test_a_renewal_that_the_system_has_no_room_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with carried(settings=limited(max_connection_age_s=0.2), log=make_logger("json", "critical")) as server:
        begin, failures = server.listener._begin, 0

        async def no_room_at_first() -> object:
            nonlocal failures
            if failures < 2:
                failures += 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return await begin()

        monkeypatch.setattr(server.listener, "_begin", no_room_at_first)
        async with connect(server) as client, asyncio.timeout(100):
            while client.goaway is None:
                assert await client.receive()
        assert failures == 2


async def test_a_client_that_writes_before_it_reads_of_a_renewal_reads_of_it() -> None:
    async with carried(settings=limited(max_connection_age_s=3.0)) as server, connect(server) as client:
        assert (await client.call(ECHO, X)).body == X
        async with asyncio.timeout(100):
            while client.goaway is None:
                assert await client.receive()
        for _ in range(3):  # a connection that was just closed takes one, and is reset at the next
            client.open(ECHO)
            await client.writer.drain()
            await asyncio.sleep(0.01)
        await client.end()
        assert client.reader.exception() is None
        assert client.goaway.last_stream == 1  # so what was written after it may be sent again


async def test_connections_that_were_renewed_leave_no_descriptors() -> None:
    settings = limited(max_connection_age_s=0.2, grace_s=60.0)
    async with carried(settings=settings) as server, connect(server) as client:
        stream = await client.begin(SERVICE + "Duplex")
        await client.send(stream, X)
        async with asyncio.timeout(100):
            while client.goaway is None:
                assert await client.receive()
        before = psutil.Process().num_fds()
        for _ in range(20):
            async with connect(server) as passing:
                await passing.call(ECHO, X)  # it may come just as its connection is renewed
            await asyncio.sleep(0.1)
        async with asyncio.timeout(100):
            while psutil.Process().num_fds() > before + 5:  # a generation that begins has some of its own
                await asyncio.sleep(0.01)
        await client.send(stream, X, end=True)
        assert (await client.answer(stream)).body == X + X


async def test_a_client_of_grpc_notices_no_renewal() -> None:
    settings = limited(max_connection_age_s=0.1)
    async with carried(settings=settings) as server, grpc.aio.insecure_channel(server.target) as channel:
        echo = channel.unary_unary(ECHO)
        loop = asyncio.get_running_loop()
        end, calls = loop.time() + 1.5, 0
        while loop.time() < end or calls <= 10:
            assert await echo(b"x") == b"x"
            calls += 1


async def test_a_listener_that_failed_begins_anew() -> None:
    message = []

    class Log:
        def error(self, event: str, **_: object) -> None:
            message.append(event)

    async with carried(log=Log()) as server:
        current = server.listener._current
        assert current is not None
        current.server.shutdown()  # as it ends where accept() fails
        async with asyncio.timeout(100):
            while server.listener._current in (None, current):
                await asyncio.sleep(0.01)
        assert await served(server)
        assert message == ["the listener failed and begins anew"]


async def test_a_stream_that_ends_early_frees_what_it_held() -> None:
    async with carried() as server, connect(server) as client:
        for method in ("Echo", "Collect"):
            stream = await client.begin(SERVICE + method)
            await client.send(stream, PREFIX.pack(0, MIB) + bytes(100_000))
        async with asyncio.timeout(100):
            while server.budget.held < 200_000:
                await asyncio.sleep(0.01)
        client.writer.close()
        async with asyncio.timeout(100):
            while server.budget.held or server.admission.under_way:
                await asyncio.sleep(0.01)


async def test_what_is_refused_says_why() -> None:
    async with carried(max_requests=1) as server, connect(server) as client:
        await client.begin(SERVICE + "Watch")
        await asyncio.wait_for(server.seen.began.wait(), 60)
        refused = await client.call(ECHO, X)
        assert (refused.status, refused.grpc_status) == (200, code_pb2.RESOURCE_EXHAUSTED)
        assert "limits.max_requests" in refused.grpc_message
