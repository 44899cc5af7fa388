"""The log as a chain: what was done to it is seen, on SQLite and on PostgreSQL."""

import hashlib
from collections.abc import Callable

import pytest
import rfc8785
from semver import Version
from sqlalchemy import Connection, delete, text, update

from turnout.errors import InvalidRequest
from turnout.state.database import schema
from turnout.state.database.engine import Database
from turnout.state.event_log import chain
from turnout.state.event_log.chain import GENESIS, ChainBreak, Head
from turnout.state.rollouts import Note, RolloutWrite
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "it was time"}
V = [Version(1, 0, n) for n in range(10)]
DIGEST = "sha256:" + "a" * 64


def fill(store: StateStore, events: int = 6) -> None:
    for number in range(events):
        store.set_tag("magika", "stable", V[number], **WHO)


def tamper(database: Database, change: Callable[[Connection], object]) -> None:
    """Changes the log as only somebody can who may drop its triggers."""
    with database.writing() as connection:
        if connection.dialect.name == "sqlite":
            for name in ("events_no_update", "events_no_delete"):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("DROP TRIGGER events_append_only ON events")
        change(connection)


def set_event(number: int, **values: object) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(
        update(schema.events).where(schema.events.c.id == number).values(**values)
    )


def faults(store: StateStore, kept: Head | None = None) -> list[ChainBreak]:
    return list(store.audit(kept).chain.faults)


def rewrite(connection: Connection, start: int) -> None:
    """Computes the chain anew from an event on, as a forger would."""
    rows = [row._asdict() for row in connection.execute(schema.events.select().order_by(schema.events.c.id))]
    previous = GENESIS
    for row in rows:
        if row["id"] >= start:
            row["previous"], row["hash"] = previous, chain.event_hash(row, previous)
            set_event(row["id"], previous=row["previous"], hash=row["hash"])(connection)
        previous = row["hash"]


def test_each_event_holds_the_hash_of_the_one_before_and_its_own(store: StateStore, database: Database) -> None:
    fill(store, 3)
    with database.reading() as connection:
        rows = connection.execute(schema.events.select().order_by(schema.events.c.id)).all()
    previous = "sha256:" + "0" * 64
    for row in rows:
        fields = ("id", "time", "model", "kind", "subject", "actor", "reason", "payload")
        body = {name: getattr(row, name) for name in fields} | {"previous": previous}
        assert row.previous == previous
        assert row.hash == "sha256:" + hashlib.sha256(rfc8785.dumps(body)).hexdigest()
        previous = row.hash
    assert store.head() == Head(3, previous)
    assert [event.hash for event in store.events()] == [row.hash for row in reversed(rows)]


def test_a_log_that_nobody_touched_is_whole(store: StateStore) -> None:
    assert faults(store) == []
    assert store.head() == Head(0, GENESIS)
    fill(store)
    audit = store.audit(store.head())
    assert (audit.chain.events, audit.chain.faults, audit.differences) == (6, (), ())


@pytest.mark.parametrize(
    "values",
    [
        {"actor": "mallory"},
        {"reason": ""},
        {"time": "2020-01-01T00:00:00.000000Z"},
        {"subject": "beta"},
        {"model": "silero"},
        {"kind": "tag_deleted"},
        {"payload": '{"previous":null,"tag":"stable","version":"9.9.9"}'},
        {"previous": GENESIS},
    ],
)
def test_an_event_that_was_changed_is_named(store: StateStore, database: Database, values: dict[str, object]) -> None:
    fill(store)
    tamper(database, set_event(3, **values))
    assert faults(store) == [ChainBreak(3, "was changed: its hash is not that of its content")]


def test_an_event_that_was_changed_with_its_hash_is_named_by_the_next(store: StateStore, database: Database) -> None:
    fill(store)

    def forge(connection: Connection) -> None:
        set_event(3, actor="mallory")(connection)
        row = connection.execute(schema.events.select().where(schema.events.c.id == 3)).one()._asdict()
        set_event(3, hash=chain.event_hash(row, row["previous"]))(connection)

    tamper(database, forge)
    assert faults(store) == [
        ChainBreak(4, "does not follow event 3: it names another hash as the one before it"),
    ]


def test_events_that_are_missing_are_named(store: StateStore, database: Database) -> None:
    fill(store)
    tamper(database, lambda c: c.execute(delete(schema.events).where(schema.events.c.id.in_([2, 4, 5]))))
    assert faults(store) == [ChainBreak(2, "is missing"), ChainBreak(4, "to 5 are missing")]


def test_events_that_changed_places_are_named(store: StateStore, database: Database) -> None:
    fill(store)

    def swap(connection: Connection) -> None:
        for before, after in ((2, 99), (5, 2), (99, 5)):
            set_event(before, id=after)(connection)

    tamper(database, swap)
    assert faults(store) == [
        ChainBreak(2, "is out of order: it was event 5"),
        ChainBreak(5, "is out of order: it was event 2"),
    ]


def test_a_tail_that_was_cut_off_is_seen_by_the_revision(store: StateStore, database: Database) -> None:
    fill(store)
    tamper(database, lambda c: c.execute(delete(schema.events).where(schema.events.c.id > 4)))
    assert faults(store) == [ChainBreak(5, "to 6 are missing: the store is at revision 6")]


