"""What the gates find of real models, run in child processes as a publish runs them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from semver import Version

import onnx_models
from rowwise_models import FLOAT, graph, node
from turnout.cancellation import Cancellation
from turnout.config import Settings
from turnout.errors import InvalidModel, InvalidRequest, ModelFailure, TurnoutError
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import GateRefused, Skip
from turnout.registry.gates.plan import GatePlan, OnFailure, over
from turnout.registry.gates.reports import gate_attestations
from turnout.registry.gates.standard import standard_gates
from turnout.registry.manifest.manifest import BatchingDeclaration
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.publishing.publish import PublishRequest, PublishResult, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sandbox.processes import Ended, Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox

pytestmark = pytest.mark.slow

Publish = Callable[..., PublishResult]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def publish_gated(repository: Repository, tmp_path: Path, processes: Processes) -> Publish:
    """Publishes m VERSION (or auto) as the command line does, under a plan."""

    def run(version: str, proto: onnx.ModelProto, plan: dict[str, Any] | None = None, **more: Any) -> PublishResult:
        source = onnx_models.save(proto, tmp_path / "source.onnx")
        sandbox = ProcessSandbox(Settings(models=repository.root).for_model("m"), processes)
        comparison = ParentComparison(sandbox)
        gates = standard_gates(over(GatePlan(), plan or {}, "gates.toml"), sandbox, comparison)
        options = {name: more.pop(name) for name in ("skips", "dry_run") if name in more}
        request = PublishRequest("m", None if version == "auto" else Version.parse(version), source, **more)
        return publish(repository, request, gates=gates, comparison=comparison, **options)

    return run


def found(result: PublishResult) -> dict[str, str]:
    return {one.gate: str(one.verdict.outcome) for one in result.report.results}


def evidence(result: PublishResult, gate: str) -> str:
    return next(one.verdict.evidence for one in result.report.results if one.gate == gate)


def refused(publish_gated: Publish, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(GateRefused) as error:
        publish_gated(*arguments, **more)
    failure = error.value.report.failure
    assert failure is not None
    return failure.gate, failure.verdict.evidence


def case(tmp_path: Path, name: str = "one.npz", **arrays: Any) -> Path:
    np.savez(tmp_path / name, **{key.replace("__", "/"): value for key, value in arrays.items()})
    return tmp_path / name


def test_a_model_with_nothing_said_of_it_passes(publish_gated: Publish) -> None:
    result = publish_gated("1.0.0", onnx_models.matmul())
    assert found(result) == {
        "integrity": "passed",
        "metadata": "skipped",
        "bump": "skipped",
        "load": "passed",
        "determinism": "passed",
        "batchability": "passed",
        "golden": "skipped",
        "latency": "skipped",
        "memory": "passed",
    }


def test_auto_is_the_smallest_legal_version(publish_gated: Publish, repository: Repository) -> None:
    assert str(publish_gated("auto", onnx_models.matmul(seed=1)).manifest.version) == "1.0.0"
    renamed = onnx_models.matmul(seed=1)
    renamed.graph.initializer[0].name = renamed.graph.node[0].input[1] = "kernel"
    patch = publish_gated("auto", renamed)
    assert str(patch.manifest.version) == "1.0.1"
    assert "PATCH change over 1.0.0: weights are the same tensors, and 8 synthetic" in evidence(patch, "bump")
    assert str(publish_gated("auto", onnx_models.matmul(seed=2)).manifest.version) == "1.1.0"
    major = publish_gated("auto", onnx_models.matmul(32))
    assert str(major.manifest.version) == "2.0.0"
    assert "input x dimension 1 is 32 and was 64" in evidence(major, "bump")
    again = publish_gated("auto", onnx_models.matmul(32))
    assert (str(again.manifest.version), again.created) == ("2.0.0", False)
    assert [str(p.manifest.version) for p in repository.published()] == ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]


def test_too_low_a_number_is_refused_and_the_right_one_named(publish_gated: Publish) -> None:
    publish_gated("1.0.0", onnx_models.matmul(seed=1))
    publish_gated("3.0.0", onnx_models.matmul(16))
    gate, message = refused(publish_gated, "1.0.1", onnx_models.matmul(seed=2))
    assert gate == "bump"
    assert message.startswith("1.0.1 over 1.0.0 has to be a MINOR version, 1.1.0: weights differ")
    assert refused(publish_gated, "1.1.0", onnx_models.matmul(32))[1].startswith("1.1.0 over 1.0.0 has to be a MAJOR")
    publish_gated("1.1.0", onnx_models.matmul(seed=2))


def test_the_same_weights_under_another_activation_are_a_minor_change(publish_gated: Publish) -> None:
    def activated(kind: str) -> onnx.ModelProto:
        proto = onnx_models.matmul()
        proto.graph.node[0].output[0] = "h"
        proto.graph.node.append(helper.make_node(kind, ["h"], ["y"]))
        return proto

    publish_gated("1.0.0", activated("Relu"))
    result = publish_gated("auto", activated("Tanh"))
    assert str(result.manifest.version) == "1.1.0"
    assert "answers differ, though the weights are the same: output y of synthetic input" in evidence(result, "bump")


def test_below_1_0_0_a_minor_version_may_break_and_a_patch_may_add(publish_gated: Publish) -> None:
    publish_gated("0.2.0", onnx_models.matmul(seed=1))
    publish_gated("0.2.1", onnx_models.matmul(seed=2))
    gate, message = refused(publish_gated, "0.2.2", onnx_models.matmul(32))
    assert (gate, message.split(":")[0]) == ("bump", "0.2.2 over 0.2.1 has to be a MAJOR version, 0.3.0")
    assert str(publish_gated("auto", onnx_models.matmul(32)).manifest.version) == "0.3.0"


def test_a_yanked_version_is_no_parent(repository: Repository, publish_gated: Publish, tmp_path: Path) -> None:
    publish_gated("1.0.0", onnx_models.matmul(seed=1))
    publish_gated("1.1.0", onnx_models.matmul(seed=2))
    source = onnx_models.save(onnx_models.matmul(seed=3), tmp_path / "third.onnx")
    result = publish(repository, PublishRequest("m", None, source), yanked=lambda: [Version(1, 1)])
    assert (str(result.manifest.version), str(result.parent)) == ("1.2.0", "1.0.0")


def test_a_model_that_the_runtime_cannot_load_is_refused(publish_gated: Publish) -> None:
    proto = onnx_models.model(
        [helper.make_node("NoSuchOperator", ["x"], ["y"], domain="com.example")],
        [onnx_models.tensor("x", TensorProto.FLOAT, ["batch"])],
        [onnx_models.tensor("y", TensorProto.FLOAT, ["batch"])],
        opset={"": 17, "com.example": 1},
    )
    gate, message = refused(publish_gated, "1.0.0", proto)
    assert (gate, message) == (
        "load",
        "it cannot be loaded: ONNX Runtime cannot load it: Load model from ... failed:Fatal error:"
        " com.example:NoSuchOperator(-1) is not a registered function/op",
    )


@pytest.mark.parametrize("stated", [["n", 7], ["n", 4, 1], [3, 4]])
def test_a_model_whose_output_is_not_as_the_file_states_is_told_of(publish_gated: Publish, stated: list[Any]) -> None:
    proto = onnx_models.identity(FLOAT)
    proto.graph.output[0].CopyFrom(onnx_models.tensor(proto.graph.output[0].name, FLOAT, stated))
    result = publish_gated("1.0.0", proto)
    assert found(result)["load"] == "warned"
    assert re.search(r"; output y has the shape \[\d+, 4\], but the file states y: float32\[", evidence(result, "load"))


def test_a_model_that_answers_no_input_twice_the_same_is_told_of_or_refused(publish_gated: Publish) -> None:
    result = publish_gated("1.0.0", onnx_models.random_noise())
    assert found(result)["determinism"] == "warned"
    assert "beyond tolerance" in evidence(result, "determinism")
    plan = {"determinism": {"on_failure": "refuse"}}
    assert refused(publish_gated, "1.1.0", onnx_models.random_noise(1.0), plan)[0] == "determinism"


@pytest.mark.parametrize("operator", ["joined", "scores"])
def test_what_an_operator_leaves_in_memory_is_0_in_a_trial_as_it_is_where_it_is_served(
    publish_gated: Publish, tmp_path: Path, operator: str
) -> None:
    x, values = (
        np.full((3, 4), 0.5, np.float32),
        {"from": np.array([5]), "end": np.array([2**40]), "axis": np.array([1])},
    )
    if operator == "joined":  # of fewer than six columns, nothing is left, but there is room for three rows more
        nodes = [node("Slice", "x from end axis", "cut"), node("Concat", "cut x", axis=0)]
        proto = graph(nodes, {"x": (FLOAT, ["n", "t"])}, {"y": (FLOAT, 2)}, values)
        expected = np.concatenate([x, np.zeros_like(x)])
    else:  # the second of two
        attributes = {"coefficients": [1.0] * 4, "intercepts": [0.0], "classlabels_ints": [0, 1]}
        nodes = [node("LinearClassifier", "x", "c y", domain="ai.onnx.ml", post_transform="PROBIT", **attributes)]
        proto = graph(nodes, {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, 2)}, {}, {"": 18, "ai.onnx.ml": 3})
        x, expected = np.full((3, 4), 0.15, np.float32), None
    golden = case(tmp_path, inputs__x=x, **({} if expected is None else {"outputs__y": expected}))
    result = publish_gated("1.0.0", proto, golden=(golden,))
    assert evidence(result, "determinism") == "one input answered twice, the same bit by bit"
    assert evidence(result, "batchability").startswith("unbatched: an operator may leave in its output what was in")
    assert found(result)["golden"] == ("skipped" if expected is None else "passed")


def test_rows_that_leak_into_each_other_are_told_of_and_refused_where_batching_is_declared(
    publish_gated: Publish,
) -> None:
    result = publish_gated("1.0.0", onnx_models.leaky())
    assert found(result)["batchability"] == "warned"
    assert "leak into each other" in evidence(result, "batchability")
    declared = VersionMetadata(batching=BatchingDeclaration(axes={"x": 0, "y": 0}))
    gate, message = refused(publish_gated, "1.0.1", onnx_models.leaky(), metadata=declared)
    assert gate == "batchability"
    assert message.startswith("declared as batchable, and unbatched: output y of a batch of two differs")
    refuse = {"batchability": {"on_failure": "refuse"}}
    assert refused(publish_gated, "1.0.1", onnx_models.leaky(), refuse, metadata=VersionMetadata(notes="n"))[0] == (
        "batchability"
    )


def test_golden_outputs_are_held_to_tolerance(publish_gated: Publish, tmp_path: Path) -> None:
    x = np.ones((1, 4), np.float32)
    good = case(tmp_path, inputs__x=x, outputs__y=x * 2)
    assert evidence(publish_gated("1.0.0", onnx_models.scaled(2), golden=(good,)), "golden") == (
        "1 cases answered as expected"
    )
    gate, message = refused(publish_gated, "1.1.0", onnx_models.scaled(2.5), golden=(good,))
    assert (gate, message) == ("golden", "case one: output y is off by 0.5 (allowed 1e-05 + 0.001 * value)")
    wrong = case(tmp_path, "wrong.npz", inputs__x=x.astype(np.float64))
    gate, message = refused(publish_gated, "1.1.0", onnx_models.scaled(3), golden=(wrong,))
    assert (gate, message.split("but ")[1]) == (
        "load",
        "golden/wrong.npz cannot be run: its input x is float64, the model takes float32",
    )


def test_accuracy_is_held_to_the_plan_and_to_the_parent(publish_gated: Publish, tmp_path: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    names = ("a", "b", "c", "d")
    metadata = VersionMetadata(labels={"y": names})
    labelled = case(tmp_path, inputs__x=x, labels__y=np.array(names))
    first = publish_gated("1.0.0", onnx_models.softmax(), metadata=metadata, golden=(labelled,))
    assert evidence(first, "golden") == "4 of 4 labelled rows are right (100.0%)"
    biased = onnx_models.softmax(bias=(2.0, 0.0, 0.0, 0.0))
    gate, message = refused(publish_gated, "1.1.0", biased, metadata=metadata, golden=(labelled,))
    assert (gate, message.split(" are right")[0]) == ("golden", "1 of 4 labelled rows")
    assert message.endswith("its parent gets 100.0% right: worse by more than 1.0%")
    lax = {"golden": {"top1_worse_by_max": 1.0}}
    publish_gated("1.1.0", biased, lax, metadata=metadata, golden=(labelled,), dry_run=True)
    strict = lax["golden"] | {"top1_min": 0.98}
    gate, message = refused(publish_gated, "1.1.0", biased, {"golden": strict}, metadata=metadata, golden=(labelled,))
    assert message == "1 of 4 labelled rows are right (25.0%), the plan wants 98.0%"


def test_required_metadata_is_required(publish_gated: Publish) -> None:
    plan = {"metadata": {"required": ["licence", "owner", "golden"]}}
    stated = VersionMetadata(licence="MIT", free={"owner": "us"})
    assert refused(publish_gated, "1.0.0", onnx_models.matmul(), plan, metadata=stated) == (
        "metadata",
        "not stated: golden",
    )
    plan["metadata"]["required"].remove("golden")
    assert found(publish_gated("1.0.0", onnx_models.matmul(), plan, metadata=stated))["metadata"] == "passed"


def test_a_costly_version_is_told_of_and_refused_where_the_plan_says_so(publish_gated: Publish) -> None:
    publish_gated("1.0.0", onnx_models.matmul())
    costly = with_useless_branch(onnx_models.matmul(seed=1))
    assert found(publish_gated("1.1.0", costly, dry_run=True))["latency"] == "warned"
    gate, message = refused(publish_gated, "1.1.0", costly, {"latency": {"on_failure": "refuse"}})
    assert gate == "latency"
    assert message.endswith("the plan allows 1.25 x at p50")


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keeps every core busy with several processes."""
    command = [sys.executable, "-c", "import time\nend = time.time() + 120\nwhile time.time() < end: pass"]
    with ExitStack() as stack:
        for _ in range(4 * len(os.sched_getaffinity(0))):
            spinner = stack.enter_context(subprocess.Popen(command))
            stack.callback(spinner.kill)
        yield


