"""Several threads and processes on one store, and processes that die in the middle."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Event

import pytest
from semver import Version

from turnout.errors import UnavailableError
from turnout.state.database.engine import Database, Location
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "it was time"}
V1 = Version.parse("1.0.0")

_OPEN_AND_RELEASE = """
import sys
from semver import Version
from turnout.state.store import StateStore
print("ready", flush=True)
sys.stdin.readline()
with StateStore.open(sys.argv[1]) as store:
    store.release("magika", Version(1, 0, int(sys.argv[2])), actor="ada", reason="")
"""

_MOVE_TAG = """
import sys
from semver import Version
from turnout.state.store import StateStore
with StateStore.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for patch in range(20):
        store.set_tag("magika", "stable", Version(1, int(sys.argv[2]), patch), actor=sys.argv[2], reason="")
"""

# The clock is read when a change stands in its transaction and is not yet committed.
_STOP_BEFORE_COMMIT = """
import sys
from semver import Version
from turnout.state.store import StateStore
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
store = StateStore.open(sys.argv[1], now=wait)
store.set_tag("magika", "stable", Version(2, 0, 0), actor="ada", reason="")
"""

# All rows of the change are written when its transaction, the only one after opening, is about to be committed.
_STOP_AT_COMMIT_OF_A_POLICY = """
import sys
from sqlalchemy import Engine, event
from turnout.state.store import StateStore
store = StateStore.open(sys.argv[1])
@event.listens_for(Engine, "commit")
def wait(connection):
    (rows,) = connection.exec_driver_sql("SELECT count(*) FROM policies").one()
    print("ready" if rows == 2 else rows, flush=True)
    sys.stdin.readline()
