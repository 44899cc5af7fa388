"""Encoding and decoding of gRPC's headers and trailers: timeouts, metadata and status messages."""

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import quote

from turnout.rpc.transport.port import Metadata

Headers = Iterable[tuple[bytes, bytes]]
"""Pairs of a lowercase header name and a value."""

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_TIMEOUT_DIGITS = 18
"""Maximum number of digits in a timeout. The specification allows 8, but gRPC's own servers accept more, so clients may
send more."""

_TRANSPORT = frozenset(
    (b"content-type", b"te", b"host", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-message-type")
)
"""Headers of the transport, which are not metadata."""

_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
"""Characters that are not percent-encoded in a status message."""

_OUTER_SPACES = re.compile(r"\A +| +\Z")


def parse_timeout(value: bytes) -> float:
    """Returns the value of a `grpc-timeout` header in seconds.

    Raises:
        ValueError: The value does not consist of digits and a unit.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        raise ValueError("expected a grpc-timeout of digits and a unit of H, M, S, m, u or n")
    return int(digits) * unit


def read_metadata(headers: Headers) -> Metadata:
    """Returns the metadata contained in a request's headers.

    Raises:
        ValueError: A value of a key that ends in `-bin` is not base64.
    """
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name in _TRANSPORT:
            continue
        key = name.decode("latin-1")
        if key.endswith("-bin"):
            pairs.extend((key, _decoded(key, part)) for part in value.split(b","))
        else:
            pairs.append((key, value.decode("latin-1")))
    return pairs


def write_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Converts metadata to headers. Raises UnicodeEncodeError if a key or a `str` value is not ASCII."""
    return [(key.encode("ascii"), _encoded(value)) for key, value in metadata]


def percent_encode(message: str) -> bytes:
    """Percent-encodes a status message for the `grpc-message` header.

    Leading and trailing spaces, which HTTP/2 forbids, are encoded as well. They occur if a message is cut to its
    maximum length, or if it repeats a client's input.
    """
    text = quote(message, safe=_PLAIN, errors="replace")
    return _OUTER_SPACES.sub(lambda spaces: "%20" * len(spaces[0]), text).encode("ascii")


def _encoded(value: str | bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode("ascii")


def _decoded(key: str, value: bytes) -> bytes:
    value = value.strip(b" \t").rstrip(b"=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"expected base64 in the metadata {key[:64]!r}") from None
