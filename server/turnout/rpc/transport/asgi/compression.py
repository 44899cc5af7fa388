"""Compression and decompression of gRPC messages."""

import zlib
from collections.abc import Mapping

from turnout.rpc.transport.asgi.framing import FramingError, MessageTooLarge

IDENTITY = b"identity"
"""The name of the encoding without compression."""

_WINDOWS: Mapping[bytes, int] = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}

ENCODINGS: tuple[bytes, ...] = (IDENTITY, *_WINDOWS)
"""Names of the encodings that are accepted in requests."""

ENCODING_NAMES = b", ".join(ENCODINGS).decode()
"""The value of the `grpc-accept-encoding` header."""

_LEVEL = 1
"""Compression level of responses. Float tensors hardly shrink, and zlib's default level 6 takes three times the CPU
time per byte."""


def decompress(message: bytes, encoding: bytes, limit: int) -> bytes:
    """Decompresses a message. Stops as soon as the output exceeds `limit` bytes.

    Args:
        message: The compressed message.
        encoding: The encoding that the call's headers declare.
        limit: Maximum size of the decompressed message in bytes.

    Raises:
        FramingError: The message is not in that encoding.
        MessageTooLarge: The decompressed message exceeds the limit.
    """
    window = _WINDOWS.get(encoding)
    if window is None:
        raise FramingError("expected no compressed message from a call without grpc-encoding")
    decompressor = zlib.decompressobj(window)
    try:
        plain = decompressor.decompress(message, limit + 1)
    except zlib.error:
        raise FramingError(f"expected a message in {encoding.decode()}") from None
    if len(plain) > limit:
        raise MessageTooLarge(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise FramingError(f"expected one whole message in {encoding.decode()}")
    return plain


def compress(message: bytes) -> bytes:
    """Compresses a message with gzip."""
    compressor = zlib.compressobj(_LEVEL, wbits=_WINDOWS[b"gzip"])
    return compressor.compress(message) + compressor.flush()


def accepts_gzip(header: bytes) -> bool:
    """Returns whether a `grpc-accept-encoding` header includes gzip."""
    return b"gzip" in header.replace(b" ", b"").split(b",")
