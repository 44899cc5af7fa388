"""Policies in the store: epochs, compare-and-swap, history, documents, and what is refused; on both databases."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest
from semver import Version
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from turnout.errors import Conflict, InvalidRequest, NotFoundError, UnavailableError
from turnout.state import policies
from turnout.state.database import schema
from turnout.state.database.engine import Database, Location
from turnout.state.event_log.events import Event
from turnout.state.policies import PolicyRecord
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "it was time"}
SET = {"action": "set", **WHO}
THREE = {"baseline": "3.2.0"}
CANARY = {"baseline": "3.2.0", "canaries": [{"version": "3.3.0", "weight": 500}], "salt": "über\0快", "share": 0.05}


def test_a_new_store_has_no_policy(store: StateStore) -> None:
    assert store.policies() == {}
    assert store.policy_history("magika") == []
    with pytest.raises(NotFoundError, match=r"^magika has never had a policy$"):
        store.policy_at("magika", 1)


def test_the_highest_epoch_of_each_model_is_in_force(store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    store.put_policy("silero", {"baseline": "1.0.0"}, expected_epoch=0, **SET)
    latest = store.put_policy("magika", CANARY, expected_epoch=1, **SET)

    in_force = store.policies()
    assert in_force.keys() == {"magika", "silero"}
    assert in_force["magika"] == latest
    assert in_force["magika"].document == CANARY
    assert (in_force["silero"].epoch, in_force["silero"].revision) == (1, 2)


def test_epochs_count_for_each_model_and_revisions_for_all(store: StateStore) -> None:
    made = [
        store.put_policy(model, {"n": n}, expected_epoch=epoch, **SET)
        for n, (model, epoch) in enumerate([("magika", 0), ("silero", 0), ("magika", 1), ("magika", 2), ("silero", 1)])
    ]
    assert [(record.model, record.epoch) for record in made] == [
        ("magika", 1),
        ("silero", 1),
        ("magika", 2),
        ("magika", 3),
        ("silero", 2),
    ]
    assert [record.revision for record in made] == [1, 2, 3, 4, 5]
    assert store.revision() == store.release_state().revision == 5


def test_a_policy_that_is_cleared_keeps_its_epoch(store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    store.put_policy("magika", {}, expected_epoch=1, action="clear", **WHO)
    cleared = store.policies()["magika"]
    assert (cleared.epoch, cleared.action, cleared.document) == (2, "clear", {})
    assert store.put_policy("magika", THREE, expected_epoch=2, **SET).epoch == 3


def test_the_same_document_again_is_an_epoch_of_its_own(store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    assert store.put_policy("magika", THREE, expected_epoch=1, action="revert", **WHO).epoch == 2


def test_history_is_newest_first_and_bounded(store: StateStore) -> None:
    made = [store.put_policy("magika", {"n": n}, expected_epoch=n, **SET) for n in range(12)]
    store.put_policy("silero", THREE, expected_epoch=0, **SET)
    assert store.policy_history("magika") == made[::-1]
    assert store.policy_history("magika", limit=3) == made[:-4:-1]
    assert [record.epoch for record in store.policy_history("magika", 1)] == [12]
    with pytest.raises(InvalidRequest, match="limit"):
        store.policy_history("magika", limit=0)


def test_an_epoch_gone_by_can_be_read_and_one_that_never_was_cannot(store: StateStore) -> None:
    made = [store.put_policy("magika", {"n": n}, expected_epoch=n, **SET) for n in range(7)]
    assert [store.policy_at("magika", epoch) for epoch in range(1, 8)] == made
    # The largest lies past what either database can compare with.
    for epoch in (0, -1, 8, 1 << 70):
        with pytest.raises(NotFoundError, match=rf"no epoch {epoch}: the policy of magika has had epochs 1 to 7$"):
            store.policy_at("magika", epoch)
    store.put_policy("silero", THREE, expected_epoch=0, **SET)
    with pytest.raises(NotFoundError, match="the policy of silero has had epoch 1 only"):
        store.policy_at("silero", 2)


def test_a_change_based_on_an_epoch_gone_by_is_refused_and_told_by_whom(store: StateStore) -> None:
    for epoch in range(6):
        store.put_policy("magika", {"n": epoch}, expected_epoch=epoch, **SET)
    store.put_policy("magika", THREE, expected_epoch=6, action="ramp", actor="alice@host", reason="p99 is\n fine")
    before = store.policies(), store.events(), store.revision()

    with pytest.raises(Conflict) as caught:
        store.put_policy("magika", CANARY, expected_epoch=5, **SET)
    assert str(caught.value) == (
        "the policy of magika is at epoch 7 by now, not 5 (set by alice@host: p99 is fine); look again"
    )
    with pytest.raises(Conflict, match="is at epoch 7 by now, not 0"):
        store.put_policy("magika", CANARY, expected_epoch=0, **SET)
    with pytest.raises(Conflict, match="is at epoch 7, not 8"):
        store.put_policy("magika", CANARY, expected_epoch=8, **SET)
    with pytest.raises(Conflict, match=r"^silero has never had a policy, so none of epoch 1 is in force; look again$"):
        store.put_policy("silero", CANARY, expected_epoch=1, **SET)

    assert (store.policies(), store.events(), store.revision()) == before


def test_a_refusal_stays_short_whatever_reason_was_given(store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, action="set", actor="", reason="because " * 120)
    with pytest.raises(
        Conflict, match=r"\(set by an unnamed caller: because .* because \.\.\.\); look again$"
    ) as caught:
        store.put_policy("magika", THREE, expected_epoch=0, **SET)
    assert len(str(caught.value)) < 300


def test_exactly_one_of_eight_threads_wins_each_epoch(store: StateStore) -> None:
    rounds, start = 12, Barrier(8)

    def race(thread: int) -> list[bool]:
        won = []
        for epoch in range(rounds):
            start.wait(100)
            try:
                record = store.put_policy("magika", {"by": thread}, expected_epoch=epoch, **SET)
            except Conflict:
                won.append(False)
            else:
                assert record.epoch == epoch + 1
                won.append(True)
        return won

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(race, range(8)))
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * rounds
    history = store.policy_history("magika")[::-1]
    assert [record.epoch for record in history] == list(range(1, rounds + 1))
    assert [record.document["by"] for record in history] == [column.index(True) for column in zip(*won, strict=True)]
    assert [record.revision for record in history] == list(range(1, rounds + 1))


def test_threads_that_look_again_after_a_conflict_all_get_through(state_url: str) -> None:
    with StateStore.open(state_url) as one, StateStore.open(state_url) as other:

        def add(thread: int) -> None:
            store = (one, other)[thread % 2]
            for _ in range(5):
                while True:
                    now = store.policies().get("magika")
                    seen, epoch = (now.document["count"], now.epoch) if now else (0, 0)
                    try:
                        store.put_policy("magika", {"count": seen + 1}, expected_epoch=epoch, **SET)
                        break
                    except Conflict:
                        continue

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(add, range(8)))
        history = one.policy_history("magika")[::-1]
        assert [(record.epoch, record.document["count"]) for record in history] == [(n, n) for n in range(1, 41)]


def test_every_change_of_a_policy_is_an_event_of_the_same_revision_and_time(state_url: str) -> None:
    # A clock in another zone: what is kept is UTC.
    moment = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=timezone(timedelta(hours=2)))
    with StateStore.open(state_url, now=lambda: moment) as store:
        store.release("magika", Version(3, 2, 0), **WHO)
        made = store.put_policy("magika", CANARY, expected_epoch=0, action="set", actor="bob", reason="«über» 快")
        (event, _) = store.events("magika")
        (kept,) = store.policy_history("magika")
    at = datetime(2026, 3, 1, 10, 0, 0, 250, tzinfo=UTC)
    assert made == kept == PolicyRecord("magika", 1, 2, at, "set", "bob", "«über» 快", CANARY)
    assert made.time.utcoffset() == kept.time.utcoffset() == timedelta(0)
    payload = {"epoch": 1, "action": "set", "document": CANARY}
    assert event == Event(2, at, "magika", "policy_changed", "epoch 1", "bob", "«über» 快", payload)


def test_a_policy_set_by_one_store_is_seen_by_another_at_once(state_url: str, store: StateStore) -> None:
    with StateStore.open(state_url) as other:
        for epoch in range(3):
            made = other.put_policy("magika", {"n": epoch}, expected_epoch=epoch, **SET)
            assert store.revision() == made.revision == epoch + 1
            assert store.policies() == {"magika": made}


def test_a_policy_survives_closing_and_opening_again(state_url: str) -> None:
    with StateStore.open(state_url) as store:
        store.put_policy("magika", THREE, expected_epoch=0, **SET)
        store.put_policy("magika", CANARY, expected_epoch=1, **SET)
        in_force, history = store.policies(), store.policy_history("magika")
    with StateStore.open(state_url) as store:
        assert store.policies() == in_force
        assert store.policy_history("magika") == history


def test_declarations_know_nothing_of_policies(store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    assert store.release_state().models == {}


def test_the_database_itself_refuses_to_change_a_policy(store: StateStore, database: Database) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    before = store.policy_history("magika")
    for statement in (update(schema.policies).values(document="{}"), delete(schema.policies)):
        with pytest.raises(DBAPIError, match="policies are append-only"), database.writing() as connection:
            connection.execute(statement)
    if database.name.startswith("postgresql"):
        with pytest.raises(DBAPIError, match="policies are append-only"), database.writing() as connection:
            connection.exec_driver_sql("TRUNCATE policies")
    assert store.policy_history("magika") == before


def test_the_database_itself_refuses_a_second_policy_of_one_epoch(store: StateStore, database: Database) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    with database.reading() as connection:
        row = dict(connection.execute(select(schema.policies)).mappings().one())
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(insert(schema.policies), row)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("model", {"model": "-magika"}),
        ("model", {"model": "m" * 129}),
        ("action", {"action": ""}),
        ("action", {"action": "a" * 33}),
        ("actor", {"actor": "a\0b"}),
        ("reason", {"reason": "r" * 1025}),
    ],
)
def test_what_does_not_fit_a_policy_is_refused_by_name(
    store: StateStore, field: str, change: dict[str, object]
) -> None:
    arguments = {"model": "magika", "document": THREE, "expected_epoch": 0, **SET} | change
    with pytest.raises(InvalidRequest) as caught:
        store.put_policy(**arguments)  # type: ignore[arg-type] # the arguments are the cases
    assert [violation.field for violation in caught.value.violations] == [field]
    assert store.revision() == 0


def test_a_name_of_no_model_is_refused_before_a_database_sees_it(store: StateStore) -> None:
    for call in (lambda: store.policy_at("a\0b", 1), lambda: store.policy_history("a\0b")):
        with pytest.raises(InvalidRequest, match="model: expected a name"):
            call()


def test_a_policy_that_fails_half_way_leaves_nothing(state_url: str, store: StateStore) -> None:
    store.put_policy("magika", THREE, expected_epoch=0, **SET)
    before = store.policies(), store.events(), store.revision()

    class ClockStopped(Exception):
        """The fault: it comes when the revision has moved and nothing else is written."""

    def stopped() -> datetime:
        raise ClockStopped

    with StateStore.open(state_url, now=stopped) as failing, pytest.raises(ClockStopped):
        failing.put_policy("magika", CANARY, expected_epoch=1, **SET)
    assert (store.policies(), store.events(), store.revision()) == before

    assert store.put_policy("magika", CANARY, expected_epoch=1, **SET).revision == 2


def test_a_closed_store_has_no_policies_to_tell(state_url: str) -> None:
    store = StateStore.open(state_url)
    store.close()
    with pytest.raises(UnavailableError, match="is closed"):
        store.policies()
    with pytest.raises(UnavailableError, match="is closed"):
        store.put_policy("magika", THREE, expected_epoch=0, **SET)


# Documents


def nested(levels: int) -> dict[str, Any]:
    """A document of that many levels, whose last one is empty."""
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"a": document}
    return document


def test_the_document_is_kept_in_canonical_form(state_url: str, store: StateStore) -> None:
    made = store.put_policy("magika", {"weight": 2.0, "baseline": "3.2.0", "ranks": (1, 2)}, expected_epoch=0, **SET)
    with closing(Database(Location.parse(state_url))) as database, database.reading() as connection:
        (text,) = connection.execute(select(schema.policies.c.document)).scalars()
        (payload,) = connection.execute(select(schema.events.c.payload)).scalars()
    assert text == '{"baseline":"3.2.0","ranks":[1,2],"weight":2}'
    assert payload == f'{{"action":"set","document":{text},"epoch":1}}'
    # What is handed back is what will be read, and may be put again.
    assert made == store.policies()["magika"]
    assert store.put_policy("magika", made.document, expected_epoch=1, **SET).document == made.document


def test_a_document_changed_afterwards_changes_nothing_kept(store: StateStore) -> None:
    document: dict[str, Any] = {"canaries": []}
    made = store.put_policy("magika", document, expected_epoch=0, **SET)
    document["canaries"].append("3.3.0")
    assert made.document == store.policies()["magika"].document == {"canaries": []}


@pytest.mark.parametrize(
    "document",
    [
        {"share": math.nan},
        {"canaries": [{"weight": math.inf}]},
        {"share": -math.inf},
        {"seed": 1 << 53},
        # Written as whole numbers, which could not be written again once read.
        {"seed": 1e20},
        {"seed": float(1 << 53)},
        {"salt": "\udcff"},
        {"\udcff": 1},
        {1: "a key that is not text"},
        {"versions": {"3.2.0"}},
        {"salt": b"bytes"},
    ],
)
def test_what_json_cannot_hold_is_refused(store: StateStore, document: dict[Any, Any]) -> None:
    with pytest.raises(InvalidRequest, match="document: expected JSON values") as caught:
        store.put_policy("magika", document, expected_epoch=0, **SET)
    assert [violation.field for violation in caught.value.violations] == ["document"]
    assert store.revision() == 0


def test_a_document_of_the_most_bytes_is_kept_and_one_byte_more_refused(store: StateStore) -> None:
    # {"a":"..."} has eight characters besides; é is two bytes.
    most = {"a": "é" * ((policies.DOCUMENT_SIZE - 8) // 2)}
    store.put_policy("magika", most, expected_epoch=0, **SET)
    assert store.policies()["magika"].document == most
    with pytest.raises(InvalidRequest, match="document: expected at most 262144 bytes of JSON, got 262145"):
        store.put_policy("magika", {"a": most["a"] + "x"}, expected_epoch=1, **SET)
    assert store.revision() == 1


def test_a_document_too_deep_to_be_read_again_is_refused(store: StateStore) -> None:
    store.put_policy("magika", nested(policies.DOCUMENT_DEPTH), expected_epoch=0, **SET)
    endless: list[Any] = []
    endless.append(endless)
    for document in (nested(policies.DOCUMENT_DEPTH + 1), nested(5000), {"a": endless}):
        with pytest.raises(InvalidRequest, match="document: expected at most 32 levels"):
            store.put_policy("magika", document, expected_epoch=1, **SET)
    assert store.revision() == 1
