"""A state store whose file is damaged refuses every change at once, whichever pages the change would use."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from semver import Version

from turnout.errors import UnavailableError
from turnout.state.store import StateStore

ONE = Version(1)
WHO = {"actor": "ann", "reason": "it is fit"}
PAGE = 4096

CHANGES: dict[str, Callable[[StateStore], object]] = {
    "release": lambda store: store.release("m", ONE, **WHO),
    "yank": lambda store: store.yank("m", ONE, refuse=lambda uses: None, **WHO),
    "tag": lambda store: store.set_tag("m", "stable", ONE, **WHO),
    "policy": lambda store: store.put_policy("m", {"a": 1}, expected_epoch=0, action="set", **WHO),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state store's file, with all of its contents in the file itself."""
    path = tmp_path / "state.db"
    with StateStore.open(f"sqlite:///{path}") as store:
        for number in range(20):
            store.release(f"other-{number}", ONE, **WHO)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path


def _refuses(store: StateStore, change: str) -> None:
    with pytest.raises(UnavailableError, match=r"the state store cannot be used: its file (is damaged|was cut off)"):
        CHANGES[change](store)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_cut_off_refuses_changes_of_the_pages_that_are_left(path, change) -> None:
    size = path.stat().st_size
    for left in (size - PAGE, size - 1, size // 2, size // 2 // PAGE * PAGE, PAGE, 100):
        cut = path.with_name(f"cut-{left}.db")
        cut.write_bytes(path.read_bytes())
        with StateStore.open(f"sqlite:///{cut}") as store:
            store.release_state()
            os.truncate(cut, left)
            _refuses(store, change)
            _refuses(store, change)


@pytest.mark.parametrize("change", CHANGES)
def test_what_one_transaction_found_damaged_refuses_the_changes_of_others(path, change) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rollouts'").fetchone()
    with StateStore.open(f"sqlite:///{path}") as store:
        with path.open("r+b") as file:
            file.seek((root - 1) * PAGE)
            file.write(b"\xa5" * PAGE)
        with pytest.raises(UnavailableError, match="its file is damaged"):
            store.rollouts()
        _refuses(store, change)


def test_a_file_that_the_url_names_relatively_is_checked_too(path, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    with StateStore.open(f"sqlite:///{path.name}") as store:
        CHANGES["release"](store)
        monkeypatch.chdir("/")
        CHANGES["tag"](store)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        os.truncate(path, PAGE)
        _refuses(store, "policy")


def test_a_file_that_is_whole_again_takes_changes(path) -> None:
    content = path.read_bytes()
    with StateStore.open(f"sqlite:///{path}") as store:
        os.truncate(path, PAGE)
        _refuses(store, "release")
        path.write_bytes(content)
        for _ in range(500):
            with suppress(UnavailableError):
                store.check()
                break
            time.sleep(0.02)
        CHANGES["release"](store)


def test_a_file_that_an_operator_compacted_takes_changes(path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE large (content)")
        connection.execute("INSERT INTO large VALUES (zeroblob(1000000))")
        connection.commit()
        connection.execute("DROP TABLE large")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = path.stat().st_size
    with StateStore.open(f"sqlite:///{path}") as store:
        store.release_state()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert path.stat().st_size < before
        for change in ("release", "tag", "policy", "yank"):
            CHANGES[change](store)
        assert store.policies()["m"].document == {"a": 1}