def test_on_a_busy_machine_latency_is_measured_in_cpu_time(publish_gated: Publish) -> None:
    publish_gated("1.0.0", with_useless_branch(onnx_models.matmul()))
    equal = with_useless_branch(onnx_models.matmul(seed=1))
    costly = with_useless_branch(with_useless_branch(onnx_models.matmul(seed=2)), "second_")
    plan = {"latency": {"on_failure": "refuse"}}
    with busy_machine():
        assert "because the machine was busy" in evidence(publish_gated("1.1.0", equal, plan=plan), "latency")
        gate, message = refused(publish_gated, "1.2.0", costly, plan)
    assert (gate, "because the machine was busy" in message) == ("latency", True)


def with_useless_branch(proto: onnx.ModelProto, prefix: str = "") -> onnx.ModelProto:
    """Adds nodes whose result, of no size to speak of, is added to y: several milliseconds a run."""
    useless, seed, square, one, two, least, wanted = (
        prefix + name for name in ("useless", "seed", "square", "one", "two", "least", "wanted")
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.full((512, 512), 1e-12, np.float32), useless))
    y = proto.graph.node[-1].output[0]
    proto.graph.node[-1].output[0] = wanted
    # Anchored to the input, or the optimiser would fold it into a constant.
    proto.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["x"], [seed], keepdims=0),
            helper.make_node("Mul", [useless, seed], [square]),
            helper.make_node("MatMul", [square, square], [one]),
            helper.make_node("MatMul", [one, square], [two]),
            helper.make_node("ReduceMax", [two], [least], keepdims=0),
            helper.make_node("Add", [wanted, least], [y]),
        ]
    )
    return proto


