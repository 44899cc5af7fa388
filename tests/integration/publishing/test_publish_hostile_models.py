"""Whatever an ONNX file holds is read in another process, within limits, and refused in words that people understand.

Thirty functions that each call the next one twice kept ONNX's checker, which holds Python's lock, busy for hours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from semver import Version

import onnx_models
from turnout.config import Settings
from turnout.errors import InvalidModel
from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import GateOutcome, GateRefused, GateVerdict
from turnout.registry.gates.plan import GatePlan
from turnout.registry.gates.standard import standard_gates
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

Try = Callable[..., dict[str, GateVerdict]]


@pytest.fixture
def tried(tmp_path: Path, processes: Processes) -> Try:
    """Publishes a model with all gates, or the first few, and returns their verdicts."""

    def run(
        proto: onnx.ModelProto, golden: tuple[Path, ...] = (), first: int | None = None, **trials: Any
    ) -> dict[str, GateVerdict]:
        repository = Repository(tmp_path / "models")
        sandbox = ProcessSandbox(Settings(models=repository.root, trials=trials).for_model("m"), processes)
        comparison = ParentComparison(sandbox)
        request = PublishRequest("m", Version(1), onnx_models.save(proto, tmp_path / "m.onnx"), golden=golden)
        gates = standard_gates(GatePlan(), sandbox, comparison)[:first]
        try:
            report = publish(repository, request, gates=gates, comparison=comparison, dry_run=True).report
        except GateRefused as refused:
            report = refused.report
        return {one.gate: one.verdict for one in report.results}

    return run


def functions(levels: int) -> onnx.ModelProto:
    """y = x, by functions of which each calls the next one twice."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = [
        helper.make_function(
            "f", f"f{level}", ["a"], ["c"],
            [helper.make_node(f"f{level + 1}", [one], [other], domain="f") for one, other in ("ab", "bc")], imports,
        )
        for level in range(levels)
    ]  # fmt: skip
    made.append(
        helper.make_function("f", f"f{levels}", ["a"], ["c"], [helper.make_node("Identity", ["a"], ["c"])], imports)
    )
    x, y = (onnx_models.tensor(name, FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="f")], "g", [x], [y])
    return helper.make_model(graph, functions=made, opset_imports=imports, ir_version=8)


def test_a_model_whose_shapes_take_too_long_to_infer_is_judged_without_them(tried: Try) -> None:
    verdict = tried(functions(16), first=1, run_timeout_s=0.05)["integrity"]
    assert verdict.outcome is GateOutcome.PASSED
    assert verdict.evidence.endswith("; its shapes were not inferred: a run took longer than 0.05 s")


def test_a_model_that_ends_shape_inference_is_published_without_it(tried: Try) -> None:
    verdicts = tried(onnx_models.not_inferred())
    told = "; its shapes were not inferred: its process died of SIGSEGV during a run"
    assert verdicts["integrity"].evidence.endswith(told)
    assert verdicts["load"].outcome is GateOutcome.PASSED


def test_a_check_that_does_not_finish_is_refused(tried: Try) -> None:
    verdict = tried(functions(16), first=1, timeout_s=1e-3)["integrity"]
    assert verdict == GateVerdict(
        GateOutcome.FAILED, "ONNX's checker did not finish: its process was ended after 0.001 s"
    )


def test_a_tensor_of_an_unknown_type_is_refused_by_a_gate(tried: Try) -> None:
    proto = onnx_models.matmul(4)
    proto.graph.initializer[0].data_type = 99
    refused = [verdict.evidence for verdict in tried(proto).values() if verdict.outcome is GateOutcome.FAILED]
    assert len(refused) == 1
    assert "does not have valid data type" in refused[0]


def test_a_tensor_of_more_dimensions_than_arrays_have_is_refused_at_once(tried: Try) -> None:
    with pytest.raises(InvalidModel, match="input 'x' has 65 dimensions, at most 64 are supported"):
        tried(onnx_models.identity(shape=[1] * 65))


