"""What is on the wire of a call: framing, headers and trailers, and what is not a call at all."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2
from hyperframe.frame import RstStreamFrame

from carried import SERVICE, Carried, carried, limited
from http2_client import CALL, Http2Client
from turnout.rpc.transport.asgi.framing import PREFIX

ECHO = SERVICE + "Echo"


def framed(message: bytes, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, len(message)) + message


def with_header(name: str, value: str) -> tuple[tuple[str, str], ...]:
    return (*CALL, (name, value))


@pytest.fixture
async def server() -> AsyncIterator[Carried]:
    async with carried(message_seconds=20.0) as server:
        yield server


@pytest.fixture
async def client(server: Carried) -> AsyncIterator[Http2Client]:
    async with Http2Client(server.address.host, server.address.port) as client:
        yield client


async def test_an_answer_is_headers_a_message_and_trailers(client: Http2Client) -> None:
    answer = await client.call(ECHO, framed(b"hello"))
    assert answer.body == framed(b"hello")
    first, last = answer.blocks
    assert (first[":status"], first["content-type"]) == ("200", "application/grpc")
    assert last == {"grpc-status": "0"}


@pytest.mark.parametrize("method", ["Echo", "Prompt"])
async def test_a_message_may_come_byte_by_byte(client: Http2Client, method: str) -> None:
    stream = await client.begin(SERVICE + method)
    for byte in framed(b"slowly"):
        await client.send(stream, bytes([byte]))
    await client.send(stream, b"", end=True)
    assert (await client.answer(stream)).body == framed(b"slowly")


@pytest.mark.parametrize("method", ["Duplex", "DuplexTogether"])
async def test_messages_of_a_stream_may_be_cut_anywhere(client: Http2Client, method: str) -> None:
    stream = await client.begin(SERVICE + method)
    data = b"".join(framed(b"%d" % index * index) for index in range(40))
    for start in range(0, len(data), 7):
        await client.send(stream, data[start : start + 7])
    await client.send(stream, b"", end=True)
    answer = await client.answer(stream)
    assert (answer.body, answer.grpc_status) == (data, 0)


async def test_an_error_before_any_message_is_headers_alone(client: Http2Client) -> None:
    answer = await client.call(SERVICE + "Fail", framed(b""))
    (only,) = answer.blocks
    assert (answer.status, answer.grpc_status, answer.body) == (200, code_pb2.ABORTED, b"")
    assert only["grpc-message"] == "100 %25 gr%C3%BCn%0A"
    assert "=" not in only["grpc-status-details-bin"]


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"])
async def test_other_names_of_grpc_are_taken(client: Http2Client, content_type: str) -> None:
    headers = (("content-type", content_type), ("te", "trailers"))
    assert (await client.call(ECHO, framed(b"x"), headers)).body == framed(b"x")


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc+json", "application/grpc-web", ""])
async def test_another_content_type_is_415(client: Http2Client, content_type: str) -> None:
    headers = (("content-type", content_type), ("te", "trailers")) if content_type else (("te", "trailers"),)
    assert (await client.call(ECHO, framed(b"x"), headers)).status == 415


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_another_method_of_http_is_405(client: Http2Client, method: str) -> None:
    stream = await client.begin(ECHO, method=method, end=True)
    answer = await client.answer(stream)
    assert (answer.status, answer.blocks[0]["allow"]) == (405, "POST")


async def test_a_client_that_takes_no_trailers_is_told(client: Http2Client) -> None:
    answer = await client.call(ECHO, framed(b"x"), CALL[:1])
    assert (answer.grpc_status, answer.grpc_message) == (code_pb2.INTERNAL, "expected the header te: trailers")


async def test_a_call_over_http_1_is_answered_in_chunks(server: Carried) -> None:
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    body = framed(b"x")
    writer.write(
        f"POST {ECHO} HTTP/1.1\r\nhost: test\r\ncontent-type: application/grpc\r\nte: trailers\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n6\r\n" + body + b"\r\n0\r\ngrpc-status: 0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_an_unknown_encoding_is_unimplemented(client: Http2Client) -> None:
    answer = await client.call(ECHO, framed(b"x", 1), with_header("grpc-encoding", "snappy"))
    assert answer.grpc_status == code_pb2.UNIMPLEMENTED
    assert answer.blocks[0]["grpc-accept-encoding"] == "identity, gzip, deflate"
    assert "'snappy'" in answer.grpc_message


@pytest.mark.parametrize(
    ("body", "headers", "code", "message"),
    [
        (framed(b"x", 1), CALL, code_pb2.INTERNAL, "without grpc-encoding"),
        (framed(b"x", 1), with_header("grpc-encoding", "gzip"), code_pb2.INTERNAL, "one whole gzip"),
        (framed(b"x", 2), CALL, code_pb2.INTERNAL, "0 or 1"),
        (framed(b"xyz")[:-1], CALL, code_pb2.INTERNAL, "within a message"),
        (framed(b"xyz")[:3], CALL, code_pb2.INTERNAL, "within a message"),
        (b"", CALL, code_pb2.INTERNAL, "got none"),
        (framed(b"x") * 2, CALL, code_pb2.INTERNAL, "got more"),
        (framed(b"x"), with_header("grpc-timeout", "soon"), code_pb2.INTERNAL, "grpc-timeout"),
    ],
)
async def test_what_is_no_call_says_why(client: Http2Client, body: bytes, headers, code: int, message: str) -> None:
    answer = await client.call(ECHO, body, headers)
    assert answer.grpc_status == code
    assert message in answer.grpc_message


@pytest.mark.parametrize(
    "path", ["/", ECHO + "/", ECHO + "?x=1", ECHO.replace("Echo", "E%63ho"), ECHO.lower(), "//" + ECHO]
)
async def test_a_path_that_is_no_method_is_unimplemented(client: Http2Client, path: str) -> None:
    answer = await client.call(path, framed(b"x"))
    assert (answer.status, answer.grpc_status) == (200, code_pb2.UNIMPLEMENTED)


async def test_metadata_that_is_no_base64_is_refused(client: Http2Client) -> None:
    answer = await client.call(SERVICE + "Tell", framed(b""), with_header("k-bin", "?"))
    assert (answer.grpc_status, "'k-bin'" in answer.grpc_message) == (code_pb2.INVALID_ARGUMENT, True)


async def test_a_compressed_message_is_read(client: Http2Client) -> None:
    answer = await client.call(ECHO, framed(gzip.compress(b"x" * 9000), 1), with_header("grpc-encoding", "gzip"))
    assert answer.body == framed(b"x" * 9000)


async def test_a_gzip_message_may_have_several_members(client: Http2Client) -> None:
    members = gzip.compress(b"first, ") + gzip.compress(b"") + gzip.compress(b"x" * 9000)
    answer = await client.call(ECHO, framed(members, 1), with_header("grpc-encoding", "gzip"))
    assert answer.body == framed(b"first, " + b"x" * 9000)
    for wrong in (members[:-1], members + b"\0", gzip.compress(b"") * 3000):
        answer = await client.call(ECHO, framed(wrong, 1), with_header("grpc-encoding", "gzip"))
        assert (answer.grpc_status, "gzip" in answer.grpc_message) == (code_pb2.INTERNAL, True)


@pytest.mark.parametrize("method", ["Duplex", "DuplexTogether"])
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (PREFIX.pack(0, (4 << 20) + 1), code_pb2.RESOURCE_EXHAUSTED),
        (framed(b"x", 2), code_pb2.INTERNAL),
        (framed(b"x", 1), code_pb2.INTERNAL),
        (framed(b"xyz")[:-1], code_pb2.INTERNAL),
    ],
    ids=["too large", "no frame", "compressed", "cut"],
)
async def test_what_came_before_a_wrong_message_is_answered(
    client: Http2Client, method: str, wrong: bytes, code: int
) -> None:
    right = framed(b"one") + framed(b"two") + framed(b"three")
    answer = await client.call(SERVICE + method, right + wrong)
    assert (answer.body, answer.grpc_status) == (right, code)


@pytest.mark.parametrize("method", ["Echo", "Prompt", "Duplex", "DuplexTogether"])
async def test_a_prefix_alone_has_a_message_refused_that_is_too_large(client: Http2Client, method: str) -> None:
    stream = await client.begin(SERVICE + method)
    await client.send(stream, PREFIX.pack(0, (4 << 20) + 1))
    answer = await client.answer(stream)
    assert answer.grpc_status == code_pb2.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Sleep", "PromptSleep"])
@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
async def test_the_server_ends_a_call_whose_deadline_passed(
    server: Carried, client: Http2Client, method: str, content_type: str
) -> None:
    headers = [(name, content_type if name == "content-type" else value) for name, value in CALL]
    answer = await client.call(SERVICE + method, framed(b""), (*headers, ("grpc-timeout", "500m")))
    assert answer.grpc_status == code_pb2.DEADLINE_EXCEEDED
    assert server.seen.cancelled.is_set()


async def test_the_server_ends_a_stream_whose_deadline_passed(client: Http2Client) -> None:
    stream = await client.begin(SERVICE + "Watch", with_header("grpc-timeout", "500m"))
    answer = await client.answer(stream)
    assert (answer.body, answer.grpc_status) == (framed(b"begun"), code_pb2.DEADLINE_EXCEEDED)


async def test_a_method_is_to_end_a_little_before_its_client_gives_up(client: Http2Client) -> None:
    for seconds, early in ((1.0, 0.01), (0.1, 0.005)):
        sent = time.monotonic()
        answer = await client.call(SERVICE + "Tell", framed(b""), with_header("grpc-timeout", f"{seconds * 1000:.0f}m"))
        deadline = eval(answer.body[5:])[2]
        assert sent + seconds - early <= deadline <= time.monotonic() + seconds - early


async def test_deadlines_pass_in_their_order(client: Http2Client) -> None:
    late = await client.begin(SERVICE + "Watch", with_header("grpc-timeout", "4S"))
    early = await client.begin(SERVICE + "Watch", with_header("grpc-timeout", "500m"))
    never = await client.begin(SERVICE + "Watch", with_header("grpc-timeout", "1H"))
    assert (await client.answer(early)).grpc_status == code_pb2.DEADLINE_EXCEEDED
    assert not client.answers[late].ended
    assert (await client.answer(late)).grpc_status == code_pb2.DEADLINE_EXCEEDED
    assert not client.answers[never].ended


@pytest.mark.parametrize("method", ["Echo", "Prompt", "Duplex"])
async def test_a_message_that_does_not_go_on_is_given_up(method: str) -> None:
    settings = limited(body_timeout_s=0.2)  # as `limits.body_timeout_s` sets both
    async with (
        carried(message_seconds=0.2, settings=settings) as server,
        Http2Client(server.address.host, server.address.port) as client,
    ):
        stream = await client.begin(SERVICE + method)
        await client.send(stream, framed(b"x" * 100)[:50])
        answer = await client.answer(stream)
        assert answer.grpc_status == code_pb2.DEADLINE_EXCEEDED
        assert "limits.body_timeout_s" in answer.grpc_message
        assert server.budget.held == 0


async def test_a_stream_may_be_silent_between_its_messages() -> None:
    async with carried(message_seconds=0.2) as server, Http2Client(server.address.host, server.address.port) as client:
        stream = await client.begin(SERVICE + "Duplex")
        await client.send(stream, framed(b"a"))
        await asyncio.sleep(0.5)  # more than a message may pause
        await client.send(stream, framed(b"b"), end=True)
        assert (await client.answer(stream)).body == framed(b"a") + framed(b"b")


async def test_unfinished_messages_share_a_budget() -> None:
    async with (
        carried(max_unfinished_bytes=200_000) as server,
        Http2Client(server.address.host, server.address.port) as client,
    ):
        streams = [await client.begin(SERVICE + method) for method in ("Echo", "Duplex", "Echo")]
        for held, stream in zip((90_000, 180_000, 180_000), streams, strict=True):
            await client.send(stream, PREFIX.pack(0, 1 << 20) + bytes(90_000))
            async with asyncio.timeout(100):
                while server.budget.held != held:
                    await asyncio.sleep(0.01)
        refused = await client.answer(streams[2])
        assert (refused.grpc_status, "limits.max_unfinished_bytes" in refused.grpc_message) == (
            code_pb2.RESOURCE_EXHAUSTED,
            True,
        )
        assert (await client.call(ECHO, framed(b"x"))).grpc_status == 0  # what comes whole needs none of it
        held = server.budget.held
        client.frame(RstStreamFrame(streams[0], 8))
        await client.flush()
        async with asyncio.timeout(100):
            while server.budget.held == held:
                await asyncio.sleep(0.01)
        assert server.budget.held == 90_000


async def test_what_is_no_call_goes_to_the_other_application() -> None:
    async def other(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with carried(fallback=other) as server, Http2Client(server.address.host, server.address.port) as client:
        stream = await client.begin("/livez", (), method="GET", end=True)
        assert (await client.answer(stream)).body == b"/livez"
        assert (await client.call(ECHO, framed(b"x"))).body == framed(b"x")
        unknown = await client.call("/no.Service/Method", framed(b"x"))
        assert unknown.grpc_status == code_pb2.UNIMPLEMENTED
