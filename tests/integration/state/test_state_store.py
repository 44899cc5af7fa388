"""Releases, tags and their log, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from semver import Version
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import DBAPIError

from turnout.errors import InvalidRequest, TagNotFound, UnavailableError
from turnout.state.database import schema
from turnout.state.database.engine import Database
from turnout.state.event_log.events import Event
from turnout.state.release_status import ModelReleaseState, ReleaseState, ReleaseStatus
from turnout.state.rollouts import RolloutWrite
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

V1 = Version.parse("1.0.0")
V3_2 = Version.parse("3.2.0")
V3_10 = Version.parse("3.10.0-rc.1+build.7")
WHO = {"actor": "ada", "reason": "it was time"}


def test_a_new_store_declares_nothing(store: StateStore) -> None:
    assert store.revision() == 0
    assert store.release_state() == ReleaseState()
    assert store.events() == []


def test_releases_and_tags_come_back_as_they_were_declared(store: StateStore) -> None:
    assert store.release("magika", V1, **WHO) is True
    assert store.release("magika", V3_2, **WHO) is True
    assert store.set_tag("magika", "stable", V3_2, **WHO) is None
    assert store.set_tag("silero", "next", V3_10, **WHO) is None

    release_state = store.release_state()
    assert release_state == ReleaseState(
        4,
        {
            "magika": ModelReleaseState({V1: ReleaseStatus.RELEASED, V3_2: ReleaseStatus.RELEASED}, {"stable": V3_2}),
            "silero": ModelReleaseState({}, {"next": V3_10}),
        },
    )
    assert str(release_state.of("silero").tags["next"]) == "3.10.0-rc.1+build.7"
    assert release_state.of("nobody") == ModelReleaseState()


def test_every_change_makes_the_next_revision(store: StateStore) -> None:
    seen = [store.revision()]
    store.release("magika", V1, **WHO)
    seen.append(store.revision())
    store.set_tag("magika", "stable", V1, **WHO)
    seen.append(store.revision())
    store.delete_tag("magika", "stable", **WHO)
    seen.append(store.revision())
    assert seen == [0, 1, 2, 3]
    assert store.release_state().revision == 3


def test_what_changes_nothing_makes_no_revision_and_no_event(store: StateStore) -> None:
    store.release("magika", V1, **WHO)
    store.set_tag("magika", "stable", V1, **WHO)

    assert store.release("magika", V1, **WHO) is False
    assert store.set_tag("magika", "stable", V1, **WHO) == V1
    with pytest.raises(TagNotFound):
        store.delete_tag("magika", "beta", **WHO)

    assert store.revision() == 2
    assert len(store.events()) == 2


def test_a_tag_moves_and_says_where_it_was(store: StateStore) -> None:
    store.set_tag("magika", "stable", V1, **WHO)
    assert store.set_tag("magika", "stable", V3_2, **WHO) == V1
    assert store.release_state().of("magika").tags == {"stable": V3_2}
    assert store.delete_tag("magika", "stable", **WHO) == V3_2
    assert store.release_state().of("magika").tags == {}


def test_a_tag_moves_between_builds_of_one_version(store: StateStore) -> None:
    store.set_tag("magika", "stable", Version.parse("1.0.0+a"), **WHO)
    store.set_tag("magika", "stable", Version.parse("1.0.0+b"), **WHO)
    assert str(store.release_state().of("magika").tags["stable"]) == "1.0.0+b"


def test_build_metadata_makes_no_other_version_to_release(store: StateStore) -> None:
    assert store.release("magika", Version.parse("1.0.0+a"), **WHO) is True
    assert store.release("magika", V1, **WHO) is False
    assert store.release_state().of("magika").release_status(Version.parse("1.0.0+a")) is ReleaseStatus.RELEASED


def test_tags_of_two_models_do_not_meet(store: StateStore) -> None:
    store.set_tag("magika", "stable", V1, **WHO)
    store.set_tag("silero", "stable", V3_2, **WHO)
    store.delete_tag("magika", "stable", **WHO)
    assert store.release_state().models.keys() == {"silero"}
    assert store.release_state().of("silero").tags == {"stable": V3_2}


def test_an_unknown_tag_is_answered_with_the_nearest(store: StateStore) -> None:
    for tag in ("stable", "champion", "challenger"):
        store.set_tag("magika", tag, V1, **WHO)
    with pytest.raises(TagNotFound, match=r"magika has no tag .stabel.; nearest: stable, \.\.\."):
        store.delete_tag("magika", "stabel", **WHO)
    with pytest.raises(TagNotFound, match="silero has no tag 'stable'; there are no tags"):
        store.delete_tag("silero", "stable", **WHO)


def test_a_yanked_version_is_neither_released_nor_tagged(store: StateStore, database: Database) -> None:
    with database.writing() as connection:
        connection.execute(insert(schema.standings).values(model="magika", version="3.2.0", standing="yanked"))
    with pytest.raises(InvalidRequest, match=r"3\.2\.0 of magika is yanked") as caught:
        store.release("magika", V3_2, **WHO)
    assert [violation.field for violation in caught.value.violations] == ["version"]
    with pytest.raises(InvalidRequest, match="is yanked"):
        store.set_tag("magika", "stable", V3_2, **WHO)
    assert store.revision() == 0
    assert store.release_state().of("magika").release_status(V3_2) is ReleaseStatus.YANKED


def test_every_change_is_an_event_that_says_who_when_and_why(state_url: str) -> None:
    # A clock in another zone: what is kept is UTC.
    start = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=timezone(timedelta(hours=2)))
    ticks = iter(range(9))
    with StateStore.open(state_url, now=lambda: start + timedelta(seconds=next(ticks))) as store:
        store.release("magika", V3_10, actor="ada", reason="passed the gates")
        store.set_tag("magika", "stable", V1, actor="bob", reason="")
        store.set_tag("magika", "stable", V3_2, actor="", reason="faster, «über» 快")
        store.delete_tag("magika", "stable", actor="ada", reason="unused")
        events = store.events()

    def at(second: int) -> datetime:
        return datetime(2026, 3, 1, 10, 0, second, 250, tzinfo=UTC)

    v3_10 = "3.10.0-rc.1+build.7"
    assert events == [
        Event(4, at(3), "magika", "tag_deleted", "stable", "ada", "unused", {"tag": "stable", "previous": "3.2.0"}),
        Event(
            3,
            at(2),
            "magika",
            "tag_set",
            "stable",
            "",
            "faster, «über» 快",
            {"tag": "stable", "version": "3.2.0", "previous": "1.0.0"},
        ),
        Event(
            2,
            at(1),
            "magika",
            "tag_set",
            "stable",
            "bob",
            "",
            {"tag": "stable", "version": "1.0.0", "previous": None},
        ),
        Event(1, at(0), "magika", "released", v3_10, "ada", "passed the gates", {"version": v3_10}),
    ]
    assert all(event.time.utcoffset() == timedelta(0) for event in events)


def test_events_are_asked_for_by_model_and_number(store: StateStore) -> None:
    for model in ("magika", "silero", "magika", "silero"):
        store.set_tag(model, f"tag-{store.revision()}", V1, **WHO)
    assert [event.id for event in store.events("silero")] == [4, 2]
    assert [event.id for event in store.events(limit=3)] == [4, 3, 2]
    assert [event.id for event in store.events("magika", limit=1)] == [3]
    assert store.events("nobody") == []
    with pytest.raises(InvalidRequest, match="limit"):
        store.events(limit=0)


def test_the_database_itself_refuses_to_change_an_event(store: StateStore, database: Database) -> None:
    store.release("magika", V1, **WHO)
    before = store.events()
    for statement in (update(schema.events).values(actor="mallory"), delete(schema.events)):
        with pytest.raises(DBAPIError, match="events are append-only"), database.writing() as connection:
            connection.execute(statement)
    assert store.events() == before


def test_the_payload_is_kept_in_canonical_form(store: StateStore, database: Database) -> None:
    store.set_tag("magika", "stable", V1, **WHO)
    with database.reading() as connection:
        (row,) = connection.execute(schema.events.select())
    assert row.payload == '{"previous":null,"tag":"stable","version":"1.0.0"}'
    assert row.time == row.time[:10] + "T" + row.time[11:26] + "Z"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("model", {"model": "-magika"}),
        ("model", {"model": "m" * 129}),
        ("model", {"model": ""}),
        ("tag", {"tag": ""}),
        ("tag", {"tag": "t" * 64}),
        ("version", {"version": Version.parse("1.0.0-" + "a" * 250)}),
        ("actor", {"actor": "é" * 129}),
        ("actor", {"actor": "a\0b"}),
        ("reason", {"reason": "r" * 1025}),
        ("reason", {"reason": "\udcff"}),
    ],
)
def test_what_does_not_fit_is_refused_by_name(store: StateStore, field: str, change: dict[str, object]) -> None:
    arguments = {"model": "magika", "tag": "stable", "version": V1, **WHO} | change
    with pytest.raises(InvalidRequest) as caught:
        store.set_tag(**arguments)  # type: ignore[arg-type] # the arguments are the cases
    assert [violation.field for violation in caught.value.violations] == [field]
    assert store.revision() == 0


def test_what_just_fits_is_kept(store: StateStore) -> None:
    version = Version.parse("1.0.0-" + "a" * 249)
    store.set_tag("M." * 64, "t" * 63, version, actor="é" * 128, reason="r" * 1024)
    assert store.release_state().of("M." * 64).tags == {"t" * 63: version}
    assert store.events()[0].actor == "é" * 128


def test_a_change_by_one_store_is_seen_by_another_at_once(state_url: str, store: StateStore) -> None:
    with StateStore.open(state_url) as other:
        for number in range(1, 4):
            other.set_tag("magika", f"tag-{number}", V1, **WHO)
            assert store.revision() == number
            assert f"tag-{number}" in store.release_state().of("magika").tags


def test_reopening_keeps_everything(state_url: str) -> None:
    with StateStore.open(state_url) as store:
        store.release("magika", V3_2, **WHO)
        store.set_tag("magika", "stable", V3_2, **WHO)
        release_state, events = store.release_state(), store.events()
    with StateStore.open(state_url) as store:
        assert store.release_state() == release_state
        assert store.events() == events


def test_a_closed_store_answers_that_it_is_closed(state_url: str) -> None:
    store = StateStore.open(state_url)
    store.close()
    store.close()
    with pytest.raises(UnavailableError, match="is closed"):
        store.revision()


def test_the_latest_rollout_of_a_model_is_its_last_attempt_whatever_the_clocks_say(state_url: str) -> None:
    noon = datetime(2026, 11, 30, 12, tzinfo=UTC)
    hours = [noon, noon - timedelta(hours=1), noon + timedelta(hours=2)]
    for attempt, hour in enumerate(hours, 1):
        with StateStore.open(state_url, now=lambda now=hour: now) as store:
            wanted = RolloutWrite(attempt, 0, "pending", False, {}, "driver", 60.0)
            store.put_rollout("magika", wanted, **WHO)
            assert [one.attempt for one in store.rollouts("magika")] == list(range(attempt, 0, -1))
            assert store.rollouts("magika", limit=1)[0].attempt == attempt
