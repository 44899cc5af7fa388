from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime as ort
import pytest
from onnx import ModelProto
from semver import Version

import onnx_models
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict, Skip, run_gates
from turnout.registry.gates.integrity import IntegrityGate
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.onnx.model import read_model
from turnout.registry.onnx.runtime import refusal
from turnout.registry.storage.files import copy_file


@dataclass
class FixedGate:
    name: str
    outcome: GateOutcome
    ran: list[str] = field(default_factory=list)

    def run(self, candidate: Candidate) -> GateVerdict:
        self.ran.append(candidate.manifest.model)
        return GateVerdict(self.outcome, f"{self.name} {self.outcome}")


@pytest.fixture
def candidate(tmp_path: Path):
    def stage(proto: ModelProto, *extra: str) -> Candidate:
        source, directory = onnx_models.save(proto, tmp_path / "source.onnx"), tmp_path / "staged"
        with source.open("rb") as file:
            files = [copy_file(file, directory, "model.onnx")]
        for path in extra:
            with (tmp_path / path).open("rb") as file:
                files.append(copy_file(file, directory, path))
        facts = read_model(directory / "model.onnx")
        manifest = Manifest(
            "m", Version(1), tuple(sorted(files, key=lambda f: f.path)), facts.signature, facts.opset, facts.ir_version
        )
        return Candidate(directory, manifest, manifest_digest(manifest), facts)

    return stage


def test_gates_run_in_order_until_one_fails(candidate):
    gates = [
        FixedGate("a", GateOutcome.PASSED),
        FixedGate("b", GateOutcome.SKIPPED),
        FixedGate("c", GateOutcome.FAILED),
    ]
    last = FixedGate("d", GateOutcome.PASSED)
    watched: list[str] = []
    unwanted = FixedGate("unwanted", GateOutcome.FAILED)
    skips = [Skip("unwanted", "it is slow")]
    report = run_gates([unwanted, *gates, last], candidate(onnx_models.scalar()), skips, watched.append)
    assert watched == ["a", "b", "c"], "the gates that ran"
    assert [(r.gate, r.verdict.outcome) for r in report.results] == [
        ("unwanted", GateOutcome.SKIPPED),
        ("a", GateOutcome.PASSED),
        ("b", GateOutcome.SKIPPED),
        ("c", GateOutcome.FAILED),
        ("d", GateOutcome.SKIPPED),
    ]
    assert report.failure == report.results[3]
    assert report.results[4].verdict.evidence == "not run, since c failed"
    assert last.ran == []


def test_no_gates_make_an_empty_report(candidate):
    assert run_gates([], candidate(onnx_models.scalar())).failure is None


@pytest.mark.parametrize(
    "proto",
    [
        onnx_models.matmul(),
        onnx_models.add_with_default(),
        onnx_models.string_identity(),
        onnx_models.bfloat16_cast(),
        onnx_models.scalar(),
        onnx_models.if_with_weights(),
        onnx_models.constant_node(),
    ],
)
def test_a_sound_model_passes_with_its_evidence(candidate, proto):
    verdict = IntegrityGate().run(candidate(proto))
    assert verdict.outcome is GateOutcome.PASSED
    assert f"ONNX Runtime {ort.__version__} takes its operator sets and IR version 8" in verdict.evidence
    assert verdict.evidence.endswith("its shapes are consistent")


def test_external_data_is_checked_where_it_lies(candidate, tmp_path):
    proto = onnx_models.matmul()
    (tmp_path / "w.data").write_bytes(onnx_models.move_out(proto.graph.initializer[0], "w.data"))
    verdict = IntegrityGate().run(candidate(proto, "w.data"))
    assert verdict.outcome is GateOutcome.PASSED
    assert "1 files of weights inside its directory" in verdict.evidence


def test_a_tensor_that_reaches_beyond_its_file_fails(candidate, tmp_path):
    proto = onnx_models.matmul()
    (tmp_path / "w.data").write_bytes(onnx_models.move_out(proto.graph.initializer[0], "w.data")[:-1])
    verdict = IntegrityGate().run(candidate(proto, "w.data"))
    assert verdict == GateVerdict(
        GateOutcome.FAILED, "w.data has 16383 bytes, and the model's tensors reach to byte 16384"
    )


def test_a_staged_file_that_the_manifest_does_not_know_fails(candidate):
    staged = candidate(onnx_models.scalar())
    (staged.directory / "more").write_text("")
    verdict = IntegrityGate().run(staged)
    assert verdict == GateVerdict(GateOutcome.FAILED, "the staged files are not those of the manifest: more")


def test_a_staged_link_fails(candidate, tmp_path):
    staged = candidate(onnx_models.scalar())
    (staged.directory / "model.onnx").unlink()
    (staged.directory / "model.onnx").symlink_to(tmp_path / "source.onnx")
    verdict = IntegrityGate().run(staged)
    assert verdict == GateVerdict(GateOutcome.FAILED, "the staged files are not those of the manifest: model.onnx")


def test_a_malformed_graph_fails_in_a_sentence_without_a_path(candidate):
    proto = onnx_models.matmul()
    proto.graph.node[0].input[1] = "nowhere"
    staged = candidate(proto)
    verdict = IntegrityGate().run(staged)
    assert verdict.outcome is GateOutcome.FAILED
    assert verdict.evidence.startswith("ONNX's checker refuses the model: ")
    assert "nowhere" in verdict.evidence
    assert "\n" not in verdict.evidence
    assert str(staged.directory) not in verdict.evidence


def test_contradictory_shapes_are_told_and_refuse_nothing_that_the_runtime_loads(candidate):
    proto = onnx_models.identity(shape=[3, 4])
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5
    options = ort.SessionOptions()
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    verdict = IntegrityGate().run(candidate(proto))
    assert verdict.outcome is GateOutcome.PASSED
    assert "shape inference complains, which refuses nothing: " in verdict.evidence


def test_a_kind_of_model_that_the_runtime_does_not_take_fails(candidate):
    staged = candidate(onnx_models.scalar())
    future = replace(staged, manifest=replace(staged.manifest, ir_version=99))
    verdict = IntegrityGate().run(future)
    assert verdict.outcome is GateOutcome.FAILED
    assert verdict.evidence.startswith(f"ONNX Runtime {ort.__version__} takes ONNX IR versions up to ")


def test_the_runtime_is_asked_and_no_table():
    assert refusal(8, {"": 17, "com.example": 5}) is None
    assert refusal(99, {"": 17}).endswith(", the model has 99")
    assert refusal(8, {"": 999}).endswith(", the model imports 999")
    assert "takes operator set ai.onnx.ml up to version " in refusal(8, {"": 17, "ai.onnx.ml": 999})
    assert "takes no model of ONNX IR version 8 with operator sets " in refusal(8, {})
