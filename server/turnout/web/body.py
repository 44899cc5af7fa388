"""Receives request bodies, compressed or not, up to a maximum size."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from turnout.admission.requests import ReceiveBudget
from turnout.chunks import add_chunk
from turnout.decompression import WINDOWS, CompressionError, DecompressedTooLarge, decompress
from turnout.errors import InvalidRequest
from turnout.web.json_body import SMALL_BYTES

_LENGTH_DIGITS = 19
"""Number of digits of a content-length that are parsed. No limit has more."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A received body, not yet decompressed.

    Attributes:
        size: Total size of the parts, in bytes.
        encoding: Content encoding: `gzip`, `deflate` or `identity`.
        max_bytes: Maximum size after decompression, in bytes.
    """

    parts: Sequence[bytes]
    size: int
    encoding: str
    max_bytes: int

    @property
    def heavy(self) -> bool:
        """Whether to decode the body in a thread."""
        return self.size > SMALL_BYTES or self.encoding != "identity"

    def plain(self) -> bytes:
        """Returns the whole body, decompressed.

        Raises:
            InvalidRequest: The body is too large, or is not validly encoded.
        """
        whole = b"".join(self.parts)
        if self.encoding == "identity":
            return whole
        try:
            return decompress(whole, self.encoding, self.max_bytes)
        except CompressionError as error:
            raise InvalidRequest.at("body", str(error)) from None
        except DecompressedTooLarge:
            raise _too_large(self.max_bytes) from None


@dataclass(frozen=True, slots=True)
class BodyReceiver:
    """Receives bodies within limits.

    Attributes:
        max_bytes: Maximum size of a body, both as received and after decompression, in bytes.
        budget: Limits the total size of all partially received bodies.
    """

    max_bytes: int
    budget: ReceiveBudget

    async def receive(self, request: Request) -> RequestBody:
        """Receives the whole body of a request.

        Raises:
            InvalidRequest: The body or its content-length is too large, or its encoding is unknown.
            Exhausted: Partially received bodies together have reached the budget.
            ClientDisconnect: The client disconnected before the body was complete.
        """
        headers, max_bytes = request.headers, self.max_bytes
        encoding = _encoding(headers.getlist("content-encoding"))
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
                add_chunk(parts, part)
        finally:
            self.budget.release(held)
        return RequestBody(parts, size, encoding, max_bytes)


def _encoding(values: Sequence[str]) -> str:
    named = [name.strip().lower() for value in values for name in value.split(",")]
    codings = [name for name in named if name not in ("", "identity")] or ["identity"]
    encoding = "gzip" if codings == ["x-gzip"] else codings[0]
    if len(codings) > 1 or encoding not in ("identity", *WINDOWS):
        raise InvalidRequest.at("header content-encoding", f"expected gzip or deflate, got {', '.join(named)[:64]!r}")
    return encoding


def _too_large(max_bytes: int) -> InvalidRequest:
    return InvalidRequest.at("body", f"expected at most {max_bytes} bytes")
