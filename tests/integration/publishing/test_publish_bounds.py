"""Whatever a model makes of synthetic inputs, and whatever a golden case holds: memory and time stay within bounds."""

import re
import signal
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from semver import Version

import onnx_models
from registry_wire import registry_of, upload
from started_servers import StartServer
from turnout.cancellation import Cancellation
from turnout.config import Settings
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import GateOutcome, GateRefused
from turnout.registry.gates.plan import GatePlan
from turnout.registry.gates.standard import standard_gates
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sandbox.processes import Ended, Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.sessions.memory import resident_bytes
from turnout.wire_format import delimited
from turnout_proto.v1 import registry_pb2 as pb

_MIB = 1 << 20
BASE = 128 * _MIB
"""What a child holds beside the model: Python, NumPy, ONNX Runtime."""

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass
class Watched:
    """Starts children, and keeps how they ended."""

    processes: Processes
    ends: list[Ended] = field(default_factory=list)

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        self.ends.append(self.processes.run(scratch, timeout, cancellation))
        return self.ends[-1]

    def close(self) -> None:
        self.processes.close()

    @property
    def peak(self) -> int:
        return max(end.peak_bytes for end in self.ends)


@dataclass
class Found:
    """What a publish came to."""

    load: tuple[GateOutcome, str]
    watched: Watched


Try = Callable[..., Found]


@pytest.fixture
def tried(tmp_path: Path, processes: Processes) -> Try:
    """Publishes a model with all gates, and returns what the gate `load` found."""

    def run(proto: onnx.ModelProto, golden: Sequence[Path] = (), **trials: Any) -> Found:
        watched = Watched(processes)
        repository = Repository(tmp_path / "models")
        sandbox = ProcessSandbox(Settings(models=repository.root, trials=trials).for_model("m"), watched)
        comparison = ParentComparison(sandbox)
        gates = standard_gates(GatePlan(), sandbox, comparison)
        request = PublishRequest("m", Version(1), onnx_models.save(proto, tmp_path / "m.onnx"), golden=tuple(golden))
        try:
            report = publish(repository, request, gates=gates, comparison=comparison, dry_run=True).report
        except GateRefused as refused:
            report = refused.report
        verdict = next(one.verdict for one in report.results if one.gate == "load")
        return Found((verdict.outcome, verdict.evidence), watched)

    return run


def sized(node: onnx.NodeProto, rank: int, *inputs: onnx.ValueInfoProto, **constants: Any) -> onnx.ModelProto:
    """y, of one node whose inputs decide how large it is."""
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return onnx_models.model([node], inputs, [onnx_models.tensor("y", FLOAT, [None] * rank)], made, opset={"": 18})


def tensor(name: str, element: int = INT64, shape: Sequence[onnx_models.Dim] = ()) -> onnx.ValueInfoProto:
    return onnx_models.tensor(name, element, shape)


X = tensor("x", FLOAT, [1, 3, 4, 5])


def node(op_type: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], **attributes)


SIZED = {
    "Pad": sized(node("Pad", "x", "n", mode="edge"), 4, X, tensor("n", shape=[8])),
    "Pad with a constant": sized(node("Pad", "x", "n"), 4, X, tensor("n", shape=[8])),
    "Resize": sized(node("Resize", "x", "", "", "n", mode="nearest"), 4, X, tensor("n", shape=[4])),
    "Resize of any size": sized(
        node("Resize", "x", "", "", "n", mode="nearest"), 4, tensor("x", FLOAT, [*"abcd"]), tensor("n", shape=[4])
    ),
    "Tile": sized(node("Tile", "x", "n"), 4, X, tensor("n", shape=[4])),
    "Expand": sized(node("Expand", "s", "n"), 5, tensor("s", FLOAT, [1]), tensor("n", shape=[5])),
    "ConstantOfShape": sized(node("ConstantOfShape", "n"), 6, tensor("n", shape=[6])),
    "ConstantOfShape of any rank": sized(node("ConstantOfShape", "n"), 1, tensor("n", shape=["r"])),
    "Range": sized(node("Range", "a", "b", "c"), 1, *(tensor(name, FLOAT) for name in "abc")),
    "OneHot": sized(
        node("OneHot", "i", "n", "values"), 3, tensor("i", shape=[64, 64]), tensor("n", shape=[1]),
        values=np.array([0, 1], np.float32),
    ),
    "a window": sized(node("HannWindow", "n"), 1, tensor("n")),
    "CenterCropPad": sized(node("CenterCropPad", "x", "n"), 4, X, tensor("n", shape=[4])),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZED)
def test_a_model_whose_inputs_become_sizes_is_published_in_little_memory(tried: Try, kind: str) -> None:
    found = tried(SIZED[kind])
    assert found.load[0] is GateOutcome.PASSED
    assert found.watched.peak < BASE
    assert all(end.code == 0 for end in found.watched.ends)


def case(tmp_path: Path, **inputs: Any) -> Path:
    np.savez(tmp_path / "one.npz", **{f"inputs/{name}": value for name, value in inputs.items()})
    return tmp_path / "one.npz"


def test_a_golden_case_that_asks_for_too_much_is_told_which_limit_it_met(tried: Try, tmp_path: Path) -> None:
    pads = np.array([0, 0, 0, 0, 0, 0, 1 << 14, 1 << 14])
    golden = case(tmp_path, x=np.zeros((1, 3, 4, 5), np.float32), n=pads)
    found = tried(SIZED["Pad"], [golden], memory_limit_bytes=64 * _MIB)
    assert found.load[0] is GateOutcome.FAILED
    assert found.load[1].endswith(
        "but golden/one.npz cannot be run: the model raised: a memory limit of 64 MiB was reached"
    )
    assert found.watched.peak < BASE + 64 * _MIB


