"""`turnout import triton`: what is published, released, listed and left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_models
import triton_models
from processes import turnout
from turnout.config import load_settings
from turnout.registry.manifest.names import parse_version
from turnout.registry.storage.golden import read_case
from turnout.registry.storage.repository import Repository
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore


def imported(tree: Path, models: Path, *options: str | Path, code: int = 0) -> dict[str, Any]:
    done = turnout("import", "triton", tree, "--models", models, "--json", *options, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def refusal(*arguments: str | Path) -> str:
    done = turnout("import", "triton", *arguments, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def of(body: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [model for model in body["models"] if model["model"] == name]
    return found


def fates(model: dict[str, Any]) -> dict[str, str]:
    return {row["field"]: row["fate"] for row in model["fields"]}


def test_every_version_is_published_and_those_that_triton_serves_are_released(tmp_path: Path) -> None:
    tree, models = triton_models.three_models(tmp_path / "tree"), tmp_path / "models"
    body = imported(tree, models, "--settings", tmp_path / "s.toml")
    assert body["ok"]
    versions = {(m["model"], v["version"]): v["standing"] for m in body["models"] for v in m["versions"]}
    assert versions == {
        ("Scale.x2", "2.0.0"): "released",
        ("plain", "9.0.0"): "candidate",
        ("plain", "10.0.0"): "released",
        ("scores", "1.0.0"): "released",
        ("scores", "2.0.0"): "candidate",
        ("scores", "3.0.0"): "released",
    }
    repository = Repository(models)
    assert {(p.manifest.model, str(p.manifest.version)) for p in repository.published()} == set(versions)
    with StateStore.open(load_settings(None, {"models": models}, {}).settings.state_url) as store:
        release_statuses = store.release_state().of("scores").release_statuses
    assert release_statuses == {parse_version(text): ReleaseStatus.RELEASED for text in ("1.0.0", "3.0.0")}

    scores = repository.find("scores", parse_version("3.0.0")).manifest
    assert scores.batching is not None
    assert (scores.batching.enabled, scores.batching.max_rows) == (True, 8)
    assert scores.labels == {"y": ("ant", "bee", "cat", "dog")}
    case = read_case(repository.directory("scores", scores.version) / "golden" / "warmup-0.npz")
    np.testing.assert_array_equal(case.inputs["x"], np.zeros((2, 4), np.float32))
    scale = repository.find("Scale.x2", parse_version("2.0.0")).manifest
    assert scale.batching is not None
    assert not scale.batching.enabled
    assert repository.find("plain", parse_version("9.0.0")).manifest.batching is None

    again = imported(tree, models)
    assert {v["outcome"] for m in again["models"] for v in m["versions"]} == {"was there"}


def test_each_field_is_listed_with_what_became_of_it(tmp_path: Path) -> None:
    tree, models = triton_models.three_models(tmp_path / "tree"), tmp_path / "models"
    body = imported(tree, models, "--dry-run", "--settings", tmp_path / "s.toml")
    assert fates(of(body, "scores")) == {
        "name": "taken",
        "platform": "taken",
        "max_batch_size": "taken",
        "input": "taken",
        "output": "taken",
        "output.y.label_filename": "taken",
        "version_policy": "taken",
        "dynamic_batching": "taken",
        "dynamic_batching.preferred_batch_size": "no counterpart",
        "dynamic_batching.max_queue_delay_microseconds": "setting",
        "dynamic_batching.default_queue_policy.max_queue_size": "setting",
        "instance_group.kind": "setting",
        "instance_group.count": "setting",
        "model_warmup.zeros": "taken",
    }
    assert Repository(models).published() == ()
    settings = load_settings(tmp_path / "s.toml", {"models": models}, {}).settings.for_model("scores")
    assert settings.batching.max_delay_ms == 0.5
    assert settings.limits.max_queue_requests == 64
    assert (settings.runtime.runners, settings.runtime.intra_op_threads) == (2, 0)
    assert str(settings.load) == "latest:2"


def test_what_would_answer_otherwise_is_not_taken_and_the_rest_is(tmp_path: Path) -> None:
    tree, models = tmp_path / "tree", tmp_path / "models"
    for name, config in {
        "fine": "",
        "plan": 'platform: "tensorrt_plan"',
        "stateful": "sequence_batching { max_sequence_idle_microseconds: 5 }",
        "stream": "model_transaction_policy { decoupled: true }",
        "wrong": "max_batch_size: many",
        "other": 'name: "another"',
    }.items():
        triton_models.put(tree, name, 1, onnx_models.scaled(2))
        (tree / name / "config.pbtxt").write_text(config)
    (tree / "empty" / "1").mkdir(parents=True)
    (tree / "no-model" / "docs").mkdir(parents=True)
    body = imported(tree, models, code=3)
    refused = {model["model"]: model["refused"] for model in body["models"] if model["refused"]}
    assert refused.pop("plan").startswith("platform: tensorrt_plan is not served here")
    assert refused.pop("stateful").startswith("sequence_batching: requests of a sequence share state")
    assert refused.pop("stream") == "model_transaction_policy.decoupled: each request has one answer here"
    assert refused.pop("wrong").startswith("config.pbtxt is not a model configuration: line 1:17")
    assert refused.pop("other") == "config.pbtxt is that of 'another', but is in the directory of 'other'"
    assert refused.pop("empty") == "it contains no ONNX model: 1/model.onnx is missing"
    assert refused == {}
    assert Repository(models).scan().models == ("fine",)


def test_one_model_may_be_asked_for_and_one_models_directory_given(tmp_path: Path) -> None:
    tree, models = triton_models.three_models(tmp_path / "tree"), tmp_path / "models"
    imported(tree, models, "--model", "plain", "--no-release")
    assert Repository(models).scan().models == ("plain",)
    described = json.loads(turnout("show", "plain", "--models", models, "--json").stdout)
    assert {version["standing"] for version in described["versions"]} == {"candidate"}
    imported(tree / "Scale.x2", models)
    assert Repository(models).scan().models == ("Scale.x2", "plain")
    assert "'nobody' is not in it; there are: Scale.x2, plain, scores" in refusal(tree, "--model", "nobody")


def test_a_model_without_a_version_is_refused_not_left_out(tmp_path: Path) -> None:
    """Triton ignores directories whose names are not numbers or have leading zeros, and loads no such model."""
    tree, models = tmp_path / "tree", tmp_path / "models"
    triton_models.put(tree, "good", 0, onnx_models.scaled(2))
    for name, directory in (("letters", "v1"), ("zeros", "01"), ("empty", "")):
        (tree / name / directory).mkdir(parents=True)
        (tree / name / "config.pbtxt").write_text('backend: "onnxruntime"')
    body = imported(tree, models, code=3)
    assert of(body, "good")["versions"][0] | {"digest": ""} == {
        "number": 0, "version": "0.0.0", "outcome": "published", "digest": "", "standing": "released", "reason": None,
    }  # fmt: skip
    reason = "it contains no ONNX model: no directory of a version, whose name is a number without leading zeros"
    assert {of(body, name)["refused"] for name in ("letters", "zeros", "empty")} == {reason}


def test_an_import_with_settings_may_be_tried_first_and_repeated(tmp_path: Path) -> None:
    tree, models, file = triton_models.three_models(tmp_path / "tree"), tmp_path / "models", tmp_path / "s.toml"
    text = imported(tree, models, "--settings", file, "--dry-run")["settings"]
    assert imported(tree, models, "--settings", file)["settings"] == text
    assert file.read_text() == text
    assert imported(tree, models, "--settings", file)["settings"] == text
    file.write_text("# mine")
    assert f"{file} cannot be written: File exists" in refusal(tree, "--models", tmp_path / "new", "--settings", file)
    assert not Repository(tmp_path / "new").scan().models
    assert file.read_text() == "# mine"


def test_what_is_no_triton_repository_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "tree" / "m").mkdir(parents=True)
    onnx_models.save(onnx_models.scaled(2), tmp_path / "tree" / "m" / "model.onnx")
    assert "'tree' is not a Triton model repository: it holds no <model>/<number>/model.onnx" in refusal(
        tmp_path / "tree"
    )
    assert "'gone' is missing" in refusal(tmp_path / "gone")


def test_a_model_file_of_another_name_and_one_in_a_directory_are_found(tmp_path: Path) -> None:
    tree, models = tmp_path / "tree", tmp_path / "models"
    triton_models.put(tree, "named", 4, onnx_models.scaled(4), file="net.onnx")
    (tree / "named" / "config.pbtxt").write_text('default_model_filename: "net.onnx"')
    onnx_models.save_external(tree / "split" / "1" / "model.onnx")
    body = imported(tree, models)
    assert [v["version"] for m in body["models"] for v in m["versions"]] == ["4.0.0", "1.0.0"]
    files = Repository(models).find("split", parse_version("1.0.0")).manifest.files
    assert [entry.path for entry in files] == ["model.onnx", "weights.data"]


def test_an_exported_version_is_imported_as_before(tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    turnout("publish", "m", "1.0.0", source, "--models", tmp_path / "one")
    turnout("export", "m@1.0.0", "--to", tmp_path / "out", "--models", tmp_path / "one")
    for number, terms in enumerate((["import", tmp_path / "out"], ["import", "export", tmp_path / "out"])):
        turnout(*terms, "--models", tmp_path / f"to-{number}")
        assert Repository(tmp_path / f"to-{number}").scan().models == ("m",)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('default_model_filename: "../other/model.onnx"', "is not a plain relative path"),
        ('default_model_filename: "/etc/passwd"', "is not a plain relative path"),
        ('default_model_filename: "model.plan"', "1/model.plan is missing"),
    ],
)
def test_no_configuration_leads_out_of_its_version(tmp_path: Path, config: str, reason: str) -> None:
    triton_models.put(tmp_path / "tree", "m", 1, onnx_models.scaled(2))
    (tmp_path / "tree" / "m" / "config.pbtxt").write_text(config)
    body = imported(tmp_path / "tree", tmp_path / "models", code=3)
    assert reason in of(body, "m")["refused"]
