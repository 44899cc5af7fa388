import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from semver import Version

import onnx_models
from turnout.errors import ConfigError, InvalidModel, InvalidRequest
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Tolerance
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository

V1 = Version(1)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.matmul(), tmp_path / "source.onnx")


@dataclass
class Look:
    """A gate that calls what it is given with the candidate, and passes."""

    name = "look"
    call: object

    def run(self, candidate: Candidate) -> GateVerdict:
        self.call(candidate)
        return GateVerdict(GateOutcome.PASSED, "looked")


class Refuse:
    name = "refuse"

    def run(self, candidate: Candidate) -> GateVerdict:
        return GateVerdict(GateOutcome.FAILED, "the numbers are wrong")


def request(source: Path, version: str = "1.0.0", **fields) -> PublishRequest:
    return PublishRequest("m", Version.parse(version), source, **fields)


def left_in_staging(repository: Repository) -> list[str]:
    return [name for name in os.listdir(repository.root / ".staging") if name != ".lock"]


def test_a_published_version_is_complete_read_only_and_runs(repository, tmp_path):
    source = onnx_models.save_external(tmp_path / "work", location="deep/weights.data")
    np.savez(tmp_path / "one.npz", **{"inputs/x": np.ones((1, 64), np.float32)})
    result = publish(repository, request(source, golden=(tmp_path / "one.npz",)))
    assert result.created
    assert [(r.gate, str(r.verdict.outcome)) for r in result.report.results] == [
        ("integrity", "passed"),
        ("bump", "skipped"),
    ]
    assert result.report.failure is None
    directory = repository.directory("m", V1)
    files = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    assert sorted(files) == ["deep/weights.data", "golden/one.npz", "manifest.json", "model.onnx"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in files.values())
    assert [entry.path for entry in result.manifest.files] == ["deep/weights.data", "golden/one.npz", "model.onnx"]
    assert repository.verify("m", V1, expected=result.digest).manifest == result.manifest
    assert left_in_staging(repository) == []
    ours = ort.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    theirs = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)
    np.testing.assert_array_equal(ours.run(None, {"x": x})[0], theirs.run(None, {"x": x})[0])


def test_the_manifest_holds_what_the_publisher_says(repository, source):
    metadata = VersionMetadata(
        description="d",
        free={"rows": 3},
        batching=BatchingDeclaration(max_rows=8, axes={"x": 0, "y": 0}),
        tolerances={"y": Tolerance(0.1, 0.2)},
    )
    publish(repository, request(source, metadata=metadata))
    manifest = repository.find("m", V1).manifest
    assert manifest.metadata == {"description": "d", "rows": 3}
    assert manifest.batching == metadata.batching
    assert manifest.tolerances == metadata.tolerances
    assert (dict(manifest.opset), manifest.ir_version) == ({"": 17}, 8)


def test_a_failed_gate_leaves_nothing_and_is_named(repository, source):
    with pytest.raises(InvalidModel) as refused:
        publish(repository, request(source), gates=[Refuse()])
    assert refused.value.message == "gate refuse failed: the numbers are wrong"
    assert [(v.field, v.description) for v in refused.value.violations] == [("refuse", "the numbers are wrong")]
    assert repository.scan().published == ()
    assert left_in_staging(repository) == []


def test_a_gate_sees_the_files_and_no_version_yet(repository, source):
    seen = []

    def look(candidate: Candidate) -> None:
        seen.append(sorted(path.name for path in candidate.directory.iterdir()))
        seen.append((candidate.manifest.model, candidate.digest, candidate.facts.ir_version))
        assert repository.scan().published == ()
        assert repository.scan().problems == ()

    result = publish(repository, request(source), gates=[Look(look)])
    assert seen == [["model.onnx"], ("m", result.digest, 8)]


def test_a_gate_that_raises_leaves_nothing(repository, source):
    def interrupt(candidate: Candidate) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(repository, request(source), gates=[Look(interrupt)])
    assert repository.published() == ()
    assert left_in_staging(repository) == []


@pytest.mark.parametrize("name", [".magika", "..", "a/b", ""])
def test_a_name_is_checked_before_a_path_is_made_of_it(repository, source, name):
    with pytest.raises(InvalidRequest):
        publish(repository, PublishRequest(name, V1, source))
    assert not repository.root.exists()


def test_the_model_file_may_be_a_link(repository, source, tmp_path):
    (tmp_path / "link.onnx").symlink_to(source)
    publish(repository, request(tmp_path / "link.onnx"))
    assert not (repository.directory("m", V1) / "model.onnx").is_symlink()
    repository.verify("m", V1)


