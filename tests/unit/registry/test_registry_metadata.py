import datetime
import json
import tomllib
from pathlib import Path

import pytest

from turnout.errors import InvalidModel, InvalidRequest
from turnout.registry.manifest.manifest import BatchingDeclaration, Tolerance
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.publishing.metadata import MAX_METADATA_BYTES, VersionMetadata, parse_metadata, read_metadata

TOML = """
description = "Content type of a file"
authors = ["Ada", "Grace"]
licence = "Apache-2.0"
notes = "Trained on the spring set."

[metadata]
dataset = { name = "files", rows = 3 }

[batching]
max_rows = 64
axes = { x = 0, state = 1 }

[tolerances.y]
atol = 1e-5
rtol = 1e-3

[tolerances.float16]
rtol = 1
"""
SIGNATURE = Signature(
    (
        TensorSpec("x", DataType.FLOAT32, ("n", 4)),
        TensorSpec("state", DataType.FLOAT32, (2, None, 8)),
        TensorSpec("rate", DataType.INT64, ()),
    ),
    (TensorSpec("y", DataType.FLOAT32, (1, 4)),),
)


@pytest.fixture
def read(tmp_path):
    def read(content, name="meta.toml") -> VersionMetadata:
        path = tmp_path / name
        path.write_text(content)
        return read_metadata(path)

    return read


def test_a_toml_file_is_read_whole(read):
    assert read(TOML) == VersionMetadata(
        description="Content type of a file",
        authors=("Ada", "Grace"),
        licence="Apache-2.0",
        notes="Trained on the spring set.",
        free={"dataset": {"name": "files", "rows": 3}},
        batching=BatchingDeclaration(enabled=True, max_rows=64, axes={"x": 0, "state": 1}),
        tolerances={"y": Tolerance(1e-5, 1e-3), "float16": Tolerance(0.0, 1.0)},
    )


def test_json_says_the_same_as_toml(read):
    assert read(json.dumps(tomllib.loads(TOML)), "meta.json") == read(TOML)


def test_an_empty_file_says_nothing(read):
    assert read("") == VersionMetadata()
    assert read("").to_manifest() == {}


def test_the_manifest_holds_what_was_stated_beside_what_is_free(read):
    assert read(TOML).to_manifest() == {
        "description": "Content type of a file",
        "authors": ["Ada", "Grace"],
        "licence": "Apache-2.0",
        "notes": "Trained on the spring set.",
        "dataset": {"name": "files", "rows": 3},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('licens = "MIT"', "licens: unknown; the nearest known is licence"),
        ('license = "MIT"', "license: unknown; the nearest known is licence"),
        ("[batch]\nmax_rows = 1", "batch: unknown; the nearest known is batching"),
        ("[batching]\nmax_row = 1", "batching.max_row: unknown; the nearest known is batching.max_rows"),
        ("[tolerances.y]\nabs = 1", "tolerances.y.abs: unknown; the nearest known is tolerances.y.atol"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_known(read, content, message):
    with pytest.raises(InvalidRequest) as refused:
        read(content)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "meta"),
        ({"description": 1}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"authors": "Ada"}, "authors"),
        ({"authors": ["Ada", 1]}, "authors[1]"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"notes": "x"}}, "metadata.notes"),
        ({"metadata": {"n": 2**53}}, "metadata.n"),
        ({"metadata": {"n": [float("nan")]}}, "metadata.n[0]"),
        ({"metadata": {"\udfff": 1}}, "metadata"),
        ({"metadata": {"when": datetime.date(2026, 1, 1)}}, "metadata.when"),
        ({"batching": True}, "batching"),
        ({"batching": {"enabled": 1}}, "batching.enabled"),
        ({"batching": {"max_rows": True}}, "batching.max_rows"),
        ({"batching": {"max_rows": 1.5}}, "batching.max_rows"),
        ({"batching": {"axes": {"x": "0"}}}, "batching.axes.x"),
        ({"tolerances": {"y": 1}}, "tolerances.y"),
        ({"tolerances": {"y": {"atol": -1}}}, "tolerances.y.atol"),
        ({"tolerances": {"y": {"rtol": float("nan")}}}, "tolerances.y.rtol"),
        ({"tolerances": {"y": {"rtol": 10**400}}}, "tolerances.y.rtol"),
        ({"tolerances": {"y": {"rtol": True}}}, "tolerances.y.rtol"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_field(body, field):
    with pytest.raises(InvalidRequest) as refused:
        parse_metadata(body)
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize("batching", [{"max_rows": 0}, {"max_rows": -1}, {"axes": {"x": -1}}])
def test_a_number_out_of_range_is_refused(batching):
    with pytest.raises(InvalidRequest, match=r"^batching\."):
        parse_metadata({"batching": batching})


def test_free_metadata_is_bounded_in_depth():
    nested: dict = {}
    for _ in range(20):
        nested = {"deeper": nested}
    with pytest.raises(InvalidRequest, match="is nested more than 16 deep"):
        parse_metadata({"metadata": nested})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.toml", "description = "),
        ("meta.toml", "a = 1\na = 2"),
        ("meta.json", "{"),
        ("meta.json", '{"notes": "a", "notes": "b"}'),
        ("meta.json", "[" * 100_000),
        ("meta.yaml", "a: 1"),
        ("meta.json", " " * (MAX_METADATA_BYTES + 1)),
    ],
)
def test_what_is_no_metadata_file_is_refused(read, name, content):
    with pytest.raises(InvalidRequest, match=r"^meta: "):
        read(content, name)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "meta.json").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match=r"^meta: meta\.json is not JSON"):
        read_metadata(tmp_path / "meta.json")


def test_a_file_that_is_not_there_is_named_without_its_directory(tmp_path):
    with pytest.raises(InvalidRequest) as refused:
        read_metadata(tmp_path / "meta.toml")
    assert refused.value.message == "meta: meta.toml is missing"


def test_what_fits_the_signature_is_taken():
    metadata = VersionMetadata(
        batching=BatchingDeclaration(axes={"x": 0, "state": 1, "y": 0}),
        tolerances={"y": Tolerance(0, 0), "int8": Tolerance(1, 0)},
    )
    metadata.check_against(SIGNATURE)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            VersionMetadata(batching=BatchingDeclaration(axes={"z": 0})),
            "batching.axes.z: no input or output; there are x, state,",
        ),
        (
            VersionMetadata(batching=BatchingDeclaration(axes={"x": 2})),
            "batching.axes.x: axis 2 is beyond its 2 dimensions",
        ),
        (
            VersionMetadata(batching=BatchingDeclaration(axes={"rate": 0})),
            "batching.axes.rate: axis 0 is beyond its 0 dimensions",
        ),
        (VersionMetadata(batching=BatchingDeclaration(axes={"x": 1})), "batching.axes.x: axis 1 has the fixed size 4"),
        (VersionMetadata(batching=BatchingDeclaration(axes={"y": 0})), "batching.axes: names no input"),
        (VersionMetadata(tolerances={"z": Tolerance(0, 0)}), "tolerances.z: no output and no dtype"),
    ],
)
def test_what_names_nothing_in_the_signature_is_refused(metadata, message):
    with pytest.raises(InvalidModel) as refused:
        metadata.check_against(SIGNATURE)
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300])
def test_a_lock_file_that_is_no_path_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"dependencies": {"lock_file": path}}))
    with pytest.raises(InvalidRequest, match=r"dependencies\.lock_file"):
        read_metadata(tmp_path / "meta.json")
