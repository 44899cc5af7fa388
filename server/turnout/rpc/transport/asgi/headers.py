"""gRPC's headers and trailers: timeouts, metadata, messages of a status."""

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import quote

from turnout.rpc.transport.port import Metadata

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_TIMEOUT_DIGITS = 18
"""Most digits of a timeout: gRPC allows eight, but its own server accepts more, so clients may send more."""

_TRANSPORT = frozenset(
    (b"content-type", b"te", b"host", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-message-type")
)
"""Headers of the transport itself: no metadata."""

_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
"""Characters that are not encoded in a status message."""

_OUTER_SPACES = re.compile(r"\A +| +\Z")


def parse_timeout(value: bytes) -> float:
    """Returns the seconds of a `grpc-timeout`.

    Raises:
        ValueError: It is not digits and a unit.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        raise ValueError("expected a grpc-timeout of digits and a unit of H, M, S, m, u or n")
    return int(digits) * unit


def read_metadata(headers: Headers) -> Metadata:
    """Returns the metadata that the client sent.

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
    """Returns metadata as headers.

    Raises:
        UnicodeEncodeError: A key, or a value that is `str`, is not ASCII.
    """
    return [(key.encode("ascii"), _encoded(value)) for key, value in metadata]


def percent_encode(message: str) -> bytes:
    """Encodes a status message for `grpc-message`; spaces at its ends, which HTTP/2 forbids, are encoded, too.

    A message that is cut to its greatest length may well end in a space, and so may one that tells what a client sent.
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
