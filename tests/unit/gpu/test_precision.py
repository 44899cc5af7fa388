"""FP16 is used where golden cases are answered as they expect, and nowhere else."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.transformers.float16 import convert_float_to_float16
from semver import Version

from onnx_models import matmul, scaled, softmax
from turnout.config import Runtime
from turnout.errors import ModelFailure
from turnout.registry.compatibility.agreement import differs
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry, Manifest, Tolerance
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.model import read_model
from turnout.registry.storage.golden import GoldenCase
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.tensorrt.precision import FULL, Compared, Precision, beforehand, decide
from turnout.serving.tensorrt.precision_trial import PrecisionRecord, PrecisionTrial

SPEC = TensorSpec("y", DataType.FLOAT32, (None,))
SETTINGS = {"optimization_level": "all"}


def _entry(path: str) -> FileEntry:
    return FileEntry(path, 1, "sha256:" + "0" * 64)


def _manifest(signature: Signature, *files: str, **declared: Any) -> Manifest:
    entries = (*map(_entry, files), _entry(MODEL_FILE))
    return Manifest("m", Version(1), entries, signature, {"": 17}, 8, **declared)


def _compared(full: Any, reduced: Any, expected: Any = None, labels: Any = None) -> Compared:
    outputs = {} if expected is None else {"y": np.asarray(expected, np.float32)}
    case = GoldenCase("one", {}, outputs, {} if labels is None else {"y": np.asarray(labels)})
    answers = [
        ExampleResult("one", True, fault=answer)
        if isinstance(answer, str)
        else ExampleResult("one", True, {"y": np.asarray(answer, np.float32)})
        for answer in (full, reduced)
    ]
    return Compared(case, *answers)


def _decided(*compared: Compared, **declared: Any) -> Precision:
    return decide(_manifest(Signature((), (SPEC,)), **declared), compared)


def test_answers_within_tolerance_of_what_a_case_expects_let_fp16_be_used() -> None:
    found = _decided(_compared([1.0], [1.0005], [1.0]), _compared([2.0], [2.001]))
    assert found == Precision(True, "FP16: 2 golden cases answered as expected, within tolerance")


@pytest.mark.parametrize(
    ("compared", "why"),
    [
        ((), "no golden case could be read"),
        ((_compared([1.0], [1.1], [1.0]),), "case one: output y is off by 0.1 (allowed 1e-05 + 0.001 * value)"),
        ((_compared([1.0], [1.1]),), "off by 0.1"),  # the case says nothing: full precision does
        ((_compared([1.0], [1.1], [1.1]), _compared([1.0], [np.inf])), "off by inf"),
        ((_compared([1.0], [np.nan]),), "off by inf"),
        ((_compared([1.0], [1.0, 1.0]),), "has shape (2,), expected (1,)"),
        ((_compared([1.0], "it raised"),), "cannot be run: it raised"),
        ((_compared("it raised", [1.0]),), "cannot be run there: it raised"),
    ],
)
def test_anything_else_rules_it_out_and_says_why(compared: Sequence[Compared], why: str) -> None:
    found = _decided(*compared)
    assert not found.fp16
    assert found.reason.startswith("full precision: ")
    assert why in found.reason


def test_labelled_rows_must_be_right_as_often_as_at_full_precision() -> None:
    full, reduced = [[0.6, 0.4], [0.4, 0.6]], [[0.4, 0.6], [0.4, 0.6]]
    wide = {"tolerances": {"y": Tolerance(1.0, 0.0)}}
    found = _decided(_compared(full, reduced, labels=[0, 1]), **wide)
    assert "50.0% of the labelled rows are right instead of 100.0%" in found.reason
    assert _decided(_compared(full, reduced, labels=[1, 1]), **wide).fp16  # more are right than at full precision


VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4)


@given(VALUES, VALUES, st.none() | VALUES, st.sampled_from([None, Tolerance(0.0, 0.1), Tolerance(10.0, 0.0)]))
def test_fp16_is_used_exactly_where_the_golden_gate_would_find_no_difference(full, reduced, expected, wide) -> None:
    found = _decided(_compared(full, reduced, expected), tolerances={} if wide is None else {"y": wide})
    wanted = np.asarray(full if expected is None else expected, np.float32)
    tolerance = wide or Tolerance(1e-5, 1e-3)
    assert found.fp16 is not differs(np.asarray(reduced, np.float32), wanted, tolerance)


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_no_case_after_one_that_disagrees_is_asked_for(agrees: list[bool]) -> None:
    asked = 0

    def cases():
        nonlocal asked
        for one in agrees:
            asked += 1
            yield _compared([1.0], [1.0 if one else 2.0])

    assert decide(_manifest(Signature((), (SPEC,))), cases()).fp16 is all(agrees)
    assert asked == (len(agrees) if all(agrees) else agrees.index(False) + 1)


def test_what_is_known_beforehand_is_not_tried() -> None:
    signature = Signature((), (SPEC,))
    with_cases, without = _manifest(signature, "golden/one.npz"), _manifest(signature)
    assert beforehand("off", with_cases) is FULL
    assert beforehand("golden", with_cases) is None
    found = beforehand("golden", without)
    assert found is not None
    assert not found.fp16
    assert "no golden cases" in found.reason


class Subject:
    """A version with golden cases, whose reduced precision is its model in float16, as ONNX Runtime converts it."""

    def __init__(self, directory: Path, proto: onnx.ModelProto) -> None:
        self.directory = directory
        onnx.save(proto, directory / MODEL_FILE)
        onnx.save(convert_float_to_float16(proto, keep_io_types=True), directory / "half.onnx")
        self.signature = read_model(directory / MODEL_FILE).signature
        self.made: list[tuple[bool, Session]] = []
        self.records: list[PrecisionRecord] = []
        (directory / "golden").mkdir()

    def case(self, name: str, **arrays: np.ndarray) -> str:
        np.savez(self.directory / "golden" / name, **{key.replace("__", "/"): array for key, array in arrays.items()})
        return f"golden/{name}.npz"

    def make(self, fp16: bool) -> Sequence[Session]:
        model = self.directory / ("half.onnx" if fp16 else MODEL_FILE)
        session = Session(SessionSpec(model, self.signature, [CPU], 0, Runtime()))
        self.made.append((fp16, session))
        return [session]

    def sessions(self, *cases: str, make: Any = None, **declared: Any) -> tuple[Sequence[Session], Precision]:
        self.made.clear()
        manifest = _manifest(self.signature, *cases, **declared)
        return PrecisionTrial(manifest, self.directory, make or self.make, self.records).sessions()


@pytest.fixture
def subject(tmp_path: Path) -> Callable[[onnx.ModelProto], Subject]:
    return functools.partial(Subject, tmp_path)


X = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)


def test_a_version_that_agrees_is_served_in_reduced_precision_and_the_other_session_is_freed(subject) -> None:
    it = subject(scaled(2))
    x = X[:, :4]
    (used,), found = it.sessions(it.case("one", inputs__x=np.float16(x).astype(np.float32)))
    assert found.fp16
    assert found.reason == "FP16: 1 golden case answered as expected, within tolerance"
    assert [fp16 for fp16, _ in it.made] == [False, True]
    assert used is it.made[1][1]
    assert it.made[0][1]._session is None
    assert used.run({"x": x}, ["y"])[0].dtype == np.float32


def test_a_version_that_disagrees_is_served_at_full_precision_and_says_where(subject) -> None:
    it = subject(matmul())
    (used,), found = it.sessions(it.case("one", inputs__x=X))
    assert not found.fp16
    assert found.reason.startswith("full precision: FP16 was tried, and case one: output y is off by ")
    assert used is it.made[0][1]
    assert it.made[1][1]._session is None
    exact = used.run({"x": X}, ["y"])[0]
    np.testing.assert_allclose(
        exact, X @ onnx.numpy_helper.to_array(matmul().graph.initializer[0]), rtol=1e-3, atol=1e-4
    )


def test_tolerances_of_the_manifest_decide_as_they_do_at_the_gate(subject) -> None:
    it = subject(matmul())
    case = it.case("one", inputs__x=X)
    assert it.sessions(case, tolerances={"y": Tolerance(0.1, 0.0)})[1].fp16
    assert not it.sessions(case, tolerances={"y": Tolerance(1e-7, 0.0)})[1].fp16


def test_one_case_of_many_that_disagrees_is_enough(subject) -> None:
    it = subject(matmul())
    good = it.case("a", inputs__x=np.zeros((1, 64), np.float32))
    bad = it.case("b", inputs__x=X)
    assert it.sessions(good)[1].fp16
    _, found = it.sessions(good, bad)
    assert not found.fp16
    assert "case b" in found.reason


def test_labels_alone_are_compared_too(subject) -> None:
    it = subject(softmax())
    x = np.eye(3, dtype=np.float32) if it.signature.inputs[0].shape[-1] == 3 else None
    size = it.signature.inputs[0].shape[-1]
    x = np.eye(size, dtype=np.float32)
    _, found = it.sessions(
        it.case("one", inputs__x=x, labels__y=np.arange(size)), tolerances={"y": Tolerance(0.01, 0.0)}
    )
    assert found.fp16, found.reason


@pytest.mark.parametrize("damage", [b"", b"no archive", None], ids=["empty", "damaged", "gone"])
def test_a_case_that_cannot_be_read_rules_it_out(subject, damage: bytes | None) -> None:
    it = subject(scaled(2))
    path = it.case("one", inputs__x=np.ones((1, 4), np.float32))
    if damage is None:
        (it.directory / path).unlink()
    else:
        (it.directory / path).write_bytes(damage)
    _, found = it.sessions(path)
    assert not found.fp16
    assert "not all golden cases can be compared" in found.reason


def test_a_session_that_cannot_be_made_in_fp16_costs_the_version_nothing(subject) -> None:
    it = subject(scaled(2))

    def make(fp16: bool) -> Sequence[Session]:
        if fp16:
            raise ModelFailure("the engine cannot be built")
        return it.make(fp16)

    it.records = [PrecisionRecord(it.directory / "precision.json", SETTINGS)]
    case = it.case("one", inputs__x=np.ones((1, 4), np.float32))
    (used,), found = it.sessions(case, make=make)
    assert used is it.made[0][1]
    assert found == Precision(False, "full precision: no session in FP16: the engine cannot be built")
    assert it.records[0].read() is None  # memory may have been short: it is tried again


@pytest.mark.parametrize("model", [scaled(2), scaled(1 / 3)], ids=["agrees", "disagrees"])
def test_what_was_found_out_is_not_found_out_again(subject, model: onnx.ModelProto) -> None:
    it = subject(model)
    it.records = [PrecisionRecord(it.directory / "precision.json", SETTINGS)]
    case = it.case("one", inputs__x=np.ones((1, 4), np.float32))
    strict = {"tolerances": {"y": Tolerance(1e-6, 0.0)}}
    _, first = it.sessions(case, **strict)
    assert first.fp16 is (model.graph.initializer[0] == scaled(2).graph.initializer[0])
    (used,), again = it.sessions(case, **strict)
    assert again == first
    assert it.made == [(first.fp16, used)]


def test_two_devices_that_were_found_out_otherwise_are_tried_again(subject) -> None:
    it = subject(scaled(2))
    it.records = [PrecisionRecord(it.directory / f"{number}.json", SETTINGS) for number in range(2)]
    it.records[0].write(Precision(True, "yes"))
    it.records[1].write(Precision(False, "no"))
    _, found = it.sessions(it.case("one", inputs__x=np.ones((1, 4), np.float32)))
    assert found.fp16
    assert {record.read() for record in it.records} == {found}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"fp16": 1, "reason": "", "settings": {"optimization_level": "all"}}',
        b'{"fp16": true, "reason": "", "settings": {"optimization_level": "basic"}}',
        b'{"fp16": true, "settings": {"optimization_level": "all"}}',
        b'{"fp16": true, "reason": "", "settings": {"optimization_level": "all"}}' + b" " * (1 << 17),
        b"\xff\xfe",
    ],
)
def test_what_cannot_be_believed_counts_as_not_there(tmp_path, content: bytes) -> None:
    record = PrecisionRecord(tmp_path / "precision.json", SETTINGS)
    record.path.write_bytes(content)
    assert record.read() is None
    record.write(Precision(True, "yes"))
    assert record.read() == Precision(True, "yes")
    assert os.listdir(tmp_path) == ["precision.json"]
    assert json.loads(record.path.read_text())["settings"] == SETTINGS


def test_what_cannot_be_written_is_found_out_at_the_next_load(tmp_path) -> None:
    record = PrecisionRecord(tmp_path / "nowhere" / "precision.json", SETTINGS)
    record.write(Precision(True, "yes"))
    assert record.read() is None
