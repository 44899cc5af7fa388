"""What the log tells of long ago goes, and the rest can still be verified."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from semver import Version
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from turnout.errors import NotFoundError
from turnout.state.event_log.chain import Head
from turnout.state.rollouts import Note, RolloutWrite
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "why"}
START = datetime(2020, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def store(state_url: str) -> Iterator[StateStore]:
    with StateStore.open(state_url, now=Clock()) as opened:
        yield opened


def _fill(store: StateStore, epochs: int = 130) -> None:
    store.record_published("m", Version(1), "sha256:" + "1" * 64, found=False, **WHO)
    store.release("m", Version(1), **WHO)
    for epoch in range(epochs):
        store.put_policy("m", {"n": epoch}, expected_epoch=epoch, action="set", **WHO)
        if epoch % 10 == 0:
            store.set_tag("other", "stable", Version(1, epoch), **WHO)
    for attempt, final in ((1, True), (2, False)):
        for number, state in enumerate(["pending", "ramping", "done" if final else "soaking"]):
            last = final and state == "done"
            write = RolloutWrite(
                attempt, number, state, last, {"candidate": "2.0.0", "previous": "1.0.0"}, "me", 60,
                [Note(state, f"it is {state}", "")],
            )  # fmt: skip
            store.put_rollout("m", write, **WHO)


def _later(store: StateStore) -> datetime:
    store._now.now += timedelta(days=800)
    return store.now() - timedelta(days=730)


def test_old_policies_and_ended_rollouts_go_and_the_chain_still_verifies(store: StateStore) -> None:
    _fill(store)
    kept = store.head()
    early = store.events("m", 1000)[-10]
    before = store.release_state()
    cutoff = _later(store)
    assert [store.remove_events("m", cutoff, most=20) for _ in range(3)] == [20, 12, 0]
    audit = store.audit(kept)
    assert (audit.chain.faults, audit.differences) == ((), ())
    # A head that was kept of an event that is gone still counts.
    assert store.audit(Head(early.id, early.hash)).chain.faults == ()
    assert store.audit(Head(early.id, kept.hash)).chain.faults[0].what.startswith("is not the one that was kept")
    assert len(store.policy_history("m", 1000)) == 100
    with pytest.raises(NotFoundError, match="epoch 30 of the policy of m was removed by the retention"):
        store.policy_at("m", 30)
    assert store.policy_at("m", 31).document == {"n": 30}
    # Of the ended rollout its end is left, and all of the one that runs.
    states = [e.payload["state"] for e in store.events("m", 1000) if e.kind == "rollout"]
    assert sorted(states) == ["done", "pending", "ramping", "soaking"]
    after = store.release_state()
    assert after.models == before.models
    last = store.events("m", 1)[0]
    assert (last.kind, last.actor, len(last.payload["ids"])) == ("removed", "retention", 12)
    # Everything goes on.
    store.put_policy("m", {"n": 130}, expected_epoch=130, action="set", **WHO)
    assert store.audit().chain.faults == ()


def test_nothing_goes_before_its_time(store: StateStore) -> None:
    _fill(store)
    assert store.remove_events("m", START) == 0
    assert store.remove_events("other", store.now()) == 0


def test_what_no_event_of_the_retention_tells_of_cannot_be_removed_unseen(store: StateStore) -> None:
    _fill(store, epochs=3)
    database = store._database
    victim = next(event for event in store.events("m", 100) if event.kind == "released")
    with pytest.raises(DBAPIError, match="append-only"), database.writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM events WHERE id = {victim.id}")
    with database.writing() as connection:  # somebody who knows how
        link = f"{victim.id}, '{victim.previous}', '{victim.hash}'"
        connection.exec_driver_sql(f"INSERT INTO removed_events (id, previous, hash) VALUES ({link})")
        connection.exec_driver_sql(f"DELETE FROM events WHERE id = {victim.id}")
    (fault,) = store.audit().chain.faults
    assert (fault.event, fault.what) == (victim.id, "is missing")
    with pytest.raises(DBAPIError, match="append-only"), database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM removed_events")


def _rolled_out(store: StateStore, attempt: int, ticks: int) -> None:
    counts = [{"requests": number} for number in range(ticks)]
    for number, final in ((0, False), (1, True)):
        state = "succeeded" if final else "soaking"
        store.put_rollout("m", RolloutWrite(attempt, number, state, final, {}, "me", 60, ticks=counts), **WHO)


def test_ticks_of_rollouts_that_ended_long_ago_go_and_no_others(store: StateStore) -> None:
    for attempt in (1, 2):
        _rolled_out(store, attempt, 3)
    running = RolloutWrite(3, 0, "soaking", False, {}, "me", 60, ticks=[{"requests": 1}])
    store.put_rollout("m", running, **WHO)
    store._now.now += timedelta(days=100)
    _rolled_out(store, 4, 2)
    before = store.now() - timedelta(days=90)
    assert [store.expire_ticks(before, most=5) for _ in range(3)] == [5, 5, 2]
    assert store.expire_ticks(before) == 0
    assert [len(store.rollout_ticks("m", attempt)) for attempt in (1, 2, 3, 4)] == [0, 0, 1, 4]


def test_removing_ticks_searches_no_table_while_changes_wait(tmp_path: Path) -> None:
    plans: list[str] = []

    def explain(connection: Connection, cursor: object, statement: str, parameters: tuple[object, ...], *_: object):
        if statement.startswith("DELETE"):
            plans.extend(row[3] for row in connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    with StateStore.open(f"sqlite:///{tmp_path}/state.db", now=Clock()) as store:
        _rolled_out(store, 1, 3)
        event.listen(store._database._writes, "before_cursor_execute", explain)
        assert store.expire_ticks(store.now()) == 6
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN")]