def test_a_model_that_asks_for_too_much_by_itself_is_told_which_limit_it_met(tried: Try) -> None:
    large = sized(node("ConstantOfShape", "n"), 1, tensor("x", FLOAT, [1]), n=np.array([1 << 34]))
    large.graph.node[0].output[0] = "large"
    large.graph.node.append(helper.make_node("Add", ["large", "x"], ["y"]))
    found = tried(large, memory_limit_bytes=64 * _MIB)
    assert found.load[0] is not GateOutcome.PASSED
    assert "a memory limit of 64 MiB was reached" in found.load[1]
    assert found.watched.peak < BASE + 64 * _MIB


def test_inputs_that_are_too_large_to_be_made_up_are_not(tried: Try) -> None:
    found = tried(onnx_models.identity(FLOAT, [1 << 16, 1 << 16]))
    assert found.load[0] is GateOutcome.WARNED
    assert "no inputs were found that it runs on" in found.load[1]
    assert found.watched.peak < BASE


def dies(above: int) -> onnx.ModelProto:
    """y = the lowest integer / (1 or -1), the latter where x is above a number: that takes the process down."""
    values = {"above": above, "two": 2, "one": 1, "lowest": -(1 << 63)}
    return onnx_models.model(
        [
            helper.make_node("LessOrEqual", ["x", "above"], ["lives"]),
            helper.make_node("Cast", ["lives"], ["bits"], to=INT64),
            helper.make_node("Mul", ["bits", "two"], ["twice"]),
            helper.make_node("Sub", ["twice", "one"], ["sign"]),
            helper.make_node("Div", ["lowest", "sign"], ["y"]),
        ],
        [tensor("x", INT64, ["n"])],
        [tensor("y", INT64, ["n"])],
        [numpy_helper.from_array(np.array(value), name) for name, value in values.items()],
    )


def test_a_model_that_dies_of_whatever_is_made_up_is_refused_and_told_the_way_out(tried: Try, tmp_path: Path) -> None:
    assert tried(dies(above=-1)).load == (
        GateOutcome.FAILED,
        "it cannot be loaded: its process died of SIGFPE during a run, for all synthetic inputs; a golden case"
        " would show what it runs on",
    )
    assert tried(dies(above=255)).load[0] is GateOutcome.PASSED
    golden = case(tmp_path, x=np.array([-5, -7]))
    assert tried(dies(above=-1), [golden]).load[0] is GateOutcome.PASSED


def test_made_up_inputs_that_kill_are_left_out_and_others_tried(tried: Try) -> None:
    found = tried(dies(above=1))  # zeros and ones are survived
    assert found.load[0] is GateOutcome.PASSED
    assert [end.code for end in found.watched.ends if end.code] == [-signal.SIGFPE]
    assert found.watched.ends[-1].code == 0


def test_a_run_that_does_not_end_is_ended(tried: Try) -> None:
    found = tried(onnx_models.endless(), run_timeout_s=0.2)
    assert found.load == (
        GateOutcome.FAILED,
        "it cannot be loaded: a run took longer than 0.2 s, for all synthetic inputs; a golden case would show what it"
        " runs on",
    )


async def test_a_server_loads_a_model_whose_inputs_become_sizes_in_little_memory(
    models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    repository = Repository(models)
    for name, kind in (("pad", "Pad"), ("resize", "Resize"), ("shape", "ConstantOfShape of any rank")):
        source = onnx_models.save(SIZED[kind], tmp_path / f"{name}.onnx")
        publish(repository, PublishRequest(name, Version(1), source))
    before = resident_bytes()
    server = await start_server()
    versions = [
        entry for model in server.services.catalog.snapshot.models.values() for entry in model.versions.values()
    ]
    assert [str(entry.state) for entry in versions] == ["ready"] * 3
    assert resident_bytes() - before < 96 * _MIB


HOLLOW = {
    "nodes": delimited(1, b"") * 5_000_000,
    "initialisers": delimited(5, b"") * 5_000_000,
    "attributes": delimited(1, delimited(5, b"") * 4_000_000),
}


@pytest.mark.parametrize("kind", HOLLOW)
async def test_an_onnx_file_that_is_hollow_costs_the_server_nothing(start_server: StartServer, kind: str) -> None:
    server = await start_server()
    files = {"model.onnx": delimited(7, HOLLOW[kind])}
    before = resident_bytes()
    async with registry_of(server) as registry:
        upload_id = await upload(registry, files)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "reading the ONNX file takes more than 5" in (refused.value.details() or "")
    assert resident_bytes() - before < 96 * _MIB


async def test_a_golden_case_that_is_a_bomb_is_refused_in_words(start_server: StartServer, tmp_path: Path) -> None:
    server = await start_server()
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("inputs/x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 64)})
        for _ in range(128):
            member.write(bytes(_MIB))
    files = {
        "model.onnx": onnx_models.matmul().SerializeToString(),
        "golden/bomb.npz": bomb.read_bytes(),
    }
    before = resident_bytes()
    async with registry_of(server) as registry:
        upload_id = await upload(registry, files)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    message = re.sub(r"in [\d.]+ (µs|ms|s)", "in no time", refused.value.details() or "")
    assert message == (
        "gate load failed: loaded in no time on CPUExecutionProvider, but golden/bomb.npz cannot be run: golden case"
        " bomb.npz holds more than 256 MiB: 'inputs/x' alone has 1,073,741,824 elements of float32, shape"
        " [16777216, 64]"
    )
    assert resident_bytes() - before < 96 * _MIB
