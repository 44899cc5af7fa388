"""Validates the names and bounds of shared memory regions, and of tensors in them. Pure."""

from turnout.errors import InvalidRequest
from turnout.oip.parameters import Place

_MOST_KEY_BYTES = 255

_SEMAPHORE = "sem."
"""File name prefix of POSIX semaphores, which are in the same directory as shared memory."""


def file_name(key: str) -> str:
    """Returns the file name of a POSIX shared memory segment. The result never contains a slash.

    Args:
        key: Name of the segment as for shm_open; the leading slash is optional.

    Raises:
        InvalidRequest: The name is invalid.
    """
    name = key.removeprefix("/")
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= _MOST_KEY_BYTES or "/" in name or "\0" in name or name in (".", "..") or not name.isprintable():
        raise InvalidRequest.at("key", "expected a name as of shm_open: / and 1 to 255 bytes without another slash")
    if name.startswith(_SEMAPHORE):
        raise InvalidRequest.at("key", "expected the name of shared memory, got that of a semaphore")
    return name


def check_extent(offset: int, size: int) -> None:
    """Checks that a region of `size` bytes can start at `offset`.

    Raises:
        InvalidRequest: The region is empty, or exceeds the maximum size of a file.
    """
    if size < 1:
        raise InvalidRequest.at("byte_size", f"expected 1 or more, got {size}")
    if offset < 0 or offset + size >= 2**63:
        raise InvalidRequest.at("offset", f"expected a place in a file, got {offset} + {size}")


def check_available(offset: int, size: int, available: int) -> None:
    """Checks that a region is within its segment of `available` bytes.

    Raises:
        InvalidRequest: The region extends beyond the segment.
    """
    if offset + size > available:
        raise InvalidRequest.at(
            "byte_size", f"expected a region within the {available} bytes of that memory, got {offset} + {size}"
        )


def check_within(place: Place, size: int, field: str) -> None:
    """Checks that a tensor is within its region of `size` bytes.

    Raises:
        InvalidRequest: The tensor extends beyond the region. The error names `field`.
    """
    if place.offset + place.size > size:
        expected = f"expected a place within the {size} bytes of region {place.region[:64]!r}"
        raise InvalidRequest.at(f"{field}.parameters", f"{expected}, got {place.offset} + {place.size}")
