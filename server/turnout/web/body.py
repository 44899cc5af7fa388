"""Bodies of requests, read within a bound, compressed or not."""

import zlib
from collections.abc import Mapping

from starlette.requests import Request

from turnout.errors import InvalidRequest

_WINDOWS: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Returns the body, decompressed where its Content-Encoding says that it is gzip or deflate.

    Args:
        request: Whose body has not been read.
        max_bytes: Bound on the body, as it came and as it is.

    Raises:
        InvalidRequest: It is larger, or not encoded as it says.
        ClientDisconnect: It never came whole.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", *_WINDOWS):
        raise InvalidRequest.at("header content-encoding", f"expected gzip or deflate, got {encoding[:64]!r}")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    body = b"".join(parts)
    return body if encoding == "identity" else _decompressed(body, encoding, max_bytes)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        raise InvalidRequest.at("body", f"expected {encoding}") from None
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidRequest.at("body", f"expected one whole {encoding} stream")
    return plain


def _too_large(max_bytes: int) -> InvalidRequest:
    return InvalidRequest.at("body", f"expected at most {max_bytes} bytes")
