"""What is kept as JSON: a class says its fields, and those are its keys; what was not written by it is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from semver import Version

from turnout.registry.manifest.environment import Environment
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Manifest, Tolerance
from turnout.registry.manifest.provenance import PinnedSource, Provenance, Training
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.publishing.environment_record import SeenEnvironment
from turnout.rollout.machine.measurements import ProbeLimits, ProbeOutcome, ProbeRecord
from turnout.routing.policy import Canary, Policy, Shadow
from turnout.routing.slots import Claim, SlotTable

ONE, TWO = Version.parse("1.0.0"), Version.parse("2.0.0-rc.1")
DIGEST = "sha256:" + "0" * 64


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Point(JsonForm):
    x: int
    y: float = 0.0

    AS_LIST = True


@dataclass(frozen=True, slots=True)
class Inner(JsonForm):
    name: str


@dataclass(frozen=True, slots=True)
class Everything(JsonForm):
    text: str
    whole: int
    number: float
    yes: bool
    colour: Colour
    version: Version
    data: bytes
    time: datetime | None
    point: Point
    inner: tuple[Inner, ...]
    table: Mapping[str, Inner | int]
    pairs: tuple[tuple[int, str], ...]
    free: Any
    added: int = 7

    ADDED = ("added",)


@dataclass(frozen=True, slots=True)
class Terse(JsonForm):
    needed: int
    name: str = ""
    inner: Inner = Inner("x")
    table: Mapping[str, int] = field(default_factory=dict)

    OMIT_DEFAULTS = True


NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
VALUE = Everything(
    "a", 1, 1.5, True, Colour.RED, TWO, b"\x00\xff", NOON, Point(1), (Inner("i"),), {"a": Inner("b"), "c": 3},
    ((1, "one"),), {"any": [None]}, 8,
)  # fmt: skip
BODY = {
    "text": "a", "whole": 1, "number": 1.5, "yes": True, "colour": "red", "version": "2.0.0-rc.1", "data": "00ff",
    "time": "2026-11-30T12:00:00+00:00", "point": [1, 0.0], "inner": [{"name": "i"}],
    "table": {"a": {"name": "b"}, "c": 3}, "pairs": [[1, "one"]], "free": {"any": [None]}, "added": 8,
}  # fmt: skip


def test_each_field_has_its_form_and_is_read_back() -> None:
    assert VALUE.to_json() == BODY
    assert list(VALUE.to_json()) == list(BODY)
    assert Everything.from_json(json.loads(json.dumps(VALUE.to_json()))) == VALUE
    assert Everything.from_json(BODY | {"time": None}).time is None
    assert type(Everything.from_json(BODY | {"number": 2}).number) is int, "it is written again as it was"


def test_what_an_earlier_release_did_not_write_has_its_default_and_what_a_later_one_adds_is_passed_over() -> None:
    body = {key: value for key, value in BODY.items() if key != "added"}
    assert Everything.from_json(body | {"later": 1}).added == 7


@pytest.mark.parametrize("missing", [key for key in BODY if key != "added"])
def test_a_field_that_was_always_written_has_to_be_there(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        Everything.from_json({key: value for key, value in BODY.items() if key != missing})


WRONG = {
    "text": [1, None, ["a"]], "whole": ["1", 1.0, True, None], "number": ["1", False], "yes": [1, "true"],
    "colour": ["blue", 1, []], "version": ["1", 1, None], "data": ["0", "zz", 1], "time": ["noon", 1],
    "point": [[], [1, 2.0, 3], {"x": 1}, "12", [1, "0"]], "inner": [{"name": "i"}, [{}], ["i"], [{"name": 1}], "i"],
    "table": [[], {"a": "b"}, {"a": {}}], "pairs": [[[1]], [[1, "a", 2]], [["a", 1]], ["1a"]], "added": ["8", None],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_type_is_refused(key: str, value: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Everything.from_json(BODY | {key: value})


@pytest.mark.parametrize("body", [None, [], "{}", 1])
def test_what_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(TypeError):
        Everything.from_json(body)


def test_what_has_its_default_is_left_out_where_the_class_says_so() -> None:
    assert Terse(0).to_json() == {"needed": 0}
    assert Terse.from_json({"needed": 0}) == Terse(0)
    full = Terse(0, "n", Inner("y"), {"a": 1})
    assert full.to_json() == {"needed": 0, "name": "n", "inner": {"name": "y"}, "table": {"a": 1}}
    assert Terse.from_json(full.to_json()) == full


SPEC = TensorSpec("x", DataType.FLOAT32, ("n", None, 4))
MANIFEST = Manifest(
    "m", ONE, (FileEntry("model.onnx", 3, DIGEST),), Signature((SPEC,), (TensorSpec("y", DataType.INT64, (), True),)),
    {"": 17}, 9, BatchingDeclaration(axes={"x": 0}), {"y": Tolerance(0.1, 0)}, {"y": True}, {"y": ("a", "b")},
    {"resize": 2}, {"authors": ["ada"]},
    Provenance(
        Training((PinnedSource("d", DIGEST),), "0" * 40, {"lr": 0.1}, 0, {"auc": 1}), PinnedSource("uv.lock", DIGEST),
        Environment(cuda=">=12"), ("m@0.9.0",),
    ),
)  # fmt: skip
KEPT: list[tuple[JsonForm, dict[str, Any]]] = [
    (
        MANIFEST,
        {
            "schema": 1, "model": "m", "version": "1.0.0", "opset": {"": 17}, "ir_version": 9,
            "files": [{"path": "model.onnx", "size": 3, "digest": DIGEST}],
            "signature": {
                "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", None, 4]}],
                "outputs": [{"name": "y", "dtype": "int64", "shape": [], "has_default": True}],
            },
            "batching": {"enabled": True, "max_rows": None, "axes": {"x": 0}},
            "tolerances": {"y": {"atol": 0.1, "rtol": 0}}, "scores": {"y": True}, "labels": {"y": ["a", "b"]},
            "preprocessing": {"resize": 2}, "metadata": {"authors": ["ada"]},
            "provenance": {
                "training": {
                    "datasets": [{"name": "d", "digest": DIGEST}], "commit": "0" * 40, "hyperparameters": {"lr": 0.1},
                    "seed": 0, "metrics": {"auc": 1},
                },
                "dependencies": {"lock": {"name": "uv.lock", "digest": DIGEST}}, "environment": {"cuda": ">=12"},
                "parents": ["m@0.9.0"],
            },
        },
    ),
    (
        SeenEnvironment(DIGEST, "t", Environment(python="3.11.1"), "Linux", "0.1.0", {"numpy": "2.0"}),
        {
            "digest": DIGEST, "time": "t", "environment": {"python": "3.11.1"}, "platform": "Linux", "turnout": "0.1.0",
            "libraries": {"numpy": "2.0"}, "imported": False,
        },
    ),
    (
        Policy(ONE, (Canary(TWO, 500),), (Shadow(TWO, 100),), 500),
        {
            "baseline": "1.0.0", "canaries": [{"version": "2.0.0-rc.1", "weight": 500}],
            "shadows": [{"version": "2.0.0-rc.1", "rate": 100}], "twin": 500,
        },
    ),
    (
        SlotTable(b"\x01", (Claim("1.0.0", ((0, 5), (7, 8))),), b"\x02"),
        {"salt": "01", "order": "02", "claims": [{"owner": "1.0.0", "runs": [[0, 5], [7, 8]]}]},
    ),
    (
        ProbeRecord(1, 2, 3, 4, ProbeOutcome.PASSED, ProbeOutcome.FAILED, "v", "d", NOON, ProbeLimits(1, 2, 3)),
        {
            "passed": 1, "failed": 2, "inconclusive": 3, "errors": 4, "conclusive": "passed", "outcome": "failed",
            "value": "v", "detail": "d", "time": "2026-11-30T12:00:00+00:00", "limits": [1, 2, 3],
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "body"), KEPT, ids=[type(value).__name__ for value, _ in KEPT])
def test_what_is_on_disks_keeps_its_keys(value: JsonForm, body: dict[str, Any]) -> None:
    assert value.to_json() == body
    assert type(value).from_json(json.loads(json.dumps(body))) == value


def test_a_manifest_that_says_no_more_than_it_must_has_no_other_keys() -> None:
    bare = Manifest("m", ONE, MANIFEST.files, MANIFEST.signature, {"": 17}, 9)
    assert set(bare.to_json()) == {"schema", "model", "version", "files", "signature", "opset", "ir_version"}


@pytest.mark.parametrize(("kind", "missing"), [(SlotTable, "salt"), (SlotTable, "claims"), (Policy, "shadows")])
def test_routing_is_not_made_up_where_some_of_it_is_missing(kind: type[JsonForm], missing: str) -> None:
    body = next(body for value, body in KEPT if isinstance(value, kind))
    with pytest.raises(KeyError, match=missing):
        kind.from_json({key: value for key, value in body.items() if key != missing})
