"""What comes beside the bodies of HTTP requests is bounded, wherever it stands and whether or not it ever ends."""

import asyncio

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
