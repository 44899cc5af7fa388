"""Policies as values: what makes one, what may come after what, and which requests it decides on."""

from dataclasses import replace

import numpy as np
import pytest
from semver import Version

from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.routing.policy import (
    UNITS,
    Canary,
    Policy,
    PolicyFact,
    PolicyState,
    Shadow,
    eligible,
    malformed,
    takes_back,
    unfit,
)
from turnout.routing.selection.selector import parse
from turnout.routing.slots import KEY_SALT, SLOTS, Owners, SlotTable
from turnout.serving.counting.keyed_outcomes import SlotFinder
from turnout.state.release_status import ReleaseStatus

V = Version.parse
SALT, OTHER = b"one", b"two"
X = Signature((TensorSpec("x", DataType.FLOAT32, (None, 4)),), (TensorSpec("y", DataType.FLOAT32, (None, 4)),))
Y = Signature((TensorSpec("x", DataType.INT32, (None, 4)),), X.outputs)


def policy(baseline: str = "3.2.0", shadows: dict[str, int] | None = None, **canaries: int) -> Policy:
    """A policy; canaries are written v3_3_0=500."""
    return Policy(
        V(baseline),
        tuple(Canary(V(name[1:].replace("_", ".")), weight) for name, weight in canaries.items()),
        tuple(Shadow(V(version), rate) for version, rate in (shadows or {}).items()),
    )


def state(**canaries: int) -> PolicyState:
    return PolicyState().with_policy(policy(**canaries), SALT)


def facts(**versions: PolicyFact) -> dict[Version, PolicyFact]:
    return {V(name[1:].replace("_", ".")): fact for name, fact in versions.items()}


GOOD = PolicyFact(ReleaseStatus.RELEASED, True, X)


def test_what_is_kept_reads_back_as_the_same_state() -> None:
    kept = PolicyState().with_policy(policy(shadows={"3.4.0-rc.1": 1000}, v3_3_0=500, v3_4_0=1), SALT)
    assert PolicyState.from_json(kept.to_json()) == kept
    assert PolicyState.from_json(kept.cleared().with_frozen(True).to_json()).frozen


def test_earlier_releases_read_every_policy_that_they_would_route_alike() -> None:
    """They know schema 1 only, whose tables have no order of their own: without claims, it makes no difference."""
    trial = state(v3_3_0=500)
    assert trial.to_json()["schema"] == 2
    older = PolicyState(trial.policy, table=SlotTable(SALT, trial.table.claims))
    alike = [
        PolicyState(),
        trial.cleared(),
        trial.with_policy(policy(), OTHER),
        trial.cleared().with_frozen(True),
        older,
    ]
    for one in alike:
        assert one.to_json()["schema"] == 1
        assert PolicyState.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    "body", [{}, {"schema": 2}, {"schema": 1, "policy": {}, "frozen": False, "slots": {}}, {"schema": 1}]
)
def test_what_is_no_policy_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="polic"):
        PolicyState.from_json(body)


@pytest.mark.parametrize(("weight", "slots"), [(0, 0), (1, 7), (500, 3277), (2500, 16384), (UNITS, 65536)])
def test_a_weight_becomes_the_nearest_number_of_slots_and_never_none(weight: int, slots: int) -> None:
    assert state(v3_3_0=weight).table.slots_of("3.3.0") == slots


def test_a_new_trial_draws_its_keys_anew_and_a_running_one_keeps_them() -> None:
    trial = state(v3_3_0=500)
    assert trial.with_policy(policy(v3_3_0=2500), OTHER).table.order == SALT
    assert trial.with_policy(policy(v3_3_0=500, v3_4_0=500), OTHER).table.order == SALT
    none = trial.with_policy(policy(), OTHER)
    assert none.with_policy(policy(v3_3_0=500), OTHER).table.order == OTHER


def test_keys_meet_the_same_slots_for_the_life_of_a_model() -> None:
    """What a slot did before a trial is known when the trial begins, also where there was no policy yet."""
    trial = state(v3_3_0=500)
    assert trial.table.salt == PolicyState().table.salt == KEY_SALT
    ended = trial.with_policy(policy(), OTHER)
    assert ended.with_policy(policy(v3_3_0=500), OTHER).table.salt == KEY_SALT
    assert trial.cleared().table.salt == KEY_SALT


def test_a_table_of_an_earlier_release_keeps_its_keys_and_their_order() -> None:
    body = state(v3_3_0=500).to_json()
    body["schema"] = 1
    body["slots"] = {"salt": SALT.hex(), "claims": body["slots"]["claims"]}
    old = PolicyState.from_json(body)
    assert Owners.of(old.table).by_slot == Owners.of(SlotTable(SALT, old.table.claims)).by_slot
    grown = old.with_policy(policy(v3_3_0=2500), OTHER)
    assert (grown.table.salt, grown.table.order) == (SALT, b"")
    again = old.with_policy(policy(), OTHER).with_policy(policy(v3_3_0=500), OTHER)
    assert (again.table.salt, again.table.order) == (SALT, OTHER)


