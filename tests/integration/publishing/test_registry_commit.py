"""Which version numbers may be used, what may stand in a version's place, and who wins a race for it."""

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.errors import AlreadyExistsError, DigestMismatch, UnavailableError
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import locked, staged, sweep

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


def request(source: Path, version: str = "1.0.0", **fields) -> PublishRequest:
    return PublishRequest("m", Version.parse(version), source, **fields)


def left_in_staging(repository: Repository) -> list[str]:
    return [name for name in os.listdir(repository.root / ".staging") if name != ".lock"]


def test_the_same_content_again_is_a_success(repository, source):
    first = publish(repository, request(source))
    directory = repository.directory("m", V1)
    before = directory.stat().st_ino
    again = publish(repository, request(source))
    assert (first.created, again.created) == (True, False)
    assert again.digest == first.digest
    assert again.report.results == ()
    assert directory.stat().st_ino == before
    assert left_in_staging(repository) == []


def test_the_same_content_over_changed_bytes_is_no_success(repository, source):
    publish(repository, request(source))
    path = repository.directory("m", V1) / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DigestMismatch, match=r"m 1\.0\.0: model\.onnx is not what was published"):
        publish(repository, request(source))


def test_other_content_under_the_same_version_is_refused_with_both_digests(repository, source, tmp_path):
    first = publish(repository, request(source))
    other = onnx_models.save(onnx_models.matmul(seed=1), tmp_path / "other.onnx")
    with pytest.raises(AlreadyExistsError) as refused:
        publish(repository, request(other))
    assert refused.value.message.startswith(f"m 1.0.0 exists with other content: published {first.digest}, offered sha")
    assert repository.verify("m", V1).digest == first.digest
    assert left_in_staging(repository) == []


def test_other_metadata_is_other_content(repository, source):
    publish(repository, request(source))
    with pytest.raises(AlreadyExistsError):
        publish(repository, request(source, metadata=VersionMetadata(notes="better")))


@pytest.mark.parametrize(("first", "second"), [("1.0.0", "1.0.0+b"), ("1.0.0+a", "1.0.0+b"), ("1.0.0+a", "1.0.0")])
def test_a_version_that_differs_in_build_metadata_alone_is_refused(repository, source, first, second):
    publish(repository, request(source, first))
    with pytest.raises(AlreadyExistsError) as refused:
        publish(repository, request(source, second))
    assert f"m {second} differs from the published {first} in build metadata alone" in refused.value.message
    assert not publish(repository, request(source, first)).created


def test_a_prerelease_is_another_version(repository, source):
    for version in ("1.0.0-rc.1", "1.0.0-rc.2", "1.0.0", "1.0.1"):
        assert publish(repository, request(source, version)).created


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0+other"])
def test_a_yanked_version_is_never_reusable(repository, source, version):
    with pytest.raises(AlreadyExistsError, match="was yanked; publish under another version"):
        publish(repository, request(source, version), yanked=lambda: {V1})
    publish(repository, request(source))
    with pytest.raises(AlreadyExistsError, match="was yanked"):
        publish(repository, request(source), yanked=lambda: {V1})


def test_a_yank_while_the_gates_run_counts(repository, source):
    yanked: set[Version] = set()
    with pytest.raises(AlreadyExistsError, match="was yanked"):
        publish(
            repository,
            request(source),
            gates=[Look(lambda candidate: yanked.add(V1))],
            yanked=lambda: frozenset(yanked),
        )
    assert repository.published() == ()


def test_a_directory_filled_by_hand_becomes_a_version_in_place(repository):
    home = repository.root / "m" / "1.0.0"
    source = onnx_models.save_external(home)
    inode = source.stat().st_ino
    result = publish(repository, request(source))
    assert result.created
    assert source.stat().st_ino == inode
    assert stat.S_IMODE(source.stat().st_mode) == 0o444
    assert repository.verify("m", V1).digest == result.digest
    assert not publish(repository, request(source)).created


