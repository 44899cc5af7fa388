"""A publish leaves the disk as it was if the version does not fit, and does not fill it to find that out."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.errors import Exhausted, InvalidModel
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage import attestations, files
from turnout.registry.storage.files import write_file
from turnout.registry.storage.repository import Repository

V1 = Version(1)


def sparse(path: Path, size: int) -> None:
    """Makes a file that takes no room, and claims any size."""
    path.touch()
    try:
        os.truncate(path, size)
    except OSError as error:
        pytest.skip(f"this file system has no such files: {error.strerror}")


def copied(repository: Repository, source: Path) -> list[int]:
    """Publishes a model that cannot be; returns how many bytes were copied first."""
    blocks: list[int] = []
    with pytest.raises((Exhausted, InvalidModel)):
        publish(repository, PublishRequest("m", V1, source), progress=blocks.append)
    assert [path.name for path in (repository.root / ".staging").iterdir()] == [".lock"]
    return blocks


def test_external_data_that_has_no_room_is_not_copied(tmp_path: Path) -> None:
    source = onnx_models.save_external(tmp_path)
    sparse(tmp_path / "weights.data", shutil.disk_usage(tmp_path).free + (1 << 30))
    assert copied(Repository(tmp_path / "models"), source) == [source.stat().st_size]


def test_an_onnx_file_that_is_too_large_is_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    sparse(source, 1 << 31)
    assert copied(Repository(tmp_path / "models"), source) == []


def test_a_file_that_could_not_be_written_to_its_end_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "seal", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "a", b"a")
    repository = Repository(tmp_path / "models")
    with pytest.raises(OSError, match="No space left"):
        attestations.add(repository, "m", V1, "gates", b"{}")
    assert attestations.names(repository, "m", V1) == []
