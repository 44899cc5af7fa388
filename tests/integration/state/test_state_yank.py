"""Withdrawals, and tags that move only from where they are expected, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from semver import Version
from sqlalchemy import Engine, event

from turnout.errors import ChangeRefused, Conflict, InvalidRequest, TurnoutError
from turnout.releases.release import holding
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.plan import Plan
from turnout.state.release_status import ReleaseStatus
from turnout.state.releases import VersionUses
from turnout.state.rollouts import RolloutWrite
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

WHO = {"actor": "ada", "reason": "it leaks"}
V1, V2, V3 = Version(1), Version(2), Version(3)


def beginning(candidate: Version, previous: Version, model: str = "m") -> RolloutWrite:
    """The first write of a rollout."""
    plan = Plan.from_json({"steps": [{"weight": 0.1, "soak_s": 600}]})
    rollout = Rollout.start(model, candidate, previous, 1, plan, "ada", "")
    needs = (candidate, previous)
    return RolloutWrite(1, 0, str(rollout.state), False, rollout.to_json(), "test", 1.0, needs=needs)


def allow(_: VersionUses) -> None:
    """Nothing holds on to it."""


def test_a_yank_says_what_the_version_was_and_why_it_went(store: StateStore) -> None:
    store.release("m", V1, **WHO)
    assert store.yank("m", V1, refuse=allow, **WHO) is ReleaseStatus.RELEASED
    assert store.yank("m", V2, refuse=allow, **WHO) is ReleaseStatus.CANDIDATE
    known = store.release_state().of("m")
    assert (known.release_status(V1), known.release_status(V2)) == (ReleaseStatus.YANKED, ReleaseStatus.YANKED)
    assert known.reasons == {V1: "it leaks", V2: "it leaks"}
    newest, before, _ = store.events("m")
    assert (before.kind, before.payload) == ("yanked", {"version": "1.0.0", "previous": "released"})
    assert newest.payload == {"version": "2.0.0", "previous": "candidate"}


def test_the_release_state_is_read_by_as_many_statements_for_many_yanked_versions_as_for_one(store: StateStore) -> None:
    def statements() -> int:
        run: list[object] = []
        event.listen(Engine, "before_cursor_execute", listener := lambda *call: run.append(call[2]))
        try:
            store.release_state()
        finally:
            event.remove(Engine, "before_cursor_execute", listener)
        return len(run)

    store.yank("m", V1, refuse=allow, **WHO)
    for_one = statements()
    for minor in range(1, 6):
        store.yank("m", Version(1, minor), actor="ada", reason=f"reason {minor}", refuse=allow)
    assert statements() == for_one > 0
    store.unyank("m", V1, **WHO)
    store.yank("m", V1, actor="ada", reason="it leaks again", refuse=allow)
    reasons = store.release_state().of("m").reasons
    assert reasons == {V1: "it leaks again"} | {Version(1, minor): f"reason {minor}" for minor in range(1, 6)}


def test_a_second_yank_changes_nothing(store: StateStore) -> None:
    store.yank("m", V1, refuse=allow, **WHO)
    assert store.yank("m", V1, actor="bob", reason="me too", refuse=allow) is ReleaseStatus.YANKED
    assert len(store.events()) == 1


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_yank_without_a_reason_is_refused(store: StateStore, reason: str) -> None:
    with pytest.raises(InvalidRequest, match="reason"):
        store.yank("m", V1, actor="ada", reason=reason, refuse=allow)
    with pytest.raises(InvalidRequest, match="reason"):
        store.unyank("m", V1, actor="ada", reason=reason)


def test_an_unyanked_version_is_a_candidate_whatever_it_was(store: StateStore) -> None:
    store.release("m", V1, **WHO)
    store.yank("m", V1, refuse=allow, **WHO)
    assert store.unyank("m", V1, actor="ada", reason="it was the driver") is True
    assert store.unyank("m", V1, actor="ada", reason="again") is False
    assert store.release_state().of("m").release_status(V1) is ReleaseStatus.CANDIDATE
    assert store.release_state().of("m").reasons == {}
    assert store.events()[0].kind == "unyanked"
    assert store.audit().differences == ()


def test_what_holds_on_to_a_version_is_shown_in_the_transaction_that_yanks_it(store: StateStore) -> None:
    store.set_tag("m", "stable", V1, **WHO)
    store.set_tag("m", "old", Version.parse("1.0.0+build"), **WHO)
    store.set_tag("m", "new", V2, **WHO)
    store.put_policy("m", {"baseline": "1.0.0"}, expected_epoch=0, action="set", **WHO)
    seen: list[VersionUses] = []

    def refuse(uses: VersionUses) -> None:
        seen.append(uses)
        raise ChangeRefused("no")

    with pytest.raises(ChangeRefused):
        store.yank("m", V1, refuse=refuse, **WHO)
    (uses,) = seen
    assert uses.tags == ("old", "stable")
    assert uses.policy is not None
    assert uses.policy.epoch == 1
    assert store.release_state().of("m").release_status(V1) is ReleaseStatus.CANDIDATE
    assert len(store.events()) == 4


def test_a_policy_that_needs_a_yanked_version_is_not_put_in_force(store: StateStore) -> None:
    store.yank("m", V1, refuse=allow, **WHO)
    with pytest.raises(InvalidRequest, match="is yanked"):
        store.put_policy("m", {}, expected_epoch=0, action="set", needs=[V2, V1], **WHO)
    assert store.policies() == {}


def test_a_rollout_that_needs_a_yanked_version_is_not_begun(store: StateStore) -> None:
    store.yank("m", V2, refuse=allow, **WHO)
    for candidate, previous in ((V2, V1), (V1, V2)):
        with pytest.raises(ChangeRefused, match=r"^2\.0\.0 of m was yanked$"):
            store.put_rollout("m", beginning(candidate, previous), **WHO)
    assert store.rollouts("m") == []
    assert [event.kind for event in store.events()] == ["yanked"]


def test_of_a_yank_and_a_rollout_of_one_moment_one_is_refused(store: StateStore) -> None:
    for number in range(12):
        model, start = f"m{number}", Barrier(2)

        def yank(model: str = model, start: Barrier = start) -> str:
            def refuse(uses: VersionUses) -> None:
                if holders := holding(model, V2, uses):
                    raise ChangeRefused("; ".join(holders))

            start.wait()
            try:
                store.yank(model, V2, refuse=refuse, **WHO)
            except ChangeRefused as error:
                return error.message
            return "yanked"

        def begin(model: str = model, start: Barrier = start) -> str:
            start.wait()
            try:
                store.put_rollout(model, beginning(V2, V1, model), **WHO)
            except ChangeRefused as error:
                return error.message
            return "begun"

        with ThreadPoolExecutor(2) as threads:
            outcomes = tuple(call.result() for call in (threads.submit(yank), threads.submit(begin)))
        assert outcomes in {
            ("yanked", f"2.0.0 of {model} was yanked"),
            (
                "rollout 1 is to make it the baseline; abort the rollout, or wait for its end: "
                f"`turnout rollout abort {model} --attempt 1`, with --discard where it cannot be read",
                "begun",
            ),
        }
        assert (store.release_state().of(model).release_status(V2) is ReleaseStatus.YANKED) is not bool(
            store.rollouts(model)
        )
    assert store.audit().differences == ()


def test_a_tag_moves_only_from_where_it_is_expected(store: StateStore) -> None:
    with pytest.raises(Conflict, match=r"m has no tag 'stable' now, and it was expected to name 1\.0\.0; look again"):
        store.set_tag("m", "stable", V2, expect="1.0.0", **WHO)
    assert store.set_tag("m", "stable", V1, expect="", **WHO) is None
    with pytest.raises(Conflict, match=r"names 1\.0\.0 already \(set by ada: it leaks\); look again"):
        store.set_tag("m", "stable", V2, expect="", **WHO)
    with pytest.raises(Conflict, match=r"names 1\.0\.0, not 3\.0\.0"):
        store.set_tag("m", "stable", V2, expect="3.0.0", **WHO)
    with pytest.raises(Conflict, match=r"names 1\.0\.0, not 3\.0\.0"):
        store.set_tag("m", "stable", V1, expect="3.0.0", **WHO)
    assert store.set_tag("m", "stable", V2, expect="1.0.0", **WHO) == V1
    with pytest.raises(Conflict):
        store.delete_tag("m", "stable", expect="1.0.0", **WHO)
    assert store.delete_tag("m", "stable", expect="2.0.0", **WHO) == V2
    assert [event.kind for event in store.events()] == ["tag_deleted", "tag_set", "tag_set"]


def test_a_tag_remembers_where_it_stood(store: StateStore) -> None:
    store.set_tag("m", "stable", V1, actor="ada", reason="first")
    store.set_tag("m", "other", V3, **WHO)
    store.set_tag("n", "stable", V3, **WHO)
    store.set_tag("m", "stable", V2, actor="bob", reason="faster")
    store.delete_tag("m", "stable", actor="eve", reason="unused")
    history = store.tag_history("m", "stable")
    assert [(e.kind, e.payload["previous"], e.actor, e.reason) for e in history] == [
        ("tag_deleted", "2.0.0", "eve", "unused"),
        ("tag_set", "1.0.0", "bob", "faster"),
        ("tag_set", None, "ada", "first"),
    ]
    assert store.tag_history("m", "nothing") == []


def test_of_several_that_move_a_tag_from_one_place_one_wins(store: StateStore) -> None:
    store.set_tag("m", "stable", V1, **WHO)
    start = Barrier(6)

    def move(patch: int) -> str:
        start.wait()
        try:
            store.set_tag("m", "stable", Version(2, 0, patch), actor=str(patch), reason="", expect="1.0.0")
        except TurnoutError as error:
            return type(error).__name__
        return "moved"

    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(move, range(6)))
    assert sorted(outcomes) == ["Conflict"] * 5 + ["moved"]
    winner = outcomes.index("moved")
    assert store.release_state().of("m").tags == {"stable": Version(2, 0, winner)}
    assert store.audit().chain.faults == ()
