"""Archives of golden cases that lie, bomb, or hold what nobody may execute: told of in words, and cheap to refuse."""

import contextlib
import io
import resource
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from turnout.errors import InvalidModel
from turnout.registry.storage.golden import MAX_CASE_BYTES, case_names, first_case, read_case
from turnout.registry.storage.npz import NpzError, read_npz

_MIB = 1 << 20


def npy(shape: object, descr: object = "<f4", data: bytes = b"", *, fortran: bool = False, version: int = 1) -> bytes:
    """A .npy file that says what it is told to say."""
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}\n".encode()
    width = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(header)) + header + data


def archive(
    path: Path, members: "dict[str, bytes] | list[tuple[str, bytes]]", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            file.writestr(name, data)
    return path


def zeros_bomb(path: Path) -> Path:
    """Three GiB of zeros in three MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("inputs/x.npy", "w", force_zip64=True) as out,
    ):
        out.write(npy((1 << 28,)))
        for _ in range(64):
            out.write(bytes(1 << 20))  # the rest need not be there for its header to say so
    return path


def patched(data: bytes, of: bytes, at: int, fmt: str, value: int) -> bytes:
    """Overwrites a number in the record that begins with `of`, the last such."""
    where = data.rindex(of) + at
    return data[:where] + struct.pack(fmt, value) + data[where + struct.calcsize(fmt) :]


def with_patch(path: Path, of: bytes, at: int, fmt: str, value: int) -> Path:
    archive(path, {"inputs/x.npy": npy((2,), data=bytes(8))})
    path.write_bytes(patched(path.read_bytes(), of, at, fmt, value))
    return path


DIRECTORY, END = b"PK\x01\x02", b"PK\x05\x06"

HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "zeros that deflate to nothing": (
        zeros_bomb,
        r"holds more than 256 MiB: 'inputs/x' alone has 268,435,456 elements",
    ),
    "2**40 elements": (
        lambda p: archive(p, {"inputs/x.npy": npy((1 << 40,))}),
        "1,099,511,627,776 elements of float32",
    ),
    "2**40 elements of no size": (lambda p: archive(p, {"inputs/x.npy": npy((1 << 40,), "<U0")}), "more than 256 MiB"),
    "2**40 voids of no size": (lambda p: archive(p, {"inputs/x.npy": npy((1 << 40,), "|V0")}), "more than 256 MiB"),
    "more elements than numbers": (
        lambda p: archive(p, {"inputs/x.npy": npy((1 << 62, 1 << 62))}),
        "more than 256 MiB",
    ),
    "nothing of a size that NumPy has not": (
        lambda p: archive(p, {"inputs/x.npy": npy((0, 1 << 70))}),
        "not an array that NumPy supports",
    ),
    "many that are too much together": (
        lambda p: archive(p, {f"inputs/{i}.npy": npy((1 << 24,), data=b"") for i in range(5)}),
        "holds more than 256 MiB of arrays",
    ),
    "a single endless letter": (lambda p: archive(p, {"inputs/x.npy": npy((1,), "<U500000000")}), "more than 256 MiB"),
    "millions of empty texts": (lambda p: archive(p, {"inputs/x.npy": npy((1 << 24,), "<U1")}), "more than 256 MiB"),
    "a negative dimension": (lambda p: archive(p, {"inputs/x.npy": npy((-1, 4))}), r"shape \[-1, 4\]"),
    "a hundred dimensions": (lambda p: archive(p, {"inputs/x.npy": npy((1,) * 100)}), "which no array has"),
    "data that ends early": (lambda p: archive(p, {"inputs/x.npy": npy((4,), data=bytes(12))}), "ends early"),
    "data that goes on": (lambda p: archive(p, {"inputs/x.npy": npy((2,), data=bytes(12))}), "longer than its header"),
    "a shape of no numbers": (lambda p: archive(p, {"inputs/x.npy": npy(("a",))}), "header cannot be read"),
    "a shape of floats": (lambda p: archive(p, {"inputs/x.npy": npy((1.5,))}), "header cannot be read"),
    "a dtype that is none": (lambda p: archive(p, {"inputs/x.npy": npy((1,), "<q9")}), "header cannot be read"),
    "pickled objects": (lambda p: np.savez(p, **{"inputs/x": np.array([{}], object)}), "pickled Python objects"),
    "objects by a header": (
        lambda p: archive(p, {"inputs/x.npy": npy((1,), "|O", bytes(8))}),
        "pickled Python objects",
    ),
    "a structured array": (
        lambda p: np.savez(p, **{"inputs/x": np.zeros(1, [("a", "<i4"), ("b", "<f8")])}),
        "an array with fields",
    ),
    "fields that hold objects": (
        lambda p: archive(p, {"inputs/x.npy": npy((1,), [("a", "|O")])}),
        "pickled Python objects",
    ),
    "an array in an array": (
        lambda p: archive(p, {"inputs/x.npy": npy((1,), ("<f4", (1 << 40,)))}),
        "header cannot be read|with fields",
    ),
    "a header of four GiB": (
        lambda p: archive(p, {"inputs/x.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(1 << 20)}),
        "header has 4,294,967,295 bytes",
    ),
    "a header that is code": (
        lambda p: archive(p, {"inputs/x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    "}),
        "header cannot be read",
    ),
    "a header of brackets": (
        lambda p: archive(p, {"inputs/x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000}),
        "header cannot be read",
    ),
    "a header cut short": (lambda p: archive(p, {"inputs/x.npy": b"\x93NUMPY\x01\x00\x40"}), "valid|header"),
    "no array at all": (lambda p: archive(p, {"inputs/x.npy": b"hello"}), "not an .npy array"),
    "a version to come": (lambda p: archive(p, {"inputs/x.npy": b"\x93NUMPY\x09\x00aa"}), "unknown version 9.0"),
    "another file": (lambda p: archive(p, {"../../etc/passwd": b"x"}), "which is not an .npy array"),
    "a name on the way out": (lambda p: archive(p, {"inputs/../../x.npy": npy((1,), data=bytes(4))}), ""),
    "one name twice": (
        lambda p: archive_twice(p),
        "holds 'inputs/x' twice",
    ),
    "thousands of arrays": (
        lambda p: archive(p, {f"inputs/{i}.npy": npy((0,)) for i in range(1025)}),
        "holds 1,025 arrays",
    ),
    "bzip2": (lambda p: archive(p, {"inputs/x.npy": npy((1,))}, zipfile.ZIP_BZIP2), r"method 12 \(bzip2\)"),
    "LZMA": (lambda p: archive(p, {"inputs/x.npy": npy((1,))}, zipfile.ZIP_LZMA), r"method 14 \(LZMA\)"),
    "a method that nobody has": (lambda p: with_patch(p, DIRECTORY, 10, "<H", 77), r"method 77 \(unknown\)"),
    "encrypted": (lambda p: with_patch(p, DIRECTORY, 8, "<H", 1), "encrypted"),
    "a directory of four GiB": (lambda p: with_patch(p, END, 12, "<I", 0xFFFFFFF0), "directory of 4,294,967,280 bytes"),
    "a directory elsewhere": (lambda p: with_patch(p, END, 16, "<I", 0x7FFFFFFF), "not a valid .npz archive"),
    "a member that is not there": (lambda p: with_patch(p, DIRECTORY, 42, "<I", 0x7FFF), "not a valid .npz archive"),
    "a size that is a lie": (lambda p: with_patch(p, DIRECTORY, 24, "<I", 1), "ends early|not a valid"),
    "another checksum": (lambda p: with_patch(p, DIRECTORY, 16, "<I", 7), "not a valid .npz archive"),
    "ZIP64": (lambda p: p.write_bytes(b"PK\x06\x07" + bytes(16) + END + bytes(18)), "ZIP64"),
    "no archive": (lambda p: p.write_bytes(b"\x93NUMPY" * 100), "is not an .npz archive"),
    "nothing": (lambda p: p.write_bytes(b""), "is not an .npz archive"),
    "a directory of files": (lambda p: p.mkdir(), "is a directory, expected a regular file"),
    "nobody": (lambda p: None, "is missing"),
}


def archive_twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(path, [("inputs/x.npy", npy((1,), data=bytes(4)))] * 2)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_cannot_be_read_is_told_in_words_and_costs_little(tmp_path: Path, kind: str) -> None:
    make, message = HOSTILE[kind]
    path = tmp_path / "one.npz"
    make(path)
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        if message:
            with pytest.raises(InvalidModel, match=message) as error:
                read_case(path)
            assert error.value.message.startswith("golden case one.npz ")
            assert str(tmp_path) not in error.value.message
            assert len(error.value.message) < 600
        else:
            read_case(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * _MIB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 * _MIB


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    arrays = {
        "inputs/f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "inputs/fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "inputs/big endian": np.arange(3, dtype=">i4"),
        "inputs/number": np.array(3.5),
        "inputs/none": np.zeros((0, 4), np.uint8),
        "inputs/text": np.array([["a", "beta"], ["", "δ"]]),
        "inputs/flags": np.array([True, False]),
        "outputs/y": np.zeros((2, 2), np.complex64),
        "labels/y": np.array(["cat", "dog"]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "one.npz", **arrays)
        case = read_case(tmp_path / "one.npz")
        for name, wanted in arrays.items():
            side, _, tensor = name.partition("/")
            got = getattr(case, side)[tensor]
            assert (got.shape, got.tolist()) == (wanted.shape, wanted.tolist())
            assert got.dtype == (object if wanted.dtype.kind == "U" else wanted.dtype.newbyteorder("="))
            assert got.flags.c_contiguous
    assert case_names(tmp_path / "one.npz")["labels"] == {"y"}
    only = read_case(tmp_path / "one.npz", sides=("labels",))
    assert (only.inputs, only.outputs, list(only.labels)) == ({}, {}, ["y"])


def test_names_are_read_of_a_case_whose_arrays_are_too_large(tmp_path: Path) -> None:
    assert case_names(zeros_bomb(tmp_path / "one.npz"))["inputs"] == {"x"}


def test_a_case_that_cannot_be_read_is_none_to_a_server(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    assert first_case(tmp_path, MAX_CASE_BYTES) is None
    zeros_bomb(tmp_path / "golden" / "a.npz")
    np.savez(tmp_path / "golden" / "b.npz", **{"inputs/x": np.zeros(3)})
    assert first_case(tmp_path, MAX_CASE_BYTES) is None
    (tmp_path / "golden" / "a.npz").unlink()
    found = first_case(tmp_path, MAX_CASE_BYTES)
    assert found is not None
    assert list(found.inputs) == ["x"]


def test_an_archive_at_its_bound_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.zeros(1024, np.float32))
    assert read_npz(tmp_path / "one.npz", 4096)[1]["x"].size == 1024
    with pytest.raises(NpzError):
        read_npz(tmp_path / "one.npz", 4095)


@pytest.mark.parametrize("letter", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
def test_text_beyond_unicode_is_told(tmp_path: Path, letter: int) -> None:
    archive(tmp_path / "one.npz", {"inputs/x.npy": npy((1,), "<U1", struct.pack("<I", letter))})
    with pytest.raises(InvalidModel, match="characters that do not exist in Unicode"):
        read_case(tmp_path / "one.npz")


def test_a_truncated_archive_never_raises_anything_else(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, **{"inputs/x": np.arange(64), "outputs/y": np.array(["a"])})
    data = whole.getvalue()
    for end in range(0, len(data), 7):
        (tmp_path / "one.npz").write_bytes(data[:end])
        with pytest.raises(InvalidModel):
            read_case(tmp_path / "one.npz")
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 3):
            damaged[at] = random.integers(0, 256)
        (tmp_path / "one.npz").write_bytes(damaged)
        with contextlib.suppress(InvalidModel):
            read_case(tmp_path / "one.npz")
