"""Reads untrusted `.npz` archives: nothing in them is executed, and memory is bounded beforehand.

Statements in an archive are checked before they are used: each array's header is read separately, and no array is
created before the total size is known to be within bounds. NumPy's own reader allocates whatever a header says.
"""

import errno
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from turnout.registry.storage.files import explain, open_outside

MAX_ARRAYS = 1024
MAX_RANK = 32
"""Maximum rank of arrays in NumPy 1."""

_SUFFIX = ".npy"
_END, _ZIP64_END = b"PK\x05\x06", b"PK\x06\x07"
_END_SIZE, _LOCATOR_SIZE, _MAX_COMMENT = 22, 20, 0xFFFF
_MAX_ENTRY = 1 << 10
"""Maximum mean size of an entry in an archive's directory in bytes: 46 bytes plus its name."""

_MAX_HEADER = 1 << 14
_ENCRYPTED = 0x1
_METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "deflated",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
}
_READABLE_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_OF_HEADERS = (
    ValueError,
    TypeError,
    SyntaxError,
    MemoryError,
    RecursionError,
    OverflowError,
    AttributeError,
    tokenize.TokenError,
)
"""Exceptions that NumPy raises for headers, which it parses as Python literals, including those of Python 2."""

_TEXT_COST = 64
"""Size in bytes of a short Python string, which is what an element of text becomes."""

_CHUNK = 1 << 20


class NpzError(ValueError):
    """Raised when an archive cannot be read. The message is a phrase that follows the file's name."""


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """The header of an array in an archive.

    Attributes:
        dtype: Element type; never Python objects, and without fields.
        fortran: Whether the first dimension varies fastest.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def cost(self) -> int:
        """Memory that the array takes, in bytes."""
        text = _TEXT_COST if self.dtype.kind in "US" else 0
        return self.count * max(self.dtype.itemsize + text, 1)


def read_npz(
    path: Path, max_bytes: int, wanted: Callable[[str], bool] = lambda _: True, *, max_arrays: int = MAX_ARRAYS
) -> tuple[Mapping[str, ArrayHeader], dict[str, NDArray[Any]]]:
    """Reads an archive. Returns the headers of all arrays, and the wanted arrays; text as object arrays of `str`.

    Args:
        path: A regular file. Links are followed.
        max_bytes: Maximum total size of the wanted arrays in bytes. Reading takes up to twice as much memory.
        wanted: Returns, for the name of an array, whether to read it. Of other arrays only the headers are read.
        max_arrays: Maximum number of arrays in the archive.

    Raises:
        NpzError: The archive cannot be read, contains something that is not a plain array, or exceeds a bound.
    """
    try:
        with open_outside(path) as file:
            _check_directory(file, max_arrays * _MAX_ENTRY)
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, max_arrays)
                headers: dict[str, ArrayHeader] = {}
                for name, member in members.items():
                    with archive.open(member) as stream:
                        headers[name] = _header(stream, name)
                chosen = [name for name in headers if wanted(name)]
                _check_sum({name: headers[name] for name in chosen}, max_bytes)
                return headers, {name: _read(archive, members[name], name, headers[name]) for name in chosen}
    except OSError as error:
        if error.errno == errno.EINVAL:  # a directory that points before the beginning of the file
            raise NpzError("is not a valid .npz archive") from error
        raise NpzError(explain(error)) from error
    # Errors that zipfile raises for archives with false statements, depending on where these are.
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
        raise NpzError(f"is not a valid .npz archive ({_words(error)})") from error


def _check_directory(file: BinaryIO, most: int) -> None:
    """Checks the size of the archive's directory, which zipfile would read in full."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END_SIZE - _MAX_COMMENT - _LOCATOR_SIZE, 0))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise NpzError("is not an .npz archive")
    if tail[max(at - _LOCATOR_SIZE, 0) : at].startswith(_ZIP64_END):
        raise NpzError("is a ZIP64 archive, which only more than 4 GiB or 65,535 arrays need")
    (directory,) = struct.unpack_from("<I", tail, at + 12)
    if directory > most:
        raise NpzError(f"has a directory of {directory:,} bytes, at most {most:,} are allowed")


