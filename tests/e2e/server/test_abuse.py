"""Whatever a client does to a listener, memory stays bounded and other clients are served meanwhile."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame
from onnx import TensorProto
from semver import Version

import onnx_models
from abuse import MIB, PATIENCE, Witness, abort, continuations, flood, half_open, witness
from http2_client import BOUND, CALL, PREFACE, Http2Client, message
from processes import ServerProcess, serving
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PREDICT = "/turnout.v1.PredictionService/Predict"
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
SMALL = 96.0
"""MiB that an abuse may cost: what 100 streams and their windows take, with room for an allocator's own."""

BODIES = 512.0 + 24 * 8.0 + SMALL
"""MiB that 24 requests of 60 MB each, which are 1,373 MiB, may cost together: `limits.max_unfinished_bytes`, and the
window of each client."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("abuse")
    models = root / "models"
    with StateStore.open(Settings(models=models).state_url) as store:
        for name, proto in (
            ("m", onnx_models.scaled(2)),
            ("wide", onnx_models.identity(TensorProto.FLOAT, ["batch", 4])),
        ):
            publish(
                Repository(models),
                PublishRequest(name, Version(1), onnx_models.save(proto, root / f"{name}.onnx")),
            )
            store.release(name, Version(1), actor="test", reason="")
    with serving(models, TURNOUT_TRANSPORT__DATA="h2corn", TURNOUT_LIMITS__HEADER_TIMEOUT_S="3") as process:
        deadline = time.monotonic() + 60
        while httpx.get(f"http://{process.http}/readyz").status_code != 200:
            assert time.monotonic() < deadline, process.log.read_text()
            time.sleep(0.02)
        yield process


@pytest.fixture(scope="module", autouse=True)
def resident(server: ServerProcess) -> int:
    """Bytes of the server's memory before anyone did anything to it; freed memory is not all given back."""
    return psutil.Process(server.process.pid).memory_info().rss


def dial(server: ServerProcess, **how: Any) -> Http2Client:
    """Returns a client of the data listener."""
    host, _, port = server.grpc.rpartition(":")
    return Http2Client(host, int(port), **how)


@asynccontextmanager
async def harmless(server: ServerProcess, mebibytes: float = SMALL, resident: int = 0) -> AsyncIterator[Witness]:
    """Fails where what happens meanwhile costs too much memory, or keeps an honest client from its answers.

    Args:
        server: That it is done to.
        mebibytes: That the server's memory may grow by.
        resident: Its memory before, in bytes; 0: as it is now.
    """
    assert server.process.pid is not None
    async with witness(server.grpc, server.process.pid) as seen:
        seen.before = resident or seen.before
        yield seen
        answered = seen.answered
        async with asyncio.timeout(PATIENCE):
            while seen.answered == answered:
                await asyncio.sleep(0.01)
    assert seen.failed == []
    assert seen.slowest < PATIENCE
    assert seen.grown < mebibytes, f"grew by {seen.grown:.0f} MiB"
    assert '"level": "error"' not in server.log.read_text()


async def test_streams_that_are_reset_as_soon_as_they_are_opened(server) -> None:
    async with harmless(server), dial(server) as client:
        for _ in range(200):
            for _ in range(100):
                number = client.open(PREDICT)
                client.frame(RstStreamFrame(number, 8))
            await client.flush()
            await asyncio.sleep(0)
            if client.closed:
                break


async def test_calls_that_are_reset_once_their_request_is_there(server) -> None:
    body = message(request("m", x=X).SerializeToString())
    async with harmless(server), dial(server) as client:
        for _ in range(100):
            for _ in range(50):
                number = client.open(PREDICT)
                client.frame(DataFrame(number, body, flags=["END_STREAM"]))
                client.frame(RstStreamFrame(number, 8))
            await client.flush()
            await asyncio.sleep(0)
            if client.closed:
                break


@pytest.mark.parametrize("piece", [bytes(16_000), b"\x00\x01a\x01b" * 3000, b""], ids=["zeros", "fields", "nothing"])
async def test_headers_that_go_on_for_ever(server, piece) -> None:
    total = 150 * MIB if piece else 20 * MIB
    async with harmless(server), dial(server) as client:
        sent = await continuations(client, total, piece)
        await client.end()  # by its size, or by `limits.header_timeout_s`
    assert sent < total or not piece


async def test_one_header_of_150_mb(server) -> None:
    # A literal field with a new name: "a", and a value that says it has 150 MB.
    start = b"\x00\x01a" + b"\x7f" + _varint(150_000_000 - 127)
    async with harmless(server), dial(server) as client:
        frame = HeadersFrame(1, start.ljust(16_000, b"v"))
        client.frame(frame)
        sent = await continuations(client, 150_000_000, b"v" * 16_000)
    assert sent < 150_000_000


