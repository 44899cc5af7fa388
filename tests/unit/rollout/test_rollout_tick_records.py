"""What is recorded of each tick: the evidence can be computed again from it, whatever state the rollout is in."""

import json
from dataclasses import replace

import pytest

from rollout_values import BAD, GOOD, S, begun, gone, reached
from rollout_wire import replayed
from turnout.rollout.engine.active_rollout import ActiveRollout, tick_records
from turnout.rollout.engine.exchange.server_ticks import CollectedTicks, ServerTick, ShadowTick
from turnout.rollout.evidence import Stratum
from turnout.rollout.machine.attempt import Rollout, RolloutState

ENDS = replace(GOOD, in_force=True)


def ended(state: RolloutState) -> Rollout:
    rollout = replace(reached(S.ABORTING if state is not S.SUCCEEDED else S.WATCHING), state=state)
    assert rollout.state.final
    return rollout


@pytest.mark.parametrize("state", [state for state in S if state.final])
def test_one_that_has_ended_records_no_tick_while_the_store_keeps_it_waiting(state: RolloutState) -> None:
    rollout = ended(state)
    assert gone(rollout, GOOD) == (rollout, [])
    assert tick_records(rollout, CollectedTicks(GOOD.ticks, [{}], (), {}), GOOD.shadow) == []


@pytest.mark.parametrize("facts", [ENDS, replace(BAD, in_force=True)], ids=["good", "bad"])
def test_the_evidence_is_what_the_records_come_to_at_each_tick_and_ticks_after_the_end(facts) -> None:
    rollout, records, over = begun(), [], 0
    for _ in range(100):
        found = tick_records(rollout, CollectedTicks(facts.ticks, [{}] * len(facts.ticks), (), {}), facts.shadow)
        records += json.loads(json.dumps(found))
        over += rollout.state.final
        rollout, _told = gone(rollout, facts)
        assert replayed(rollout.plan, records) == rollout.evidence, rollout.state
        if over > 3:
            return
    raise AssertionError(rollout.state)


def test_what_a_server_reported_last_counts_only_while_it_reports() -> None:
    """A shadow that cannot be compared on one server pauses the rollout, but not after that server is gone."""
    shadow, none = ShadowTick(obstacle="it cannot be compared"), {"canary": {}, "baseline": {}}
    active = ActiveRollout.begin(begun(), 1, now=0.0)
    active.receive(ServerTick(10, 1.0, 1, Stratum("other"), (), none, shadow, {"7": 3}))
    active.gather("own", oldest=5)
    assert active.elsewhere["other"].shadow == shadow
    active.gather("own", oldest=10)
    assert active.elsewhere
    active.gather("own", oldest=11)
    assert not active.elsewhere
    active.receive(ServerTick(12, 1.0, 1, Stratum("other"), (), none, shadow))
    active.gather("own", oldest=11)
    assert active.elsewhere
    active.lost("own")
    assert not active.elsewhere
