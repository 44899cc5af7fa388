"""Bodies of requests, received within a bound, compressed or not."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from turnout.admission import ReceiveBudget
from turnout.errors import InvalidRequest
from turnout.web.json_body import SMALL_BYTES

_LENGTH_DIGITS = 19
"""Of a content-length that are looked at: no limit has more."""

_WINDOWS: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A body as it came.

    Attributes:
        parts: Of it.
        size: Bytes of all.
        encoding: Name of the compression; `identity` for none.
        max_bytes: Largest that it may be when it is decompressed.
    """

    parts: Sequence[bytes]
    size: int
    encoding: str
    max_bytes: int

    @property
    def heavy(self) -> bool:
        """Whether it is to be read in a thread."""
        return self.size > SMALL_BYTES or self.encoding != "identity"

    def plain(self) -> bytes:
        """Returns it whole, decompressed.

        Raises:
            InvalidRequest: It is too large, or not encoded as it says.
        """
        whole = b"".join(self.parts)
        return whole if self.encoding == "identity" else _decompressed(whole, self.encoding, self.max_bytes)


@dataclass(frozen=True, slots=True)
class BodyReceiver:
    """Receives bodies.

    Attributes:
        max_bytes: Bound on each, as it comes and when it is decompressed.
        budget: Bounds what has come of all that are not whole.
    """

    max_bytes: int
    budget: ReceiveBudget

    async def receive(self, request: Request) -> RequestBody:
        """Returns the body of a request, which has not been read.

        Raises:
            InvalidRequest: It is, or says that it will be, too large; or it is in an encoding that is not known.
            Exhausted: Unfinished bodies hold as much as they may.
            ClientDisconnect: It never came whole.
        """
        headers, max_bytes = request.headers, self.max_bytes
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *_WINDOWS):
            raise InvalidRequest.at("header content-encoding", f"expected gzip or deflate, got {encoding[:64]!r}")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:_LENGTH_DIGITS]) > max_bytes:
            raise _too_large(max_bytes)
        parts: list[bytes] = []
        size = held = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if size > SMALL_BYTES:
                    self.budget.reserve(size - held)
                    held = size
                parts.append(part)
        finally:
            self.budget.release(held)
        return RequestBody(parts, size, encoding, max_bytes)


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