async def test_headers_that_grow_when_they_are_unpacked(server) -> None:
    """A field of 4,000 bytes is put in the table once, and named 15,000 times in each block."""
    entry = b"\x40\x01a\x7f" + _varint(4000 - 127) + b"v" * 4000
    async with harmless(server), dial(server) as client:
        for _ in range(50):
            pseudo = ((":method", "POST"), (":scheme", "http"), (":path", PREDICT), (":authority", "a"))
            client.open_block(client.encode([*pseudo, *CALL]) + entry + b"\xbe" * 10_000, end=True)
            await client.flush()
            if client.closed:
                break
        await client.ping()


@pytest.mark.parametrize(
    "frame",
    [
        SettingsFrame(0, settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 1}),
        SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 1 << 31}),
        PingFrame(0, b"12345678"),
        WindowUpdateFrame(0, window_increment=1),
    ],
    ids=["SETTINGS", "SETTINGS of a large table", "PING", "WINDOW_UPDATE"],
)
async def test_frames_that_the_server_has_to_answer_while_nobody_reads(server, frame) -> None:
    async with harmless(server), dial(server) as client:
        client.stop_reading()
        try:
            async with asyncio.timeout(5):  # a server that waits for the reader takes no more: that is well, too
                await flood(client, frame.serialize() * 1000, 400)
        except TimeoutError:
            pass


async def test_empty_data_without_an_end(server) -> None:
    async with harmless(server), dial(server) as client:
        number = client.open(PREDICT)
        await flood(client, DataFrame(number, b"").serialize() * 1000, 300)


async def test_a_window_beyond_its_bound_ends_what_it_belongs_to(server) -> None:
    async with harmless(server), dial(server) as client:
        number = client.open(PREDICT)
        for _ in range(3):
            client.frame(WindowUpdateFrame(number, window_increment=(1 << 31) - 1))
        assert (await client.answer(number)).reset in (3, None)  # FLOW_CONTROL_ERROR, or by GOAWAY
    async with harmless(server), dial(server) as client:
        for _ in range(3):
            client.frame(WindowUpdateFrame(0, window_increment=(1 << 31) - 1))
        await client.end()
        assert client.goaway is not None
        assert client.goaway.error_code == 3


async def test_answers_that_nobody_takes(server) -> None:
    """Answers of 1 MB each, to a client whose window is closed."""
    body = message(request("wide", x=np.zeros((65_536, 4), np.float32)).SerializeToString())
    async with harmless(server, 100 * 4 + SMALL), dial(server, window=0) as client:
        for _ in range(100):
            number = client.open(PREDICT)
            await client.send(number, body, end=True)
        await client.ping()
    async with harmless(server):
        pass


async def test_answers_that_are_taken_byte_by_byte(server) -> None:
    body = message(request("wide", x=np.zeros((4096, 4), np.float32)).SerializeToString())
    async with harmless(server), dial(server, window=1, release_memory=False) as client:
        numbers = [client.open(PREDICT) for _ in range(20)]
        for number in numbers:
            await client.send(number, body, end=True)
        for _ in range(500):
            for number in numbers:
                client.frame(WindowUpdateFrame(number, window_increment=1))
                client.frame(WindowUpdateFrame(0, window_increment=1))
            await client.flush()
            await asyncio.sleep(0)