def test_a_tail_that_was_cut_off_with_the_revision_is_seen_by_a_head_that_was_kept(
    store: StateStore, database: Database
) -> None:
    fill(store)
    kept = Head.parse(f"{store.head()}\n")

    def cut(connection: Connection) -> None:
        connection.execute(delete(schema.events).where(schema.events.c.id > 4))
        connection.execute(text("UPDATE revision SET number = 4"))

    tamper(database, cut)
    assert faults(store) == [], "the chain itself cannot tell"
    assert faults(store, kept) == [ChainBreak(6, "is missing: the log was longer when its head was kept")]
    assert store.audit().differences == ("the tag stable of magika is 1.0.5 in the store, but 1.0.3 in the log",)


def test_a_chain_that_was_computed_anew_is_seen_by_a_head_that_was_kept(store: StateStore, database: Database) -> None:
    fill(store)
    kept = store.head()
    fill(store, 3)

    def forge(connection: Connection) -> None:
        set_event(2, actor="mallory")(connection)
        rewrite(connection, 2)

    tamper(database, forge)
    assert faults(store) == [], "the chain itself cannot tell"
    assert faults(store, kept) == [ChainBreak(6, "is not the one that was kept: the log was written anew")]


@pytest.mark.parametrize("text", ["", "7", "7:abc", "x:" + GENESIS, "-1:" + GENESIS, "9" * 30 + ":" + GENESIS])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="head"):
        Head.parse(text)


def test_what_the_tables_say_and_the_log_does_not_is_named(store: StateStore, database: Database) -> None:
    store.release("magika", V[0], **WHO)
    store.set_tag("magika", "stable", V[0], **WHO)
    store.put_policy("magika", {"baseline": "1.0.0"}, expected_epoch=0, action="set", **WHO)
    assert store.audit().differences == ()
    with database.writing() as connection:
        connection.execute(text("UPDATE tags SET version = '6.6.6'"))
        connection.execute(text("INSERT INTO standings VALUES ('magika', '6.6.6', 'released')"))
    assert store.audit().differences == (
        "magika 6.6.6 is released in the store, but nothing in the log",
        "the tag stable of magika is 6.6.6 in the store, but 1.0.0 in the log",
    )


def test_rollouts_that_the_log_does_not_tell_of_so_are_named(store: StateStore, database: Database) -> None:
    for attempt, notes in ((1, ()), (2, (Note("start", "2.0.0 is rolled out", "ada"),))):
        store.put_rollout("magika", RolloutWrite(attempt, 0, "pending", False, {}, "one", 1.0, notes), **WHO)
    store.put_rollout("magika", RolloutWrite(2, 1, "running", False, {}, "one", 1.0), **WHO)
    kinds = [(event.payload["attempt"], event.payload["kind"], event.payload["state"]) for event in store.events()]
    assert kinds == [(2, "state", "running"), (2, "start", "pending"), (1, "state", "pending")]
    assert store.audit().differences == ()
    with database.writing() as connection:
        connection.execute(text("UPDATE rollouts SET state = 'promoted', final = 1 WHERE attempt = 2"))
        connection.execute(text("UPDATE rollouts SET attempt = 3 WHERE attempt = 1"))
    assert store.audit().differences == (
        "attempt 1 of a rollout of magika is missing from the store, but is in the log",
        "attempt 2 of a rollout of magika is promoted in the store, but running in the log",
        "attempt 3 of a rollout of magika is pending in the store, but nothing in the log",
    )


def test_a_signature_is_recorded_once_a_key_and_a_digest(store: StateStore) -> None:
    assert store.record_signed("magika", V[0], DIGEST, "one", **WHO) is True
    assert store.record_signed("magika", V[0], DIGEST, "one", actor="bob", reason="again") is False
    assert store.record_signed("magika", V[0], DIGEST, "two", **WHO) is True
    assert store.record_signed("magika", V[1], DIGEST, "one", **WHO) is True
    assert store.record_signed("magika", V[0], "sha256:" + "b" * 64, "one", **WHO) is True
    assert [event.payload["key"] for event in store.events()] == ["one", "one", "two", "one"]


def test_a_publication_is_recorded_once(store: StateStore) -> None:
    assert store.record_published("magika", V[0], DIGEST, found=False, **WHO) is True
    assert store.record_published("magika", V[0], DIGEST, found=True, **WHO) is False
    (event,) = store.events()
    assert (event.kind, event.payload) == ("published", {"version": "1.0.0", "digest": DIGEST})
    assert store.published() == {("magika", "1.0.0"): DIGEST}
    assert store.release_state().of("magika").digests == {V[0]: DIGEST}


def test_a_publication_in_the_place_of_another_says_so(store: StateStore) -> None:
    store.record_published("magika", V[0], DIGEST, found=False, **WHO)
    other = "sha256:" + "b" * 64
    assert store.record_published("magika", V[0], other, found=False, **WHO) is True
    assert store.events()[0].payload == {"version": "1.0.0", "digest": other, "replaced": DIGEST}
    assert store.published() == {("magika", "1.0.0"): other}
