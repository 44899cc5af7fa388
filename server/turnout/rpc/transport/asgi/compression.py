"""The compression of gRPC messages."""

import zlib
from collections.abc import Mapping

from turnout.rpc.transport.asgi.framing import FramingError, MessageTooLarge

IDENTITY = b"identity"
"""What a message that is not compressed is called."""

_WINDOWS: Mapping[bytes, int] = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}

ENCODINGS: tuple[bytes, ...] = (IDENTITY, *_WINDOWS)
"""Those that requests may be in."""

ENCODING_NAMES = b", ".join(ENCODINGS).decode()
"""As `grpc-accept-encoding` lists them."""

_LEVEL = 1
"""Of what is sent: tensors of floats hardly get smaller, and at zlib's own level 6 a byte costs three times the CPU."""


def decompress(message: bytes, encoding: bytes, limit: int) -> bytes:
    """Returns a message, decompressed. No more than `limit` bytes are ever produced.

    Args:
        message: As it came.
        encoding: What its call says it is in.
        limit: Most bytes that it may have when it is decompressed.

    Raises:
        FramingError: It is not so encoded.
        MessageTooLarge: It has more bytes.
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
    """Returns a message in gzip."""
    compressor = zlib.compressobj(_LEVEL, wbits=_WINDOWS[b"gzip"])
    return compressor.compress(message) + compressor.flush()


def accepts_gzip(header: bytes) -> bool:
    """Tells whether a call's `grpc-accept-encoding` names gzip."""
    return b"gzip" in header.replace(b" ", b"").split(b",")