def test_a_directory_that_holds_more_than_the_version_is_left_as_it_is(repository):
    home = repository.root / "m" / "1.0.0"
    source = onnx_models.save_external(home)
    (home / "training.log").write_text("precious")
    with pytest.raises(AlreadyExistsError, match=r"m 1\.0\.0: something that is not a version is in its place"):
        publish(repository, request(source))
    assert sorted(os.listdir(home)) == ["model.onnx", "training.log", "weights.data"]
    assert repository.published() == ()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_the_versions_place_is_not_overwritten(repository, source, tmp_path, kind):
    place = repository.root / "m" / "1.0.0"
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("precious")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExistsError):
        publish(repository, request(source))
    assert place.is_symlink() if kind == "link" else place.read_text() == "precious"


def test_an_empty_directory_is_in_nobodys_way(repository, source):
    (repository.root / "m" / "1.0.0").mkdir(parents=True)
    assert publish(repository, request(source)).created


def test_a_link_in_the_models_place_is_not_published_through(repository, source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    repository.root.mkdir()
    (repository.root / "m").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExistsError, match="the directory of m is a link"):
        publish(repository, request(source))


def test_a_version_with_an_unreadable_manifest_is_not_overwritten(repository, source):
    publish(repository, request(source))
    manifest = repository.directory("m", V1) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    with pytest.raises(
        AlreadyExistsError, match=r"a version that cannot be read has this number: m 1\.0\.0: manifest\.json"
    ):
        publish(repository, request(source))


def test_many_threads_that_publish_one_version_make_one(repository, tmp_path):
    sources = [onnx_models.save(onnx_models.matmul(8, seed=i), tmp_path / f"{i}.onnx") for i in range(6)]
    ready = threading.Barrier(len(sources))
    outcomes: list[str] = []

    def attempt(source: Path) -> None:
        try:
            publish(repository, request(source), gates=[Look(lambda candidate: ready.wait(100))])
            outcomes.append("created")
        except AlreadyExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcomes) == ["created"] + ["refused"] * 5
    repository.verify("m", V1)
    assert left_in_staging(repository) == []


def test_many_threads_that_publish_the_same_content_all_succeed_and_one_creates(repository, source):
    ready = threading.Barrier(5)
    created: list[bool] = []

    def attempt() -> None:
        gates = [Look(lambda candidate: ready.wait(100))]
        created.append(publish(repository, request(source), gates=gates).created)

    threads = [threading.Thread(target=attempt) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(created) == [False] * 4 + [True]


def test_build_metadata_twins_that_race_make_one(repository, source):
    ready = threading.Barrier(4)
    outcomes: list[str] = []

    def attempt(build: int) -> None:
        try:
            publish(repository, request(source, f"1.0.0+b{build}"), gates=[Look(lambda candidate: ready.wait(100))])
            outcomes.append("created")
        except AlreadyExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcomes) == ["created"] + ["refused"] * 3
    assert len(repository.published()) == 1


def test_the_lock_is_waited_for_with_a_bound(tmp_path):
    with (
        staged(tmp_path),
        locked(tmp_path),
        pytest.raises(UnavailableError, match=r"held the repository's lock for 0\.05 s") as refused,
        locked(tmp_path, timeout=0.05),
    ):
        pass
    assert refused.value.retry_after == 1.0


def test_staging_disappears_with_its_builder_and_not_before(tmp_path):
    with staged(tmp_path) as directory:
        (directory / "model.onnx").write_text("half")
        assert sweep(tmp_path) == ()
        assert directory.exists()
    assert not directory.parent.exists()


def test_a_sweep_that_cannot_have_the_lock_leaves_it_to_a_later_one(tmp_path):
    stale = tmp_path / ".staging" / ("0" * 32)
    stale.mkdir(parents=True)
    with locked(tmp_path):
        assert sweep(tmp_path) == ()
    assert sweep(tmp_path) == (stale.name,)