def test_inputs_that_would_be_too_large_to_make_up_are_told(tried: Try) -> None:
    verdict = tried(onnx_models.identity(shape=[1 << 31, 1 << 20]))["load"]
    assert verdict.outcome is GateOutcome.WARNED
    assert "no inputs were found that it runs on: all would have more than " in verdict.evidence


@pytest.mark.parametrize("element", ["uint64", "int64", "uint8", "int8"])
def test_the_largest_integers_are_inputs_like_others(tried: Try, tmp_path: Path, element: str) -> None:
    largest = np.full((2, 4), np.iinfo(element).max, element)
    np.savez(tmp_path / "one.npz", **{"inputs/x": largest, "outputs/y": largest})
    proto = onnx_models.identity(helper.np_dtype_to_tensor_dtype(np.dtype(element)))
    verdicts = tried(proto, (tmp_path / "one.npz",))
    assert verdicts["load"].outcome is GateOutcome.PASSED
    assert verdicts["golden"].evidence == "1 cases answered as expected"


def test_a_model_may_have_hundreds_of_outputs(tried: Try, tmp_path: Path) -> None:
    names = [f"{'y' * 70_000 if not number else 'y'}{number}" for number in range(150)]
    x, *outputs = (onnx_models.tensor(name, FLOAT, ["n", 4]) for name in ("x", *names))
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    np.savez(tmp_path / "one.npz", **{"inputs/x": np.ones((1, 4), np.float32), "outputs/y1": np.ones((1, 4))})
    verdicts = tried(onnx_models.model(nodes, [x], outputs), (tmp_path / "one.npz",))
    assert verdicts["load"].outcome is GateOutcome.PASSED
    assert verdicts["golden"].evidence == "1 cases answered as expected"


def test_a_model_that_answers_nothing_but_nan_is_warned_about(tried: Try) -> None:
    verdict = tried(onnx_models.scaled(float("nan")))["load"]
    assert verdict.outcome is GateOutcome.WARNED
    assert verdict.evidence.endswith("; all numbers in its answers to 8 examples are NaN")


def described(home: Path, weights: onnx.TensorProto, version: int) -> SandboxVersion:
    """A version whose weights are not what they are said to be."""
    x, y = (onnx_models.tensor(name, FLOAT, ["n", 4]) for name in "xy")
    proto = onnx_models.model([helper.make_node("Mul", ["x", "w"], ["y"])], [x], [y], [weights])
    repository = Repository(home / "models")
    sound = onnx_models.model(
        [helper.make_node("Mul", ["x", "w"], ["y"])], [x], [y],
        [numpy_helper.from_array(np.full(4, version, np.float32), "w")],
    )  # fmt: skip
    source = onnx_models.save(sound, home / "m.onnx")
    manifest = publish(repository, PublishRequest("m", Version(version), source), gates=()).manifest
    directory = repository.directory("m", Version(version))
    (directory / "model.onnx").unlink()
    onnx_models.save(proto, directory / "model.onnx")
    return SandboxVersion(directory, manifest)


@pytest.mark.parametrize(
    "weights",
    [
        helper.make_tensor("w", FLOAT, [4], [1, 2, 3, 4]),
        onnx.TensorProto(name="w", data_type=FLOAT, dims=[1 << 40], float_data=[1]),
        onnx.TensorProto(name="w", data_type=99, dims=[4], float_data=[1]),
        onnx.TensorProto(
            name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL,
            external_data=[onnx.StringStringEntryProto(key="location", value="missing")],
        ),
    ],
    ids=["sound", "too little data", "an unknown type", "a missing file"],
)  # fmt: skip
def test_weights_that_cannot_be_read_make_another_minor_version(
    tmp_path: Path, processes: Processes, weights: onnx.TensorProto
) -> None:
    new, old = described(tmp_path, weights, 2), described(tmp_path, helper.make_tensor("w", FLOAT, [4], [1] * 4), 1)
    sandbox = ProcessSandbox(Settings(models=tmp_path / "models").for_model("m"), processes)
    assert ParentComparison(sandbox).difference(new, old).bump is VersionBump.MINOR