store.put_policy("magika", {"baseline": "2.0.0"}, expected_epoch=1, action="set", actor="ada", reason="")
"""


@contextmanager
def process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `program` until it says that it is ready."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def assert_no_update_was_lost(store: StateStore, changes: int) -> None:
    """Every move of the one tag starts from where the move before it ended."""
    events = store.events(limit=changes + 1)[::-1]
    assert [event.id for event in events] == list(range(1, changes + 1))
    assert [event.payload["previous"] for event in events] == [None, *(e.payload["version"] for e in events[:-1])]
    release_state = store.release_state()
    assert release_state.revision == store.revision() == changes
    assert str(release_state.of("magika").tags["stable"]) == events[-1].payload["version"]


def test_threads_that_change_one_tag_lose_no_update(state_url: str) -> None:
    with StateStore.open(state_url) as store:

        def move(thread: int) -> None:
            for patch in range(10):
                store.set_tag("magika", "stable", Version(1, thread, patch), **WHO)

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(move, range(6)))
        assert_no_update_was_lost(store, 60)


def test_one_of_many_who_release_a_version_at_once_did_it(state_url: str) -> None:
    with StateStore.open(state_url) as store:
        start = Barrier(6)

        def release(_: int) -> bool:
            start.wait()
            return store.release("magika", V1, **WHO)

        with ThreadPoolExecutor(6) as threads:
            assert sorted(threads.map(release, range(6))) == [False] * 5 + [True]
        assert store.revision() == 1


def test_a_reader_sees_a_revision_whole(state_url: str) -> None:
    with StateStore.open(state_url) as store, ThreadPoolExecutor(1) as writer:

        def write() -> None:
            for patch in range(40):
                store.release("magika", Version(1, 0, patch), **WHO)

        writing = writer.submit(write)
        seen = 0
        while not writing.done() or seen < 40:
            release_state = store.release_state()
            assert len(release_state.of("magika").release_statuses) == release_state.revision >= seen
            seen = release_state.revision
        writing.result()


def test_threads_that_open_different_databases_at_once_migrate_each(tmp_path: Path) -> None:
    start = Barrier(5)

    def open_and_release(number: int) -> int:
        start.wait()
        with StateStore.open(f"sqlite:///{tmp_path}/{number}/state.db") as store:
            store.release("magika", V1, **WHO)
            return store.revision()

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(open_and_release, range(5))) == [1] * 5


def test_closing_waits_for_the_call_that_is_running(state_url: str) -> None:
    begun, finish = Event(), Event()

    def clock() -> datetime:
        begun.set()
        assert finish.wait(100)
        return datetime.now(UTC)

    store = StateStore.open(state_url, now=clock)
    with ThreadPoolExecutor(2) as threads:
        releasing = threads.submit(store.release, "magika", V1, **WHO)
        assert begun.wait(100)
        closing = threads.submit(store.close)
        assert not releasing.done()
        assert not closing.done()
        finish.set()
        assert releasing.result(10) is True
        closing.result(10)
    with StateStore.open(state_url) as store:
        assert store.revision() == 1


def test_readers_do_not_wait_for_a_writer_and_writers_not_forever(state_url: str) -> None:
    with StateStore.open(state_url) as store, StateStore.open(state_url, lock_wait=0.1) as hurried:
        store.release("magika", V1, **WHO)
        begun, finish = Event(), Event()

        def clock() -> datetime:
            begun.set()
            assert finish.wait(100)
            return datetime.now(UTC)

        with StateStore.open(state_url, now=clock) as slow, ThreadPoolExecutor(1) as thread:
            tagging = thread.submit(slow.set_tag, "magika", "stable", V1, **WHO)
            try:
                assert begun.wait(100)
                assert store.release_state().revision == 1
                with pytest.raises(UnavailableError, match="lock was held for too long") as caught:
                    hurried.set_tag("magika", "next", V1, **WHO)
                assert caught.value.retry_after == 1.0
            finally:
                finish.set()
            tagging.result(10)
        assert hurried.set_tag("magika", "next", V1, **WHO) is None
        assert store.revision() == 3


@pytest.mark.slow
def test_processes_that_change_one_tag_lose_no_update(state_url: str) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(process(_MOVE_TAG, state_url, str(n))) for n in range(3)]
        for child in children:
            go_on(child)
        assert [child.wait(60) for child in children] == [0, 0, 0]
    with StateStore.open(state_url) as store:
        assert_no_update_was_lost(store, 60)


@pytest.mark.slow
def test_five_processes_that_open_a_new_database_at_once_migrate_it_once(state_url: str) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(process(_OPEN_AND_RELEASE, state_url, str(n))) for n in range(5)]
        for child in children:
            go_on(child)
        assert [child.wait(60) for child in children] == [0] * 5
    with StateStore.open(state_url) as store:
        # A second migration would fail on the first one's tables, or begin the count again.
        assert store.revision() == 5
        assert len(store.release_state().of("magika").release_statuses) == 5
    with closing(Database(Location.parse(state_url))) as database, database.reading() as connection:
        assert len(connection.exec_driver_sql("SELECT * FROM alembic_version").all()) == 1
        assert len(connection.exec_driver_sql("SELECT * FROM revision").all()) == 1


@pytest.mark.slow
def test_a_process_killed_in_mid_transaction_leaves_the_earlier_state(state_url: str) -> None:
    with StateStore.open(state_url) as store:
        store.release("magika", V1, **WHO)
        store.set_tag("magika", "stable", V1, **WHO)
        before = store.release_state()
        with process(_STOP_BEFORE_COMMIT, state_url) as child:
            assert store.release_state() == before
            child.send_signal(signal.SIGKILL)
            assert child.wait(100) == -signal.SIGKILL
        assert store.release_state() == before
        assert len(store.events()) == 2
        # Its lock went with it.
        assert store.set_tag("magika", "stable", Version(3, 0, 0), **WHO) == V1
    with StateStore.open(state_url) as store:
        assert store.revision() == 3
        assert store.release_state().of("magika").release_status(V1) is ReleaseStatus.RELEASED


@pytest.mark.slow
def test_a_process_killed_with_a_policy_written_and_not_committed_leaves_the_earlier_one(state_url: str) -> None:
    with StateStore.open(state_url) as store:
        store.put_policy("magika", {"baseline": "1.0.0"}, expected_epoch=0, action="set", **WHO)
        before = store.policies(), store.events(), store.revision()
        with process(_STOP_AT_COMMIT_OF_A_POLICY, state_url) as child:
            assert (store.policies(), store.events(), store.revision()) == before
            child.send_signal(signal.SIGKILL)
            assert child.wait(100) == -signal.SIGKILL
        assert (store.policies(), store.events(), store.revision()) == before
        # Its lock went with it, and its epoch is still to be had.
        assert store.put_policy("magika", {}, expected_epoch=1, action="clear", **WHO).epoch == 2
