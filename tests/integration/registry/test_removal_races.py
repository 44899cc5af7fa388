"""Versions that are removed while others look at them, load them or remove them too."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.errors import NotLoaded, UnavailableError
from turnout.host import files
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage import in_use, scanning
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import locked

V1 = Version(1)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    publish(repository, PublishRequest("m", V1, onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")))
    return repository


def test_two_who_remove_a_version_at_once_both_succeed(repository: Repository, monkeypatch) -> None:
    claimed, claim = threading.Semaphore(0), in_use._claim

    def counted(*given: object) -> int | None:
        claimed.release()
        return claim(*given)

    monkeypatch.setattr(in_use, "_claim", counted)
    with ThreadPoolExecutor(2) as pool:
        with locked(repository.root):  # both have seen the version before either removes it
            both = [pool.submit(in_use.remove, repository, "m", V1, 60.0) for _ in range(2)]
            for _ in both:
                assert claimed.acquire(timeout=60)
        for one in both:
            one.result(60)
    assert repository.scan().versions("m") == ()
    assert [path.name for path in (repository.root / ".staging").iterdir()] == [".lock"]


def test_the_directory_of_a_model_goes_with_its_last_version_and_not_under_a_publisher(
    repository: Repository, monkeypatch
) -> None:
    """A publisher creates the model's directory and renames the version into it, both under the repository's lock."""
    shutil.rmtree(repository.root / "m" / ".attestations")
    removed, rmdir = [], Path.rmdir

    def watched(path: Path) -> None:
        with pytest.raises(UnavailableError), locked(repository.root, timeout=0):
            pass
        removed.append(path.name)
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", watched)
    in_use.remove(repository, "m", V1, 1.0)
    assert removed == ["m"]
    assert not (repository.root / "m").exists()


def test_a_version_that_is_removed_at_the_moment_of_its_load_is_pruned_not_damaged(
    repository: Repository, monkeypatch
) -> None:
    try_lock = files.try_lock

    def late(descriptor: int, *, shared: bool = False) -> bool:
        monkeypatch.setattr(files, "try_lock", try_lock)
        in_use.remove(repository, "m", V1, 1.0)
        return try_lock(descriptor, shared=shared)

    monkeypatch.setattr(files, "try_lock", late)
    with pytest.raises(NotLoaded, match=r"m 1\.0\.0 is being pruned"):
        in_use.hold(repository, "m", V1)


@pytest.mark.parametrize("step", ["unpublished", "read_version"])
def test_a_version_that_is_removed_while_it_is_listed_is_no_problem(
    repository: Repository, monkeypatch, step: str
) -> None:
    look = getattr(scanning, step)

    def late(directory: Path, *given: str) -> object:
        shutil.rmtree(directory)
        return look(directory, *given)

    if step == "unpublished":
        (repository.directory("m", V1) / "manifest.json").unlink()
    monkeypatch.setattr(scanning, step, late)
    listing = repository.scan()
    assert (listing.published, listing.problems) == ((), ())