@pytest.mark.parametrize("kind", ["file", "directory", "pipe", "missing"])
def test_external_data_that_is_no_plain_file_inside_is_refused(repository, tmp_path, kind):
    source = onnx_models.save_external(tmp_path / "work", location="deep/weights.data")
    weights = tmp_path / "work" / "deep" / "weights.data"
    if kind == "directory":
        weights.parent.rename(tmp_path / "deep")
        weights.parent.symlink_to(tmp_path / "deep")
    else:
        weights.rename(tmp_path / "weights.data")
        if kind == "file":
            weights.symlink_to(tmp_path / "weights.data")
        elif kind == "pipe":
            os.mkfifo(weights)
    message = {"missing": "is missing", "pipe": "is a FIFO, expected a regular file"}.get(
        kind, "is a link, or no regular file"
    )
    with pytest.raises(InvalidModel) as refused:
        publish(repository, request(source))
    assert refused.value.message == f"external data 'deep/weights.data' {message}"
    assert left_in_staging(repository) == []


@pytest.mark.parametrize("location", ["../weights.data", "/etc/hostname"])
def test_external_data_outside_the_directory_is_refused(repository, tmp_path, location):
    proto = onnx_models.matmul()
    onnx_models.move_out(proto.graph.initializer[0], location)
    with pytest.raises(InvalidModel, match="expected a relative path that does not leave the model's directory"):
        publish(repository, request(onnx_models.save(proto, tmp_path / "work" / "model.onnx")))


def test_a_model_file_that_is_missing_a_directory_or_a_pipe_is_refused(repository, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none.onnx", "the ONNX file is missing"),
        (tmp_path, "the ONNX file is a directory, expected a regular file"),
        (tmp_path / "pipe", "the ONNX file is a FIFO, expected a regular file"),
    ):
        with pytest.raises(InvalidModel) as refused:
            publish(repository, request(path))
        assert refused.value.message == message


def test_metadata_about_inputs_that_do_not_exist_is_refused(repository, source):
    with pytest.raises(InvalidModel, match=r"^batching\.axes\.z: "):
        publish(repository, request(source, metadata=VersionMetadata(batching=BatchingDeclaration(axes={"z": 0}))))


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (
            "a.npz",
            {"inputs/z": [1.0], "inputs/x": [1.0]},
            "golden case a.npz has an input 'z' that the model does not have",
        ),
        (
            "a.npz",
            {"inputs/x": [1], "outputs/z": [1]},
            "golden case a.npz has an output 'z' that the model does not have",
        ),
        (
            "a.npz",
            {"x": [1.0]},
            "golden case a.npz holds 'x'; expected names of the form inputs/NAME and outputs/NAME, or labels/NAME",
        ),
        ("a b.npz", {"inputs/x": [1.0]}, "golden case 'a b.npz': expected a plain name that ends in .npz"),
    ],
)
def test_a_golden_case_that_does_not_fit_the_model_is_refused(repository, source, tmp_path, name, arrays, message):
    np.savez(tmp_path / name, **arrays)
    with pytest.raises(InvalidModel) as refused:
        publish(repository, request(source, golden=(tmp_path / name,)))
    assert refused.value.message == message


@pytest.mark.parametrize("name", ["a.npz", "A.npz"], ids=["the same", "but for case"])
def test_two_golden_cases_of_one_name_are_refused(repository, source, tmp_path, name):
    (tmp_path / "other").mkdir()
    paths = (tmp_path / "a.npz", tmp_path / "other" / name)
    for path in paths:
        np.savez(path, **{"inputs/x": np.ones((1, 64), np.float32)})
    with pytest.raises(InvalidModel, match=r"two golden cases are named 'a\.npz'"):
        publish(repository, request(source, golden=paths))


def test_what_the_source_becomes_meanwhile_does_not_matter(repository, source, tmp_path):
    expected = source.read_bytes()

    def change(candidate: Candidate) -> None:
        onnx_models.save(onnx_models.matmul(seed=9), source)

    publish(repository, request(source), gates=[Look(change)])
    assert (repository.directory("m", V1) / "model.onnx").read_bytes() == expected
    repository.verify("m", V1)


def test_progress_tells_of_every_byte_copied(repository, source):
    blocks: list[int] = []
    publish(repository, request(source), progress=blocks.append)
    assert sum(blocks) == source.stat().st_size


def test_a_root_that_cannot_be_a_directory_is_an_error_of_configuration(tmp_path, source):
    (tmp_path / "models").write_text("")
    with pytest.raises(ConfigError, match="the repository cannot be used"):
        publish(Repository(tmp_path / "models"), request(source))


def test_sweeping_leaves_a_live_publish_alone(repository, source):
    swept = []
    publish(repository, request(source), gates=[Look(lambda candidate: swept.append(repository.sweep()))])
    assert swept == [()]
    assert repository.verify("m", V1)


def test_the_names_of_files_in_a_manifest_never_leave_the_directory():
    for path in ("../a", "/a", "a/../b", "a//b", "", ".", "a\\b", "a\0b"):
        with pytest.raises(ValueError, match="leaves the version's directory"):
            FileEntry(path, 0, f"sha256:{'0' * 64}")
