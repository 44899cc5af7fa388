"""Directories of a process's own: in memory, on the disk, and where there is no disk to write to."""

import tempfile
from pathlib import Path

import pytest

from turnout.errors import ConfigError
from turnout.scratch import Scratch, place_for_temporary_files


def test_what_was_made_is_gone_at_the_end() -> None:
    with Scratch() as scratch:
        made = [scratch.memory(), scratch.disk()]
        assert made == [scratch.memory(), scratch.disk()]
        (made[0] / "file").touch()
    assert [directory.exists() for directory in made] == [False, False]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory takes temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.delenv("TMPDIR", raising=False)


def test_temporary_files_go_to_memory_where_there_is_no_place_for_them(
    nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "")  # to be put back
    place_for_temporary_files()
    with tempfile.TemporaryDirectory() as directory:
        assert Path(directory).parent == Path("/dev/shm")


def test_a_place_that_there_is_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place_for_temporary_files()
    assert tempfile.gettempdir() == str(tmp_path)


def test_without_any_place_it_is_said_what_to_do(nowhere: None) -> None:
    with pytest.raises(ConfigError, match=r"mount one at /tmp, or name one with TMPDIR"):
        Scratch().disk()
