"""The gates on real models: what a bump is, and what is refused, by the command line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import command_line
from magika.golden import write_golden
from zoo import fetch

pytestmark = pytest.mark.slow

Turnout = Callable[..., Any]


@pytest.fixture
def turnout(tmp_path: Path) -> Turnout:
    """Runs a command on an empty repository, and returns its answer in JSON."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TURNOUT_")}

    def run(*arguments: str | Path, code: int = 0) -> Any:
        done = command_line.run(*arguments, "--json", cwd=tmp_path, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def untimed(tmp_path: Path) -> None:
    """A plan without the race against the parent: it takes 5 s of CPU, and says nothing of what a bump is."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gates.toml").write_text('[latency]\non_failure = "off"\n')


def gate(answer: Any, name: str) -> tuple[str, str]:
    (one,) = [g for g in answer["gates"] if g["gate"] == name]
    return one["outcome"], one["evidence"]


def optimised(source: Path, target: Path, level: str) -> Path:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target


def perturbed(source: Path, target: Path) -> Path:
    """Writes a copy whose large weights are off by noise: it still runs, and knows less."""
    model, random = onnx.load(source), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1000:
            noise = random.standard_normal(array.shape).astype(np.float32) * array.std()
            tensor.CopyFrom(numpy_helper.from_array((array + noise).astype(np.float32), tensor.name))
    onnx.save(model, target)
    return target


def with_costly_branch(source: Path, target: Path) -> Path:
    """Writes a copy that multiplies large matrices besides, and adds what comes of it, which is nothing."""
    model = onnx.load(source)
    graph = model.graph
    last = next(node for node in graph.node if "target_label" in node.output)
    last.output[list(last.output).index("target_label")] = "wanted"
    graph.initializer.append(numpy_helper.from_array(np.full((640, 640), 1e-12, np.float32), "useless"))
    graph.node.extend(
        [
            # Made of the input, or the optimiser would do it once and for all.
            helper.make_node("Cast", ["bytes"], ["useless_bytes"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["useless_bytes"], ["useless_seed"], keepdims=0),
            helper.make_node("Mul", ["useless", "useless_seed"], ["useless_square"]),
            helper.make_node("MatMul", ["useless_square", "useless_square"], ["useless_product"]),
            helper.make_node("ReduceMax", ["useless_product"], ["useless_least"], keepdims=0),
            helper.make_node("Add", ["wanted", "useless_least"], ["target_label"]),
        ]
    )
    onnx.save(model, target)
    return target


def leaking(source: Path, target: Path) -> Path:
    """Writes a copy whose answers are compared with the mean of the batch."""
    model = onnx.load(source)
    graph = model.graph
    last = next(node for node in graph.node if "target_label" in node.output)
    last.output[list(last.output).index("target_label")] = "alone"
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["alone"], ["batch_mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["alone", "batch_mean"], ["off"]),
            helper.make_node("Add", ["alone", "off"], ["target_label"]),
        ]
    )
    onnx.save(model, target)
    return target


def test_magika_3_2_is_major_over_1_and_3_3_minor_over_that(turnout: Turnout) -> None:
    assert turnout("publish", "magika", "auto", fetch("magika", "1.0.0"))["version"] == "1.0.0"
    second = turnout("publish", "magika", "auto", fetch("magika", "3.2.0"))
    assert second["version"] == "2.0.0"
    assert gate(second, "bump") == (
        "passed",
        "a MAJOR change over 1.0.0: input bytes takes int32 where float32 was taken; input bytes dimension 1 is 2048"
        " and was 1536; output target_label dimension 1 is 214 and was 113",
    )
    third = turnout("publish", "magika", "auto", fetch("magika", "3.3.0"))
    assert third["version"] == "2.1.0"
    assert gate(third, "bump")[1].startswith("a MINOR change over 2.0.0: weights differ (")
    found = turnout("diff", "magika@2.0.0", "magika@2.1.0")
    assert (found["bump"], found["synthetic"]["within"]) == ("minor", False)
    assert 0 < found["weights"]["changed_tensors"] < found["weights"]["tensors"]
    assert found["weights"]["max_relative_change"] > 0.1
    assert found["latency"]["rounds"] >= 5


@pytest.mark.usefixtures("untimed")
def test_silero_6_is_minor_over_5_and_each_optimised_is_a_patch(turnout: Turnout, tmp_path: Path) -> None:
    turnout("publish", "silero", "5.1.2", fetch("silero", "5.1.2"))
    minor = turnout("publish", "silero", "auto", fetch("silero", "6.2.3"))
    assert (minor["version"], minor["parent"]) == ("5.2.0", "5.1.2")
    refused = turnout("publish", "silero", "5.1.3", fetch("silero", "6.2.3"), code=3)
    assert gate(refused, "bump")[1].startswith("5.1.3 over 5.1.2 has to be a MINOR version, 5.3.0: weights differ")
    patch = turnout("publish", "silero", "auto", optimised(fetch("silero", "6.2.3"), tmp_path / "o.onnx", "EXTENDED"))
    assert patch["version"] == "5.2.1"
    assert "the same once both files are optimised alike, and 8 synthetic inputs" in gate(patch, "bump")[1]


@pytest.mark.usefixtures("untimed")
def test_magika_optimised_by_onnx_runtime_is_a_patch(turnout: Turnout, tmp_path: Path) -> None:
    turnout("publish", "magika", "3.3.0", fetch("magika", "3.3.0"))
    for level, dry in (("BASIC", ["--dry-run"]), ("ALL", [])):
        file = optimised(fetch("magika", "3.3.0"), tmp_path / f"{level}.onnx", level)
        assert turnout("publish", "magika", "auto", file, *dry)["version"] == "3.3.1", level


def test_what_answers_worse_costs_more_or_mixes_rows_is_refused(turnout: Turnout, tmp_path: Path) -> None:
    model = fetch("magika", "3.3.0")
    golden, meta = write_golden(tmp_path, model)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "gates.toml").write_text(
        '[golden]\ntop1_min = 0.9\n[latency]\non_failure = "refuse"\n[batchability]\non_failure = "refuse"\n'
        '[metadata]\nrequired = ["licence", "labels", "golden"]\n'
    )
    extra = ("--meta", meta, "--golden", golden)
    first = turnout("publish", "magika", "3.3.0", model, *extra)
    assert gate(first, "golden")[0] == "passed"
    worse = turnout("publish", "magika", "auto", perturbed(model, tmp_path / "p.onnx"), *extra, code=3)
    assert (worse["refused_by"], worse["version"]) == ("golden", "3.4.0")
    assert "labelled rows are right" in gate(worse, "golden")[1]
    slow = turnout("publish", "magika", "3.4.0", with_costly_branch(model, tmp_path / "c.onnx"), *extra, code=3)
    assert (slow["refused_by"], gate(slow, "golden")[0]) == ("latency", "passed")
    mixes = turnout("publish", "magika", "3.4.0", leaking(model, tmp_path / "l.onnx"), *extra, code=3)
    assert mixes["refused_by"] == "batchability"
    skip = ("--skip-gate", "latency", "--skip-gate", "memory", "--reason", "it is a test", "--actor", "ada")
    costly = turnout("publish", "magika", "3.4.0", tmp_path / "c.onnx", *extra, *skip)
    assert gate(costly, "latency") == ("skipped", "skipped on request by ada: it is a test")
    assert turnout("verify")["ok"] is True
