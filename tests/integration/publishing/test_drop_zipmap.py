"""scikit-learn's default export ends in ZipMap: publish says how, and `--drop-zipmap` does it, once it is proved."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

import onnx_models
from processes import serving_in_thread, turnout
from sklearn_models import ML, classifier
from turnout.errors import InvalidModel
from turnout.registry.manifest.names import parse_version
from turnout.registry.onnx.zipmap import drop_zipmap, map_outputs
from turnout.registry.storage.repository import Repository
from turnout_client import Client

X = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)


def publish(tmp_path: Path, model: ModelProto, *options: str | Path, code: int = 0) -> str:
    file = onnx_models.save(model, tmp_path / "iris.onnx")
    where = [] if "--server" in options else ["--models", tmp_path / "models"]
    done = turnout("publish", "iris", "1.0.0", file, *where, *options, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def answers(model: ModelProto, **inputs: np.ndarray) -> dict[str, object]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def test_publish_says_how(tmp_path: Path) -> None:
    output = publish(tmp_path, classifier(), code=1)
    assert "output 'output_probability' is a map for each row, made by ZipMap" in output
    assert "publish it with --drop-zipmap, or export it with options={'zipmap': False} of skl2onnx.to_onnx" in output


@pytest.mark.parametrize("labels", [("ant", "bee", "cat"), (0, 1, 7), (3, 1)])
def test_scores_are_served_as_a_tensor_with_the_classes_for_labels(tmp_path: Path, labels) -> None:
    model = classifier(labels)
    publish(tmp_path, model, "--drop-zipmap", "--release")
    manifest = Repository(tmp_path / "models").find("iris", parse_version("1.0.0")).manifest
    assert [str(spec) for spec in manifest.signature.outputs][1] == f"output_probability: float32[?, {len(labels)}]"
    assert manifest.labels == {"output_probability": tuple(map(str, labels))}
    expected = answers(model, X=X)
    with serving_in_thread(tmp_path / "models") as server, Client(server.grpc) as client:
        client.wait_ready(timeout=60)
        got = client.predict("iris", {"X": X})
    assert got["output_label"].tolist() == list(expected["output_label"])
    assert [dict(zip(labels, row, strict=True)) for row in got["output_probability"]] == expected["output_probability"]


def test_the_same_export_is_the_same_version_and_no_name_is_lost(tmp_path: Path) -> None:
    publish(tmp_path, classifier(), "--drop-zipmap")
    again = json.loads(publish(tmp_path, classifier(), "--drop-zipmap", "--json"))
    assert (again["created"], again["ok"]) == (False, True)


def test_it_goes_by_stream_too(tmp_path: Path) -> None:
    with serving_in_thread(tmp_path / "served") as server:
        published = json.loads(publish(tmp_path, classifier(), "--drop-zipmap", "--server", server.control, "--json"))
    assert published["created"]


def test_labels_of_the_metadata_are_kept(tmp_path: Path) -> None:
    meta = tmp_path / "meta.toml"
    meta.write_text('[labels]\noutput_probability = ["Ant", "Bee", "Cat"]\n')
    publish(tmp_path, classifier(), "--drop-zipmap", "--meta", meta)
    manifest = Repository(tmp_path / "models").find("iris", parse_version("1.0.0")).manifest
    assert manifest.labels == {"output_probability": ("Ant", "Bee", "Cat")}


@pytest.mark.parametrize("scores", ["read elsewhere", "given out", "an input", "read in a body"])
def test_scores_that_have_another_use_keep_it(scores: str) -> None:
    model = classifier()
    graph = model.graph
    if scores == "read elsewhere":
        graph.node.append(helper.make_node("ReduceMax", ["probabilities"], ["most"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info("most", TensorProto.FLOAT, []))
    elif scores == "given out":
        graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3]))
    elif scores == "read in a body":
        body = helper.make_graph(
            [helper.make_node("ReduceMax", ["probabilities"], ["m"], keepdims=0)], "b", [],
            [helper.make_tensor_value_info("m", TensorProto.FLOAT, [])],
        )  # fmt: skip
        graph.node.append(
            helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [1]))
        )
        graph.node.append(helper.make_node("If", ["yes"], ["most"], then_branch=body, else_branch=body))
        graph.output.append(helper.make_tensor_value_info("most", TensorProto.FLOAT, []))
    else:
        for node in [n for n in graph.node if n.op_type != "ZipMap"]:
            graph.node.remove(node)
        del graph.output[0]
        graph.input[0].CopyFrom(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3]))
    inputs = {"probabilities": X[:, :3]} if scores == "an input" else {"X": X}
    before = answers(model, **inputs)
    dropped = ModelProto.FromString(model.SerializeToString())
    drop_zipmap(dropped)
    onnx.checker.check_model(dropped)
    after = answers(dropped, **inputs)
    assert list(after) == list(before)
    maps = before.pop("output_probability")
    np.testing.assert_array_equal([list(row.values()) for row in maps], after.pop("output_probability"))
    for name, value in before.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(after[name]))


def test_every_zipmap_is_taken_out() -> None:
    second = helper.make_node("ZipMap", ["probability_tensor"], ["raw"], domain=ML, classlabels_strings=["a", "b", "c"])
    model = classifier(tail=[second])
    extra = model.graph.output.add()
    extra.CopyFrom(model.graph.output[1])
    extra.name = "raw"
    assert map_outputs(model) == {"output_probability", "raw"}
    assert [one.output for one in drop_zipmap(model)] == ["output_probability", "raw"]
    assert map_outputs(model) == frozenset()
    assert answers(model, X=X)["raw"].shape == (6, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: g.node.remove(g.node[-1]), "no output of the model is made by ZipMap"),
        (lambda g: g.node[-1].ClearField("attribute"), "has no classes"),
        (lambda g: g.node[-1].attribute[0].strings.append(b"ant"), "or one twice"),
        (lambda g: g.node[-1].attribute[0].strings.__setitem__(0, b"\xff"), "is not UTF-8"),
        (
            lambda g: g.node.append(helper.make_node("SequenceLength", ["output_probability"], ["n"])),
            "other nodes read it",
        ),
    ],
)
def test_what_is_not_as_skl2onnx_writes_it_is_refused(change, reason: str) -> None:
    model = classifier()
    change(model.graph)
    with pytest.raises(InvalidModel, match=reason):
        drop_zipmap(model)


def test_a_model_without_one_is_told_that_it_needs_no_option(tmp_path: Path) -> None:
    output = publish(tmp_path, onnx_models.scaled(2), "--drop-zipmap", code=1)
    assert "no output of the model is made by ZipMap: publish it without --drop-zipmap" in output


def test_classes_that_do_not_fit_the_scores_are_found_by_the_trial(tmp_path: Path) -> None:
    model = classifier()
    model.graph.node[-1].attribute[0].strings.append(b"dog")
    output = publish(tmp_path, model, "--drop-zipmap", code=1)
    assert "no inputs were found on which the model runs" in output


def test_a_model_with_external_data_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = classifier()
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    (tmp_path / "weights.data").write_bytes(onnx_models.move_out(weights, "weights.data"))
    model.graph.initializer.append(weights)
    assert "external data; export it with options" in publish(tmp_path, model, "--drop-zipmap", code=1)