def _members(archive: zipfile.ZipFile, most: int) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    if len(entries) > most:
        raise NpzError(f"holds {len(entries):,} arrays, at most {most:,} are allowed")
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.removesuffix(_SUFFIX)
        if name == entry.filename:
            raise NpzError(f"holds {entry.filename[:128]!r}, which is not an .npy array")
        if name in members:
            raise NpzError(f"holds {name[:128]!r} twice")
        if entry.flag_bits & _ENCRYPTED:
            raise NpzError("is encrypted, so that it could not be run without its password")
        if entry.compress_type not in _READABLE_METHODS:
            method = _METHODS.get(entry.compress_type, "unknown")
            raise NpzError(
                f"holds {name[:128]!r} compressed by method {entry.compress_type} ({method}), expected stored or"
                " deflated, as numpy.savez and numpy.savez_compressed write them"
            )
        members[name] = entry
    return members


def _header(stream: IO[bytes], name: str) -> ArrayHeader:
    """Reads an array's header, and leaves the stream at the beginning of its data."""
    what = f"holds {name[:128]!r},"
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        raise NpzError(f"{what} which is not an .npy array") from error
    # NumPy would read as many bytes as the length says before it checks the length.
    width = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}.get(version)
    if width is None:
        raise NpzError(f"{what} a .npy array of the unknown version {version[0]}.{version[1]}")
    prefix = stream.read(struct.calcsize(width))
    (length,) = struct.unpack(width, prefix)
    if length > _MAX_HEADER:
        raise NpzError(f"{what} whose header has {length:,} bytes, at most {_MAX_HEADER:,} are allowed")
    text = stream.read(length)
    read = np.lib.format.read_array_header_1_0 if width == "<H" else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(prefix + text), max_header_size=_MAX_HEADER)
    # NumPy evaluates the header as a literal, and creates a dtype from any value in it.
    except _OF_HEADERS as error:
        raise NpzError(f"{what} whose header cannot be read") from error
    if dtype.hasobject:
        raise NpzError(f"{what} an array of pickled Python objects; store text as NumPy's own strings (dtype U)")
    if dtype.fields is not None or dtype.subdtype is not None:
        raise NpzError(f"{what} an array with fields, expected one of plain elements")
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise NpzError(f"{what} an array of shape {str(list(shape))[:128]}, which no array has")
    return ArrayHeader(dtype, tuple(int(size) for size in shape), bool(fortran))


def _check_sum(headers: Mapping[str, ArrayHeader], max_bytes: int) -> None:
    total = 0
    for name, header in headers.items():
        total += header.cost
        if total > max_bytes:
            shape, mib = str(list(header.shape))[:128], max_bytes >> 20
            raise NpzError(
                f"holds more than {mib:,} MiB: {name[:128]!r} alone has {header.count:,} elements of {header.dtype},"
                f" shape {shape}"
                if header.cost > max_bytes
                else f"holds more than {mib:,} MiB of arrays"
            )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, header: ArrayHeader) -> NDArray[Any]:
    size = header.count * header.dtype.itemsize
    if size > member.file_size:
        raise NpzError(
            f"holds {name[:128]!r}, which ends early: {header.count:,} elements of {header.dtype} have {size:,} bytes"
        )
    data = bytearray(size)
    with archive.open(member) as stream:
        if _header(stream, name) != header:
            raise NpzError("changed while it was read")
        view, at = memoryview(data), 0
        while at < size:
            piece = stream.read(min(size - at, _CHUNK))
            if not piece:
                raise NpzError(f"holds {name[:128]!r}, which ends early: {at:,} of {size:,} bytes are there")
            view[at : at + len(piece)] = piece
            at += len(piece)
        if stream.read(1):  # at the end of the data, this also verifies the checksum
            raise NpzError(f"holds {name[:128]!r}, which is longer than its header says")
    if header.dtype.kind == "U":
        _check_letters(np.frombuffer(data, np.dtype("u4").newbyteorder(header.dtype.byteorder)), name)
    try:
        flat = np.frombuffer(data, header.dtype) if size else np.empty(header.count, header.dtype)
        shaped = flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)
        if header.dtype.kind == "U":
            return shaped.astype(object)
        return shaped.astype(header.dtype.newbyteorder("="), order="C", copy=header.fortran)
    except (ValueError, OverflowError) as error:  # dimensions that NumPy does not support
        raise NpzError(f"holds {name[:128]!r}, which is not an array that NumPy supports") from error


def _check_letters(letters: NDArray[Any], name: str) -> None:
    """Checks that UTF-32 text contains only valid characters: Python fails on some others, or cannot encode them."""
    if np.any((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))):
        raise NpzError(f"holds {name[:128]!r}, text with characters that do not exist in Unicode")


def _words(error: Exception) -> str:
    text = str(error).split("\n")[0].strip().rstrip(".")
    return text[:128] if text and "/" not in text else type(error).__name__
