import dataclasses

import pytest
from semver import Version

from turnout.oip.elements import ELEMENT_TYPES
from turnout.oip.extensions.repository import STATES
from turnout.oip.metadata import batches_along_first_axis, model_config, model_metadata
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Manifest
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.serving.versions.catalog import CatalogSnapshot, ModelEntry, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus
from turnout_proto.oip import model_config_pb2

X = TensorSpec("x", DataType.FLOAT32, ("n", 64))
Y = TensorSpec("y", DataType.STRING, ("n", None))


def entry(version="1.2.3", inputs=(X,), outputs=(Y,), batching=None, rows=0, state=LifecycleState.READY):
    manifest = Manifest(
        model="track",
        version=Version.parse(version),
        files=(FileEntry("model.onnx", 1, "sha256:" + "0" * 64),),
        signature=Signature(tuple(inputs), tuple(outputs)),
        opset={"": 18},
        ir_version=10,
        batching=batching,
    )
    return VersionEntry(manifest, "sha256:" + "1" * 64, ReleaseStatus.RELEASED, state, max_batch_rows=rows)


def snapshot(*entries):
    highest_first = sorted(entries, key=lambda e: e.version, reverse=True)
    return CatalogSnapshot({"track": ModelEntry("track", {e.version: e for e in highest_first})})


def test_metadata_describes_every_dimension_the_batch_included():
    described = entry()

    metadata = model_metadata(described, snapshot(described))

    assert (metadata.name, metadata.platform) == ("track", "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, 64])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("y", "BYTES", [-1, -1])]


def test_metadata_names_the_ready_versions_by_precedence():
    entries = [entry("1.10.0"), entry("1.9.0"), entry("2.0.0-rc.1"), entry("3.0.0", state=LifecycleState.FAILED)]

    assert list(model_metadata(entries[3], snapshot(*entries)).versions) == ["1.9.0", "1.10.0", "2.0.0-rc.1"]


def test_a_version_batched_by_rows_says_so_and_drops_the_row_dimension():
    config = model_config(entry(rows=32))

    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[64], [-1]]


def test_a_version_that_is_not_batched_keeps_all_dimensions():
    config = model_config(entry())

    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[-1, 64], [-1, -1]]


def test_an_output_may_be_one_number_a_row():
    config = model_config(entry(rows=32, outputs=(TensorSpec("label", DataType.INT64, ("n",)),)))

    assert config.max_batch_size == 32
    assert list(config.output[0].dims) == []


def test_config_names_the_exact_version_it_describes():
    config = model_config(entry())

    assert config.parameters["turnout_version"].string_value == "1.2.3"
    assert config.parameters["turnout_digest"].string_value == "sha256:" + "1" * 64


def test_config_tells_optional_inputs():
    optional = TensorSpec("rate", DataType.INT64, (), has_default=True)

    assert [(i.name, i.optional) for i in model_config(entry(inputs=(X, optional))).input] == [
        ("x", False),
        ("rate", True),
    ]


SPECIMENS = {
    "an input without dimensions": {"inputs": (X, TensorSpec("rate", DataType.INT64, ()))},
    "an input with a fixed first dimension": {"inputs": (X, TensorSpec("state", DataType.FLOAT32, (2, "n", 128)))},
    "an input with no other dimension": {"inputs": (TensorSpec("text", DataType.STRING, ("n",)),)},
    "an input that may be left out": {"inputs": (X, TensorSpec("k", DataType.INT64, ("n",), has_default=True))},
    "an output with a fixed first dimension": {"outputs": (Y, TensorSpec("state", DataType.FLOAT32, (2, "n", 128)))},
    "another declared axis": {"inputs": (Y,), "batching": BatchingDeclaration(axes={"y": 1})},
    "another declared axis of an output": {"batching": BatchingDeclaration(axes={"x": 0, "y": 1})},
    "an input declared the same for all rows": {
        "inputs": (X, TensorSpec("table", DataType.FLOAT32, (None,))),
        "batching": BatchingDeclaration(axes={"x": 0}),
    },
}


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_max_batch_size_is_0_where_clients_could_not_put_rows_first(specimen):
    described = entry(rows=32, **SPECIMENS[specimen])

    assert not batches_along_first_axis(described)
    assert model_config(described).max_batch_size == 0


def test_declared_first_axes_are_believed():
    assert batches_along_first_axis(entry(rows=32, batching=BatchingDeclaration(axes={"x": 0})))
    assert batches_along_first_axis(entry(rows=32, batching=BatchingDeclaration(max_rows=32)))


@pytest.mark.parametrize("kind", DataType)
def test_every_element_type_has_the_number_that_triton_gives_it(kind):
    config = model_config(entry(inputs=(dataclasses.replace(X, dtype=kind),)))

    wire_name = model_config_pb2.DataType.Name(config.input[0].data_type).removeprefix("DATA_TYPE_")
    assert wire_name.replace("STRING", "BYTES") == ELEMENT_TYPES[kind].name


def test_every_state_has_a_word_of_triton():
    assert set(STATES) == set(LifecycleState)
    assert set(STATES.values()) == {"READY", "LOADING", "UNLOADING", "UNAVAILABLE"}
