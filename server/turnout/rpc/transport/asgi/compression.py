"""Compression and decompression of gRPC messages."""

import zlib

from turnout.decompression import WINDOWS, CompressionError, DecompressedTooLarge
from turnout.decompression import decompress as decompress_data
from turnout.rpc.transport.asgi.framing import too_large
from turnout.rpc.transport.asgi.statuses import INTERNAL, refusal

IDENTITY = b"identity"
"""The name of the encoding without compression."""

ENCODINGS: tuple[bytes, ...] = (IDENTITY, *(name.encode() for name in WINDOWS))
"""Names of the encodings that are accepted in requests."""

ENCODING_NAMES = b", ".join(ENCODINGS).decode()
"""The value of the `grpc-accept-encoding` header."""

_LEVEL = 1
"""Compression level of responses. Float tensors hardly shrink, and zlib's default level 6 takes three times the CPU
time per byte."""


def decompress(message: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompresses a message. Stops as soon as the output exceeds `limit` bytes.

    `encoding` is the one that the call's headers declare.

    Raises:
        StatusError: The message is not in that encoding, or exceeds the limit when it is decompressed.
    """
    if encoding == IDENTITY:
        raise refusal(INTERNAL, "expected no compressed message from a call without grpc-encoding")
    if not message:  # no encoding has such a message, but gRPC's own servers accept it as empty
        return message
    try:
        return decompress_data(message, encoding.decode(), limit)
    except CompressionError as error:
        raise refusal(INTERNAL, f"the message: {error}") from None
    except DecompressedTooLarge:
        raise too_large(limit) from None


def compress(message: bytes) -> bytes:
    """Compresses a message with gzip."""
    return zlib.compress(message, _LEVEL, wbits=WINDOWS["gzip"])


def accepts_gzip(header: bytes) -> bool:
    """Returns whether a `grpc-accept-encoding` header includes gzip."""
    return b"gzip" in header.replace(b" ", b"").split(b",")