def test_a_gate_is_skipped_on_record_and_what_the_gates_found_is_kept(
    publish_gated: Publish, repository: Repository
) -> None:
    publish_gated("1.0.0", onnx_models.matmul(seed=1))
    skip = Skip("bump", "the client is ours", "ada")
    result = publish_gated("1.0.1", onnx_models.matmul(seed=2), skips=[skip])
    assert evidence(result, "bump") == "skipped on request by ada: the client is ours"
    (kept,) = gate_attestations(repository, "m", Version(1, 0, 1), result.digest)
    assert kept.report.skips == (skip,)
    assert kept.report == result.report
    assert (kept.parent, kept.imported) == ("1.0.0", False)
    repository.verify("m", Version(1, 0, 1), expected=result.digest)
    assert repository.scan().problems == ()


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (Skip("bmp", "r"), "skip-gate: there is no gate 'bmp'; the nearest is bump"),
        (Skip("integrity", "r"), "skip-gate: the gate integrity cannot be skipped"),
        (Skip("bump", " "), "reason: skipping a gate requires a reason, which is recorded"),
    ],
)
def test_a_skip_without_a_gate_or_a_reason_is_refused(publish_gated: Publish, skip: Skip, message: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        publish_gated("1.0.0", onnx_models.matmul(), skips=[skip])
    assert error.value.message == message


def test_a_dry_run_runs_every_gate_and_leaves_nothing(publish_gated: Publish, repository: Repository) -> None:
    result = publish_gated("auto", onnx_models.matmul(), dry_run=True)
    assert (str(result.manifest.version), result.created, result.dry_run) == ("1.0.0", False, True)
    assert found(result)["memory"] == "passed"
    assert repository.published() == ()
    assert [path.name for path in repository.root.iterdir()] == [".staging"]


def test_a_refused_version_leaves_no_attestation(publish_gated: Publish, repository: Repository) -> None:
    publish_gated("1.0.0", onnx_models.matmul(seed=1))
    refused(publish_gated, "1.0.1", onnx_models.matmul(seed=2))
    assert [path.name for path in (repository.root / "m" / ".attestations").iterdir()] == ["1.0.0"]


def test_a_model_that_takes_its_process_down_is_refused_and_the_publisher_lives(
    publish_gated: Publish, tmp_path: Path
) -> None:
    killer = case(tmp_path, inputs__x=np.array([[-(2**31)]], np.int32), inputs__d=np.array([-1], np.int32))
    gate, message = refused(publish_gated, "1.0.0", onnx_models.divides(), golden=(killer,))
    assert (gate, message) == ("load", "it cannot be loaded: its process died of SIGFPE")


def test_a_gate_that_cannot_have_the_model_run_is_skipped_where_load_is(publish_gated: Publish, tmp_path: Path) -> None:
    killer = case(tmp_path, inputs__x=np.array([[-(2**31)]], np.int32), inputs__d=np.array([-1], np.int32))
    skips = [Skip("load", "it is served elsewhere")]
    result = publish_gated("1.0.0", onnx_models.divides(), golden=(killer,), skips=skips)
    assert set(found(result).values()) == {"passed", "skipped"}
    assert found(result)["integrity"] == "passed"


def test_a_gate_that_the_plan_turns_off_does_not_run(publish_gated: Publish) -> None:
    result = publish_gated("1.0.0", onnx_models.matmul(), {"memory": {"on_failure": "off"}})
    assert "memory" not in found(result)
    assert replace(GatePlan().memory, on_failure=OnFailure.OFF).on_failure is OnFailure.OFF


def test_a_version_of_other_inputs_is_not_measured_beside_its_parent(publish_gated: Publish) -> None:
    publish_gated("1.0.0", onnx_models.matmul(64))
    result = publish_gated("2.0.0", onnx_models.matmul(32))
    assert evidence(result, "latency") == "cannot be measured beside 1.0.0: no input was found that both accept"


def test_every_error_of_a_trial_is_one_of_ours(tmp_path: Path, processes: Processes) -> None:
    sandbox = ProcessSandbox(Settings(models=tmp_path, trials={"timeout_s": 0.0001}).for_model("m"), processes)
    with pytest.raises(TurnoutError, match="its process was ended after"):
        sandbox._child(tmp_path, {})


@pytest.mark.parametrize(
    ("left", "kind", "message"),
    [
        ('{"error": {"kind": "InvalidModel", "message": "m", "retry_after": null, "violations": [], "cause": ""}}',
         InvalidModel, "m"),
        ('{"error": {"kind": "AlreadyExists", "message": "m", "retry_after": null, "violations": [], "cause": ""}}',
         ModelFailure, "m"),
        ('{"error": {"kind": "Path", "message": "m", "retry_after": null, "violations": [], "cause": ""}}',
         ModelFailure, "m"),
        ('{"error": {"kind": "InvalidModel"}}', ModelFailure, "its process sent an invalid answer"),
        ('{"error": 1}', ModelFailure, "its process sent an invalid answer"),
        ("{", ModelFailure, "its process sent an invalid answer"),
    ],
)  # fmt: skip
def test_what_a_child_says_of_its_trouble_is_believed_within_bounds(
    tmp_path: Path, left: str, kind: type[TurnoutError], message: str
) -> None:
    class Broken:
        def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
            (scratch / "answer.json").write_text(left)
            return Ended(0)

        def close(self) -> None: ...

    sandbox = ProcessSandbox(Settings(models=tmp_path).for_model("m"), Broken())
    with pytest.raises(TurnoutError, match=message) as caught:
        sandbox._child(tmp_path, {})
    assert type(caught.value) is kind
