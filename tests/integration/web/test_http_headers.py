"""What comes beside the bodies of HTTP requests is bounded, wherever it stands and whether or not it ever ends."""

import asyncio
import gzip

import pytest

from onnx_models import scaled

MAX_HEADER_BYTES = 64 * 1024  # limits.max_header_bytes

MIB = 1 << 20
HEAD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /predict/m HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "request line": b"GET /" + b"a" * MIB,
    "one header": HEAD + b"Accept: " + b"a/b," * (MIB // 4),
    "a header's name": HEAD + b"a" * MIB,
    "many headers": HEAD + b"a: b\r\n" * (MIB // 6),
    "a chunk's extension": CHUNKED + b"1;" + b"a" * MIB,
    "trailers": CHUNKED + b"1\r\n{\r\n0\r\n" + b"a: b\r\n" * (MIB // 6),
    "after a whole request": HEAD + b"\r\n" + HEAD + b"Cookie: " + b"a=b;" * (MIB // 4),
}


async def exchange(server, data: bytes) -> bytes:
    """Sends, and returns what came until the server closed the connection."""
    reader, writer = await asyncio.open_connection(server.http.host, server.http.port)
    received = bytearray()

    async def receive() -> None:
        try:
            while piece := await reader.read(65536):
                received.extend(piece)
        except ConnectionError:
            pass

    receiving = asyncio.ensure_future(receive())
    try:
        for start in range(0, len(data), 16384):
            writer.write(data[start : start + 16384])
            await writer.drain()
    except ConnectionError:
        pass  # closed meanwhile
    await asyncio.wait_for(receiving, 60)
    writer.close()
    return bytes(received)


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
async def test_what_never_ends_is_cut_off(publish_model, start_server, data) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    await exchange(server, data)


async def test_headers_that_are_too_long_are_told_so(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    answer = await exchange(server, HEAD + b"Accept: " + b"a" * MAX_HEADER_BYTES)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_headers_within_the_bound_are_taken_and_bodies_may_be_longer(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    body = b'{"inputs": {"x": [[1, 2, 3, 4]]}}' + b" " * (4 * MAX_HEADER_BYTES)
    head = b"POST /predict/m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"x" * (MAX_HEADER_BYTES // 2)
    plain = head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert (await exchange(server, plain)).startswith(b"HTTP/1.1 200 ")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:33], body[33:])) + b"0\r\na: b\r\n\r\n"
    assert (await exchange(server, head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)).startswith(
        b"HTTP/1.1 200 "
    )


PLAIN = b'{"inputs": {"x": [[1, 2, 3, 4]]}}'
BINARY = (
    b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}',
    bytes(16),
)


@pytest.mark.parametrize(
    ("encodings", "status"),
    [
        ((b"gzip",), 200),
        ((b"X-Gzip",), 200),
        ((b"gzip, identity",), 200),
        ((b"", b"gzip"), 200),
        ((b"gzip, gzip",), 400),
        ((b"gzip", b"gzip"), 400),
        ((b"gzip", b"br"), 400),
        ((b"identity", b"br"), 400),
    ],
)
async def test_the_encoding_of_a_body_is_what_all_its_headers_say(
    publish_model, start_server, encodings, status
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    body = gzip.compress(PLAIN)
    answer = await post(server, b"/predict/m", body, *(b"content-encoding: " + one for one in encodings))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"header content-encoding: expected gzip or deflate" in answer) == (status == 400)


@pytest.mark.parametrize("encoding", [b"", b"identity", b"identity, identity"])
async def test_a_body_in_no_encoding_is_read_as_it_is(publish_model, start_server, encoding) -> None:
    publish_model("m", "1.0.0", scaled(2))
    answer = await post(await start_server(), b"/predict/m", PLAIN, b"content-encoding: " + encoding)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("lengths", "status"), [((0,), 200), ((0, 0), 400), ((0, 1), 400), ((1, 0), 400)])
async def test_one_header_says_where_the_binary_part_begins(publish_model, start_server, lengths, status) -> None:
    publish_model("m", "1.0.0", scaled(2))
    named = (b"inference-header-content-length: %d" % (len(BINARY[0]) + more) for more in lengths)
    answer = await post(await start_server(), b"/v2/models/m/infer", b"".join(BINARY), *named)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def post(server, path: bytes, body: bytes, *headers: bytes) -> bytes:
    """Sends a body with headers as they are, and returns the answer."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    return await exchange(server, head + b"".join(one + b"\r\n" for one in headers) + b"\r\n" + body)
