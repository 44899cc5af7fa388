"""Which rollouts a server reads anew: those that it drives, and those that something happened to."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rollout_values import BAD, GOOD, PLAN, begun, gone
from turnout.rollout.engine.exchange.server_ticks import ServerTick
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.evidence import Count, Stratum
from turnout.rollout.machine.attempt import Rollout
from turnout.state.rollouts import RolloutRecord

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def recorded(rollout: Rollout, number: int, driver: str = "other", until: datetime = NOW + timedelta(60)):
    document = json.loads(json.dumps(rollout.to_json()))
    state = str(rollout.state)
    return RolloutRecord("m", 1, number, state, rollout.state.final, NOW, NOW, driver, until, document)


def soaking() -> Rollout:
    rollout = begun(replace(PLAN, shadow=None))
    for _ in range(20):
        rollout, _told = gone(rollout, replace(GOOD, in_force=True))
        if rollout.state == "soaking":
            return rollout
    raise AssertionError(rollout.state)


def test_a_rollout_of_another_server_is_read_when_something_happened_to_it_and_in_full_when_it_is_taken_over() -> None:
    ownership, before = Ownership(20.0, lambda: "here"), soaking()
    ownership.reconcile([recorded(before, 1)], 0.0, NOW)
    counted, _ = gone(before, GOOD)
    assert counted.epoch == before.epoch
    assert counted.evidence != before.evidence
    ownership.reconcile([recorded(counted, 2)], 1.0, NOW)
    (foreign,) = ownership.foreign
    assert foreign.number == 2
    assert foreign.rollout.evidence == before.evidence, "nothing of it is needed here"
    ownership.take("m")
    (active,) = ownership.active
    assert active.rollout == counted, "what is written next follows what is recorded"
    assert active.number == 2


def test_what_happened_to_a_rollout_of_another_server_is_known_here_at_once() -> None:
    ownership, before = Ownership(20.0, lambda: "here"), soaking()
    ownership.reconcile([recorded(before, 1)], 0.0, NOW)
    after, _ = gone(before, BAD)
    assert after.state == "aborting"
    ownership.reconcile([recorded(after, 2)], 1.0, NOW)
    assert [one.rollout for one in ownership.foreign] == [after]


def test_a_rollout_whose_lease_is_over_is_taken_over_with_the_evidence_that_is_recorded() -> None:
    ownership, before = Ownership(20.0, lambda: "here"), soaking()
    ownership.reconcile([recorded(before, 1)], 0.0, NOW)
    counted, _ = gone(before, GOOD)
    ownership.reconcile([recorded(counted, 2)], 1.0, NOW)
    ownership.reconcile([recorded(counted, 2, until=NOW)], 2.0, NOW)
    assert [active.rollout for active in ownership.active] == [counted]


def part(number: int) -> ServerTick:
    stratum = Stratum("here", {"errors": Count(number)}, {"errors": Count(number)})
    return ServerTick(number, 5.0, 1, stratum, (), {"canary": {}, "baseline": {}})


def test_what_was_counted_here_is_told_whoever_drives_the_rollout_once_this_server_has_lost_it() -> None:
    """It was taken into evidence that nobody recorded: the lease was over, and another server wrote in between."""
    ownership, before = Ownership(20.0, lambda: "here"), soaking()
    ownership.reconcile([recorded(before, 1, driver=ownership.driver)], 0.0, NOW)
    (active,) = ownership.active
    counters = active.counters
    for number in (7, 8, 9):
        active.parts[number, "here"] = part(number)
        collected = active.gather("here", 0)
        after, _ = gone(active.rollout, replace(GOOD, ticks=collected.ticks, taken=collected.taken))
        active.rollout = after
        if number == 7:
            active.recorded(after, 2)
    active.parts[10, "here"] = part(10)
    ownership.reconcile([recorded(before, 3)], 1.0, NOW)
    (foreign,) = ownership.foreign
    assert sorted(foreign.parts) == [(8, "here"), (9, "here"), (10, "here")]
    assert foreign.counters is counters, "requests under way go on being counted"
    assert not ownership.active


def test_what_was_read_before_this_server_wrote_a_rollout_does_not_undo_that() -> None:
    """A read may take longer than the write that it was overtaken by."""
    ownership, before = Ownership(20.0, lambda: "here"), soaking()
    read = [recorded(before, 1, driver=ownership.driver)]
    ownership.reconcile(read, 0.0, NOW)
    (active,) = ownership.active
    active.rollout, _ = gone(before, GOOD)
    active.recorded(active.rollout, 2)
    for records in (read, []):  # an empty one is from before the rollout was started
        ownership.reconcile(records, 1.0, NOW, written={("m", 1)})
        assert ownership.active == [active]
        assert active.number == 2
    ownership.drop(active.rollout)  # it has ended
    ownership.reconcile(read, 1.0, NOW, written={("m", 1)})
    assert not ownership.running
    ownership.reconcile([recorded(before, 1)], 1.0, NOW)
    (foreign,) = ownership.foreign
    ownership.reconcile([recorded(before, 1)], 1.0, NOW, written={("m", 1)})
    assert ownership.foreign == [foreign]