def owned(table: SlotTable, owner: str) -> set[int]:
    return set(np.flatnonzero(Owners.of(table).owned(owner)))


@pytest.mark.parametrize("canary", [100, 2500, 5000, 9500])
def test_who_met_the_candidate_stays_with_it_when_it_becomes_the_baseline(canary) -> None:
    """What is held back comes from those who never met it, as long as there are any."""
    twin = min(canary, (10_000 - canary) // 2)
    before = PolicyState().with_policy(replace(policy(v3_3_0=canary), twin=twin), SALT)
    met = owned(before.table, "3.3.0")
    promoted = Policy(V("3.3.0"), (Canary(V("3.2.0"), 500),), twin=500)
    after = before.with_policy(promoted, OTHER)
    held = owned(after.table, "3.2.0")
    assert len(held) == round(0.05 * SLOTS)
    assert not held & met
    assert after.table.order == SALT, "it is one trial still"
    assert after.with_policy(promoted, OTHER) == after


def test_where_everybody_met_the_candidate_those_who_did_last_are_held_back() -> None:
    before = PolicyState().with_policy(policy(v3_3_0=2500), SALT)
    first = owned(before.table, "3.3.0")
    everybody = before.with_policy(policy(v3_3_0=10_000), OTHER)
    after = everybody.with_policy(Policy(V("3.3.0"), (Canary(V("3.2.0"), 500),)), OTHER)
    assert not owned(after.table, "3.2.0") & first


def traffic_of(**requests: int) -> np.ndarray:
    """Requests by slot, for keys named as the arguments."""
    found = np.zeros(SLOTS, np.int64)
    for key, count in requests.items():
        found[SlotFinder(KEY_SALT).slot(key)] += count
    return found


def with_twin(traffic=None) -> PolicyState:
    return PolicyState().with_policy(replace(policy(v3_3_0=2500), twin=2500), SALT, traffic)


def test_a_twin_without_keys_that_carry_traffic_gets_others() -> None:
    canary, twin = owned(with_twin().table, "3.3.0"), owned(with_twin().table, "twin")
    names = [f"key{n}" for n in range(200)]
    (mine,) = [name for name in names if SlotFinder(KEY_SALT).slot(name) in canary][:1]
    (other,) = [name for name in names if SlotFinder(KEY_SALT).slot(name) not in canary | twin][:1]
    traffic = traffic_of(**{mine: 1000, other: 900})
    redrawn = with_twin().with_twin_redrawn(traffic)
    assert SlotFinder(KEY_SALT).slot(other) in owned(redrawn.table, "twin")
    assert owned(redrawn.table, "3.3.0") == canary
    assert len(owned(redrawn.table, "twin")) == len(twin)
    assert redrawn.with_twin_redrawn(traffic) == redrawn
    assert with_twin(traffic) == redrawn, "it is drawn so in the first place where the traffic is known"


def test_a_twin_that_carries_its_part_stays() -> None:
    canary, twin = owned(with_twin().table, "3.3.0"), owned(with_twin().table, "twin")
    names = [f"key{n}" for n in range(200)]
    (mine,) = [name for name in names if SlotFinder(KEY_SALT).slot(name) in canary][:1]
    (its,) = [name for name in names if SlotFinder(KEY_SALT).slot(name) in twin][:1]
    (other,) = [name for name in names if SlotFinder(KEY_SALT).slot(name) not in canary | twin][:1]
    assert with_twin(traffic_of(**{mine: 1000, its: 600, other: 1000})) == with_twin()
    assert with_twin(traffic_of(**{mine: 1000})) == with_twin(), "there is nobody else"
    assert with_twin(traffic_of(**{other: 1000})) == with_twin(), "nobody's traffic meets the canary yet"
    assert with_twin(np.zeros(SLOTS, np.int64)) == with_twin()


def test_a_canary_at_zero_goes_on_being_a_trial() -> None:
    resting = state(v3_3_0=500).with_canary(Canary(V("3.3.0"), 0), OTHER)
    assert resting.with_canary(Canary(V("3.3.0"), 500), OTHER) == state(v3_3_0=500)


def test_setting_the_same_policy_again_changes_nothing() -> None:
    assert state(v3_3_0=500).with_policy(policy(v3_3_0=500), OTHER) == state(v3_3_0=500)
    assert state().with_policy(policy(), OTHER) == state()


def test_another_baseline_leaves_the_canaries_their_keys() -> None:
    moved = state(v3_3_0=500).with_policy(policy("3.1.0", v3_3_0=500), OTHER)
    assert moved.table == state(v3_3_0=500).table


def test_reverting_gives_the_very_keys_back_and_leaves_the_freeze() -> None:
    earlier = state(v3_3_0=500)
    now = earlier.cleared().with_policy(policy("3.1.0", v3_4_0=100), OTHER).with_frozen(True)
    back = now.reverted(earlier)
    assert (back.policy, back.table, back.frozen) == (earlier.policy, earlier.table, True)


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        (policy(v3_3_0=UNITS + 1), "canaries[0].weight", "0 to 1"),
        (policy(v3_3_0=-1), "canaries[0].weight", "0 to 1"),
        (policy(v3_2_0=1), "canaries[0].version", "baseline"),
        (policy(v3_3_0=6000, v3_4_0=4001), "canaries", "100.0100%"),
        (policy(shadows={"3.2.0": 1}), "shadows[0].version", "baseline"),
        (policy(shadows={"3.3.0": UNITS + 1}), "shadows[0].rate", "0 to 1"),
        (Policy(V("3.2.0"), (Canary(V("3.3.0"), 1), Canary(V("3.3.0"), 2))), "canaries", "twice"),
    ],
)
def test_a_policy_that_cannot_be_says_which_field_is_wrong(wrong: Policy, field: str, says: str) -> None:
    problems = dict(malformed(wrong))
    assert says in problems[field]