async def test_bodies_that_never_end(server, resident) -> None:
    """24 requests of 60 MB, each less its last byte."""
    size = 60_000_000
    start = b"\0" + size.to_bytes(4, "big") + bytes(size - 1)

    async def send(client: Http2Client) -> None:
        number = client.open(PREDICT)
        await client.send(number, start)

    async with harmless(server, BODIES, resident):
        clients = [dial(server) for _ in range(24)]
        opened = [await client.__aenter__() for client in clients]
        try:
            tasks = [asyncio.create_task(send(client)) for client in opened]
            await asyncio.wait(tasks, timeout=15)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for client in clients:
                await client.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "message",
    [b"", PREFACE[:10], PREFACE, PREFACE + SettingsFrame(0).serialize()],
    ids=["nothing", "half", "hello", "idle"],
)
async def test_connections_that_say_no_more(server, message) -> None:
    count = min(3000, FILES // 6)
    async with harmless(server, 160):
        opened = await half_open(server.grpc, count, message)
        async with dial(server) as client:
            await client.ping()
        abort(opened)


async def test_ten_thousand_calls_at_once_on_one_connection(server) -> None:
    async with harmless(server, 256), grpc.aio.insecure_channel(server.grpc) as channel:
        stub = PredictionServiceStub(channel)

        async def one() -> str:
            try:
                await stub.Predict(request("m", x=X), timeout=100)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        codes = Counter(await asyncio.gather(*(one() for _ in range(10_000))))
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert codes["OK"]


async def test_more_streams_than_the_server_allows_are_refused_and_may_be_tried_again(server) -> None:
    async with harmless(server), dial(server) as client:
        allowed = client.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
        assert allowed == 100
        numbers = [client.open(PREDICT) for _ in range(allowed + 50)]
        refused = [(await client.answer(number)).reset for number in numbers[allowed:]]
        assert set(refused) == {7}  # REFUSED_STREAM: nothing of it was done
        body = message(request("m", x=X).SerializeToString())
        for number in numbers[:allowed]:
            await client.send(number, body, end=True)
        assert {(await client.answer(number)).grpc_status for number in numbers[:allowed]} == {0}


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        PREFACE + SettingsFrame(0).serialize() + DataFrame(7, b"x").serialize(),
        PREFACE + SettingsFrame(0).serialize() + HeadersFrame(2, b"\x82", flags=["END_HEADERS"]).serialize(),
        PREFACE + SettingsFrame(0).serialize() + HeadersFrame(1, b"\xff" * 50, flags=["END_HEADERS"]).serialize(),
        PREFACE + PingFrame(0, b"12345678").serialize(),
    ],
    ids=["HTTP/1.1", "TLS", "a frame of 16 MiB", "data of no stream", "an even stream", "no HPACK", "PING first"],
)
async def test_what_is_no_http2_is_closed(server, wrong) -> None:
    host, _, port = server.grpc.rpartition(":")

    async def say() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(wrong)
        async with asyncio.timeout(BOUND):
            await reader.read()
        writer.close()

    async with harmless(server):
        await asyncio.gather(*(say() for _ in range(20)))


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /livez HTTP/1.1\r\nx: ", bytes([ord("v")]) * 65_536),
        (b"GET /livez HTTP/1.1\r\n", b"x: v\r\n" * 10_000),
        (b"GET /", b"v" * 65_536),
        (b"", b"\r\n" * 32_768),
        (b"POST /predict/m HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x" * 65_536),
    ],
    ids=["one header", "headers", "a path", "lines of nothing", "a chunk's extension"],
)
async def test_http_heads_that_go_on_for_ever(server, start, piece) -> None:
    host, _, port = server.http.rpartition(":")
    async with harmless(server):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(start)
        sent = 0
        try:
            async with asyncio.timeout(BOUND):
                while sent < 150_000_000:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                    sent += len(piece)
        except ConnectionError:
            pass
        abort([writer])
    assert sent < 150_000_000


@pytest.mark.parametrize("path", ["/predict/m", "/v2/models/m/infer"])
async def test_http_bodies_that_never_end(server, resident, path) -> None:
    """24 requests of 60 MB, each less its last byte."""
    host, _, port = server.http.rpartition(":")

    async def send(writer: asyncio.StreamWriter) -> None:
        piece = b" " * (1 << 20)
        for at in range(0, 60_000_000 - len(piece), len(piece)):
            writer.write(piece if at + len(piece) < 60_000_000 else piece[:-1])
            await writer.drain()

    async with harmless(server, BODIES, resident):
        opened = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(24)]
        for writer in opened:
            writer.write(b"POST %s HTTP/1.1\r\nhost: %s\r\n" % (path.encode(), server.http.encode()))
            writer.write(b"content-type: application/json\r\ncontent-length: 60000000\r\n\r\n")
        tasks = [asyncio.create_task(send(writer)) for writer in opened]
        await asyncio.wait(tasks, timeout=15)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        abort(opened)


@pytest.mark.parametrize(
    "message",
    [b"", b"GET /liv", b"POST /predict/m HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"],
    ids=["nothing", "half a line", "half a body"],
)
async def test_http_connections_that_say_no_more(server, message) -> None:
    async with harmless(server, 160), httpx.AsyncClient(base_url=f"http://{server.http}", timeout=PATIENCE) as client:
        opened = await half_open(server.http, min(3000, FILES // 6), message)
        assert (await client.get("/livez")).status_code == 200
        abort(opened)


def _varint(rest: int) -> bytes:
    """Returns the bytes that follow a full prefix in HPACK's form of an integer."""
    out = bytearray()
    while rest >= 128:
        out.append(rest % 128 | 128)
        rest //= 128
    return bytes([*out, rest])
