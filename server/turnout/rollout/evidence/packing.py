"""Exact text encoding of columns of numbers, for records that contain thousands of them. Pure.

The encoding is Base64 of the compressed little-endian bytes. Integers are stored as unsigned 32-bit numbers, others as
single-precision floats, to which they must be rounded beforehand.
"""

import zlib
from base64 import b64decode, b64encode

import numpy as np
from numpy.typing import NDArray

_WHOLE, _FLOAT = "<u4", "<f4"

_MOST_BYTES = 1 << 20
"""Maximum size of all columns of a record in bytes. 512 slot groups take 20 kB; 1,024 slots and eight metrics 40 kB."""


def packed(*columns: NDArray[np.int64] | NDArray[np.float64]) -> str:
    """Encodes columns of equal length as text. Raises ValueError if a number does not fit."""
    parts = [np.asarray(one, _WHOLE if one.dtype.kind in "iu" else _FLOAT) for one in columns]
    if not all(np.array_equal(part, one) for part, one in zip(parts, columns, strict=True)):
        raise ValueError("expected whole numbers below 2^32, and single floats")
    return b64encode(zlib.compress(b"".join(part.tobytes() for part in parts), 1)).decode()


def unpacked(text: str, kinds: str) -> list[NDArray[np.float64]]:
    """Decodes the output of `packed`; `kinds` has the type of each column, `i` or `f`.

    Raises:
        ValueError: The text does not contain such columns.
    """
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(b64decode(text, validate=True), _MOST_BYTES)
    except (zlib.error, TypeError) as error:
        raise ValueError(f"expected base64 of compressed bytes: {error}") from None
    if not inflate.eof:
        raise ValueError(f"expected at most {_MOST_BYTES} compressed bytes, and all of them")
    length, rest = divmod(len(content), 4 * len(kinds))
    if rest:
        raise ValueError(f"expected {len(kinds)} columns of equal length")
    return [
        np.frombuffer(content, _WHOLE if kind == "i" else _FLOAT, length, 4 * length * number).astype(np.float64)
        for number, kind in enumerate(kinds)
    ]


def single(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns numbers rounded to single precision."""
    return numbers.astype(np.float32).astype(np.float64)