def test_a_sound_policy_has_no_problem() -> None:
    sound = policy(shadows={"3.4.0": UNITS}, v3_3_0=UNITS)
    assert malformed(sound) == []
    assert unfit(sound, facts(v3_2_0=GOOD, v3_3_0=GOOD, v3_4_0=GOOD), force=False) == []


def test_a_candidate_may_be_a_canary_or_a_shadow_and_no_baseline() -> None:
    candidate = PolicyFact(ReleaseStatus.CANDIDATE, True, X)
    known = facts(v3_2_0=GOOD, v3_3_0=candidate, v3_4_0=candidate)
    assert unfit(policy(shadows={"3.4.0": 1}, v3_3_0=1), known, force=False) == []
    assert unfit(policy("3.3.0"), known, force=True) == [
        "3.3.0 is a candidate: release it before it becomes the baseline"
    ]


def test_what_is_yanked_or_not_ready_has_no_part() -> None:
    known = facts(
        v3_2_0=GOOD,
        v3_3_0=PolicyFact(ReleaseStatus.YANKED, True, X),
        v3_4_0=PolicyFact(ReleaseStatus.RELEASED, False, X),
    )
    assert unfit(policy(v3_3_0=1, v3_4_0=1), known, force=True) == [
        "3.3.0 was yanked",
        "3.4.0 is not ready: load it first",
    ]


def test_a_signature_that_does_not_fit_the_baselines_clients_is_refused_unless_forced() -> None:
    known = facts(v3_2_0=GOOD, v3_3_0=PolicyFact(ReleaseStatus.RELEASED, True, Y))
    for wanted in (policy(v3_3_0=1), policy(shadows={"3.3.0": 1})):
        (reason,) = unfit(wanted, known, force=False)
        assert "3.3.0 does not fit the baseline's clients: input x takes int32 where float32 was taken" in reason
        assert unfit(wanted, known, force=True) == []


@pytest.mark.parametrize(
    ("selector", "canaries"),
    [
        ("", {"3.3.0", "4.0.0", "3.4.0-rc.1"}),
        ("^3", {"3.3.0"}),
        ("*", {"3.3.0", "4.0.0"}),
        (">=3.2 <5", {"3.3.0", "4.0.0"}),
        ("^3.2 || >=3.4.0-rc.0 <3.4.0", {"3.3.0", "3.4.0-rc.1"}),
        ("~3.2", set()),
    ],
)
def test_a_range_meets_only_canaries_that_satisfy_it(selector: str, canaries: set[str]) -> None:
    wanted = Policy(V("3.2.0"), tuple(Canary(V(v), 1) for v in ("3.3.0", "4.0.0", "3.4.0-rc.1")))
    found = eligible(parse(selector), wanted)
    assert found is not None
    assert {str(version) for version in found} == canaries


@pytest.mark.parametrize("selector", ["3.2.0", "latest", "stable", "sha256:" + "0" * 64, "^4", "~3.3"])
def test_whatever_names_one_version_and_ranges_without_the_baseline_are_not_the_policys(selector: str) -> None:
    assert eligible(parse(selector), policy(v3_3_0=500)) is None


def test_in_a_freeze_only_what_takes_traffic_back_is_taken() -> None:
    now = PolicyState().with_policy(policy(shadows={"3.5.0": 500}, v3_3_0=500, v3_4_0=100), SALT)

    def goes(*wanted: Policy) -> list[bool]:
        return [takes_back(now, now.with_policy(w, SALT), {V("3.1.0")}) for w in wanted]

    less = policy(shadows={"3.5.0": 500}, v3_3_0=100, v3_4_0=100)
    assert goes(less, policy(), policy("3.1.0"), policy("3.1.0", v3_3_0=500)) == [True] * 4
    more = policy(v3_3_0=501)
    assert goes(more, policy(v3_6_0=1), policy("3.0.0"), policy(shadows={"3.5.0": 501})) == [False] * 4
    assert not takes_back(now, now.cleared(), {V("3.1.0")})
    assert not takes_back(now.cleared(), now, {V("3.2.0")})
