"""What a request comes to in the counts that a rollout decides by."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout import errors
from turnout.errors import InvalidTensor, TurnoutError
from turnout.rollout.counters import Counters
from turnout.rollout.evidence import Count
from turnout.rpc.errors import code_name
from turnout.serving.counting.arm_counts import ArmMeter, Arms, FailedRequest, Settle, attach, detach
from turnout.serving.counting.keyed_outcomes import BAD, ERROR, NO_SLOT, KeyedLog
from turnout.serving.counting.tick_counts import Replayed, Rules, failure_marks

RULES = Rules((0.1, 0.2, 1.0), client_timeout=0.05, warm_requests=0)
LIMITS = {"p90": 0.1, "p99": 0.2, "stalled": 1.0}
REQUEST = FailedRequest({"x": np.ones(1)}, ())


class Two:
    """Two arms that are counted tick by tick, with a clock of their own."""

    def __init__(self, rules: Rules = RULES, limits=LIMITS, baseline=None) -> None:
        self.arms: Arms = {}
        self.now = 0.0
        self.rules, self.limits = rules, limits
        self.counters = Counters(rules)
        self.counters.attach((self.arms, "canary"), (self.arms, "baseline"), baseline)
        self.roll()
        assert [c.tick.canary["errors"] for c in self.closed()] == [Count()]

    def roll(self, seconds: float = 5.0) -> None:
        self.now += seconds
        self.counters.roll(seconds, self.now, self.rules, self.limits)

    def closed(self):
        return self.counters.closed(self.now)

    def admit(self, part: str = "canary", slot: int = NO_SLOT):
        return [meter.admit(slot) for meter in self.arms[part]]

    def answer(self, counted, took: float = 0.01, batch: int = 1, *, invalid: bool = False) -> None:
        for meter, counts, slot in counted:
            if meter.answered(counts, slot, took, batch, invalid=invalid):
                meter.compare(counts, slot, REQUEST)

    def fail(self, counted, error: BaseException, took: float = 0.01) -> None:
        for meter, counts, slot in counted:
            meter.failed(counts, slot, took, code_name(error), error, REQUEST)

    def only(self):
        """Ends the tick, and returns what the canary's requests came to."""
        self.roll()
        (one,) = self.closed()
        return one.tick.canary


def test_a_request_counts_in_the_tick_that_it_was_admitted_in() -> None:
    two = Two()
    early = two.admit()
    two.roll(0.5)
    late = two.admit()
    two.answer(late, 0.3)
    assert two.closed() == [], "the first tick has a request under way"
    two.answer(early, 0.6)
    two.roll()
    first, second = two.closed()
    assert [c.tick.canary["p99"] for c in (first, second)] == [Count(1, 1), Count(1, 1)]
    assert (first.tick.seconds, second.tick.seconds) == (0.5, 5.0)


@pytest.mark.parametrize(("took", "slow"), [(0.1, 0), (0.1001, 1), (0.3, 2), (5.0, 3)])
def test_slow_is_what_passes_a_threshold(took, slow) -> None:
    two = Two()
    two.answer(two.admit(), took)
    seen = two.only()
    assert [seen[name].bad for name in LIMITS] == [1] * slow + [0] * (3 - slow)


def test_what_is_under_way_at_the_close_is_slow_and_an_error() -> None:
    two = Two()
    hangs = two.admit()
    two.roll()
    two.now += 2.0
    assert two.closed() == [], "two seconds are given in any case: a threshold may be a millisecond"
    two.now += 0.01
    (closed,) = two.closed()
    assert {name: closed.tick.canary[name] for name in LIMITS} == dict.fromkeys(LIMITS, Count(1, 1))
    assert closed.tick.canary["errors"] == Count(1, 1)
    assert closed.tick.canary["invalid"] == Count(1, 0)
    two.fail(hangs, errors.ModelFailure("at last"), 60.0)
    assert two.only()["errors"] == Count(), "what ends after the close counts no more"


def test_a_tick_waits_for_the_largest_threshold() -> None:
    two = Two(Rules((0.1, 30.0), warm_requests=0), {"p90": 0.1, "slo": 30.0})
    late = two.admit()
    two.roll()
    two.now += 29.0
    assert two.closed() == []
    two.fail(late, errors.ModelFailure("late"), 29.0)
    assert two.closed()[0].tick.canary["errors"] == Count(1, 1)


@pytest.mark.parametrize(("took", "bad"), [(1.9, 0), (2.1, 1)])
@pytest.mark.parametrize("how", ["answered", "given up", "refused"])
def test_a_late_request_is_an_error_however_it_ends(how, took, bad) -> None:
    two = Two()
    kind = {"given up": errors.RequestCancelled("left"), "refused": errors.InvalidRequest("nonsense")}
    if how == "answered":
        two.answer(two.admit(), took)
    else:
        two.fail(two.admit(), kind[how], took)
    assert two.only()["errors"] == Count(1, bad)


def test_without_thresholds_an_error_that_takes_its_time_still_counts() -> None:
    two = Two(Rules(warm_requests=0), {})
    slow = two.admit()
    two.roll()
    two.now += 5.0
    assert two.closed() == []
    two.fail(slow, errors.ModelFailure("late"), 5.0)
    assert two.closed()[0].tick.canary["errors"] == Count(1, 1)


def test_without_thresholds_a_request_that_never_ends_is_an_error_after_ten_seconds() -> None:
    two = Two(Rules(warm_requests=0), {})
    two.admit()
    two.roll()
    two.now += 10.01
    assert two.closed()[0].tick.canary == {"errors": Count(1, 1), "invalid": Count(1, 0)}


def test_an_invalid_answer_is_counted_and_is_no_error() -> None:
    two = Two()
    two.answer(two.admit(), invalid=True)
    two.answer(two.admit())
    seen = two.only()
    assert seen["invalid"] == Count(2, 1)
    assert seen["errors"] == Count(2, 0)


def test_the_first_requests_of_each_batch_size_are_left_out_of_latency_but_not_of_errors() -> None:
    two = Two(Rules(RULES.thresholds, 0.05, warm_requests=2))
    for batch in (1, 1, 1, 8, 8, 8):
        two.answer(two.admit(), 0.5, batch=batch)
    two.fail(two.admit(), errors.ModelFailure("cold"))
    seen = two.only()
    assert seen["p90"] == Count(3, 2), "two of the answers, and the error, are timed"
    assert seen["errors"] == Count(7, 1)


def test_the_largest_batch_of_either_arm_is_told() -> None:
    two = Two()
    two.answer(two.admit(), batch=3)
    two.answer(two.admit("baseline"), batch=8)
    two.roll()
    assert two.closed()[0].tick.largest_batch == 8


class Asked:
    """A baseline that takes a request or not, and is asked about failed ones; `settle` has it say what it does."""

    def __init__(self, *, takes: bool = True, room: bool = False) -> None:
        self.takes, self.room = takes, room
        self.settle: list[Settle] = []

    def accepts(self, _request) -> bool:
        return self.takes

    def ask(self, _request, settle) -> bool:
        if self.room:
            self.settle.append(settle)
        return self.room


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (errors.ModelFailure("raised"), 1),
        (errors.UnavailableError("loading"), 1),
        (errors.Exhausted("queue"), 1),
        (errors.NotLoaded("gone"), 1),
        (errors.DigestMismatch("changed"), 1),
        (errors.DeadlineExceededError("late"), 1),
        (RuntimeError("a mistake of ours"), 1),
        (errors.NotFoundError("no such model"), 0),
        (errors.InvalidRequest("nonsense"), 0),
        (errors.InputsRefused("sizes"), 0),
        (errors.PermissionDeniedError("no"), 0),
        (errors.Unsupported("no"), 0),
        (errors.RequestCancelled("the caller left"), 0),
        (asyncio.CancelledError(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_who_is_to_blame_follows_from_the_code(error, blamed) -> None:
    two = Two(baseline=Asked())
    two.fail(two.admit(), error, took=0.06)  # who waits for less than the median has itself to blame
    assert two.only()["errors"] == Count(1, blamed), code_name(error)


@pytest.mark.parametrize(("check", "blamed"), [(Asked(), 1), (Asked(takes=False), 0), (None, 0)])
def test_a_request_that_only_the_candidate_refuses_is_its_fault(check, blamed) -> None:
    two = Two(baseline=check)
    two.fail(two.admit("canary"), InvalidTensor("what?"))
    two.fail(two.admit("baseline"), InvalidTensor("what?"))
    two.roll()
    (one,) = two.closed()
    assert one.tick.canary["errors"] == Count(1, blamed)
    assert one.tick.baseline["errors"] == Count(1, 0)


def test_a_caller_less_patient_than_the_baseline_takes_has_itself_to_blame() -> None:
    two = Two()
    two.fail(two.admit(), errors.DeadlineExceededError("late"), took=0.04)
    two.fail(two.admit(), errors.DeadlineExceededError("late"), took=0.06)
    seen = two.only()
    assert seen["errors"] == Count(2, 1)
    assert seen["p90"] == Count(0, 0), "neither says how long the answer would have taken"


def test_a_request_given_up_after_a_threshold_is_slow() -> None:
    two = Two()
    for error in (errors.RequestCancelled("left"), asyncio.CancelledError(), errors.DeadlineExceededError("late")):
        two.fail(two.admit(), error, took=0.15)
    two.fail(two.admit(), errors.RequestCancelled("left"), took=0.05)
    seen = two.only()
    assert seen["p90"] == Count(3, 3)
    assert seen["p99"] == Count(3, 0)
    assert seen["errors"] == Count(4, 1)


def test_an_error_that_comes_fast_is_not_slow() -> None:
    two = Two()
    two.fail(two.admit(), errors.ModelFailure("at once"))
    assert two.only()["p90"] == Count(1, 0)


def test_one_key_is_counted_whatever_it_does() -> None:
    two = Two()
    for _ in range(50):
        two.fail(two.admit(slot=7), errors.ModelFailure("no"))
    assert two.only()["errors"] == Count(50, 50)


def test_two_rollouts_count_the_same_lane_each_for_itself() -> None:
    two = Two()
    other = ArmMeter(Rules((0.3,), warm_requests=0))
    attach(two.arms, "baseline", other)
    attach(two.arms, "baseline", other)
    counted = two.admit("baseline")
    assert len(counted) == 2, "attached twice it counts once"
    two.answer(counted, 0.5)
    counts = other.roll()
    assert (counts.admitted, counts.settled, counts.slow(0)) == (1, 1, 1)
    detach(two.arms, "baseline", other)
    two.answer(two.admit("baseline"), 0.5)
    assert other.counts.admitted == 0
    two.roll()
    assert two.closed()[0].tick.baseline["p90"] == Count(2, 2)


def test_where_nobody_counts_nothing_is_left_behind() -> None:
    two = Two()
    two.counters.detach()
    assert two.arms == {}


def test_a_request_under_way_when_its_place_changes_is_still_counted() -> None:
    two = Two()
    early = two.admit()
    elsewhere: Arms = {}
    two.counters.attach((elsewhere, "twin"), (elsewhere, "canary"))
    assert two.arms == {}
    two.fail(early, errors.ModelFailure("no"))
    assert two.only()["errors"] == Count(1, 1)


def test_a_threshold_that_changes_holds_from_the_next_tick_on() -> None:
    two = Two()
    early = two.admit()
    two.rules, two.limits = Rules((0.5,), warm_requests=0), {"p90": 0.5}
    two.roll()
    two.answer(early, 0.3)
    two.answer(two.admit(), 0.3)
    two.roll()
    first, second = two.closed()
    assert first.tick.canary["p90"] == Count(1, 1)
    assert second.tick.canary["p90"] == Count(1, 0)


def test_every_error_of_ours_has_a_code_that_blame_is_decided_by() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TurnoutError)]
    assert len(kinds) > 10
    for kind in kinds:
        two = Two(baseline=Asked())
        two.fail(two.admit(), kind("why"))
        assert two.only()["errors"].requests == 1


OF_A_RUN = [errors.ModelFailure("raised"), errors.InputsRefused("sizes"), errors.MemoryBudgetExceeded("limit")]


@pytest.mark.parametrize(("answers", "blamed"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("error", OF_A_RUN, ids=lambda error: type(error).__name__)
def test_a_failed_run_counts_if_and_only_if_the_baseline_answers_the_request(error, answers, blamed) -> None:
    baseline = Asked(room=True)
    two = Two(baseline=baseline)
    two.fail(two.admit(), error)
    two.roll()
    assert not two.closed(), "the tick waits for what the baseline says"
    baseline.settle.pop()(Replayed(answers, invalid=False, seconds=0.01))
    (one,) = two.closed()
    assert one.tick.canary["errors"] == Count(1, blamed)


@pytest.mark.parametrize(
    ("error", "blamed"), list(zip(OF_A_RUN, [1, 0, 1], strict=True)), ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("room", [True, False])
def test_where_the_baseline_cannot_be_asked_only_failures_count(error, blamed, room) -> None:
    baseline = Asked(room=room)
    two = Two(baseline=baseline)
    two.fail(two.admit(), error)
    for settle in baseline.settle:
        settle(None)
    assert two.only()["errors"] == Count(1, blamed)


@pytest.mark.parametrize("slot", [7, NO_SLOT])
@pytest.mark.parametrize("how", ["invalid", "stalled", "given up", "refused"])
def test_what_went_badly_is_run_on_the_baseline_for_what_its_slot_would_get_there(how, slot) -> None:
    baseline = Asked(room=True)
    two = Two(Rules((0.1, 0.2), warm_requests=0, stalled=0.2), {"p90": 0.1, "stalled": 0.2}, baseline)
    counted = two.admit(slot=slot)
    match how:
        case "invalid":
            two.answer(counted, invalid=True)
        case "stalled":
            two.answer(counted, 0.3)
        case "given up":
            two.fail(counted, errors.RequestCancelled("the caller left"), 0.3)
        case "refused":
            two.fail(counted, errors.Exhausted("queue"))
    assert len(baseline.settle) == (slot != NO_SLOT), "a request without a key has no slot to know of"
    two.roll()
    for settle in baseline.settle:
        settle(Replayed(answered=True, invalid=False, seconds=0.01))
    (tick,) = (one.canary for one in two.counters._open)
    assert list(tick.replayed) == [slot] * len(baseline.settle), "it did well there"
    (one,) = two.closed()
    assert one.tick.canary["errors"].bad == (how == "refused"), "what the baseline does with it changes nothing"
    assert one.tick.canary["invalid"].bad == (how == "invalid")


@pytest.mark.parametrize(
    ("replayed", "marks"),
    [
        (Replayed(answered=True, invalid=False, seconds=0.01), 0),
        (Replayed(answered=True, invalid=True, seconds=0.01), ERROR | BAD),
        (Replayed(answered=True, invalid=False, seconds=0.3), BAD),
        (Replayed(answered=False, invalid=False, seconds=0.01), ERROR | BAD),
    ],
    ids=["well", "NaN", "stalls", "fails"],
)
def test_what_goes_as_badly_on_the_baseline_is_known_as_such(replayed, marks) -> None:
    baseline = Asked(room=True)
    two = Two(Rules((0.1, 0.2), warm_requests=0, stalled=0.2), baseline=baseline)
    two.answer(two.admit(slot=7), invalid=True)
    two.roll()
    baseline.settle.pop()(replayed)
    (tick,) = (one.canary for one in two.counters._open)
    assert list(tick.replayed) == [7 | marks]


@pytest.mark.parametrize("error", [errors.ModelCrashed("died"), errors.ModelTimedOut("ended")])
def test_what_ended_a_process_or_a_run_is_never_tried_on_the_baseline(error) -> None:
    baseline = Asked(room=True)
    two = Two(baseline=baseline)
    two.fail(two.admit(slot=7), error)
    assert not baseline.settle
    assert two.only()["errors"] == Count(1, 1)


def test_a_tick_does_not_wait_for_ever_for_what_the_baseline_says() -> None:
    baseline = Asked(room=True)
    two = Two(baseline=baseline)
    two.fail(two.admit(), errors.ModelFailure("raised"))
    two.roll()
    two.now += 11
    (one,) = two.closed()
    baseline.settle.pop()(Replayed(answered=False, invalid=False, seconds=0.01))
    assert one.tick.canary["errors"] == Count(1, 1), "what it has not said by then goes by the code"


@pytest.mark.parametrize(
    "code", ["OK", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "INVALID_ARGUMENT"]
)
@given(took=st.sampled_from([0.0, 0.04, 0.05, 0.1, 0.15, 0.2, 1.0, 2.0, 2.1]) | st.floats(-1, 40))
def test_a_failure_is_held_against_a_tenants_past_as_it_is_against_the_candidate(code: str, took: float) -> None:
    """One rule: or who always gave up early would be expected to fail, and be seen to fail less on the candidate."""
    meter, history = ArmMeter(RULES), KeyedLog()
    _, counts, slot = meter.admit(7)
    if code == "OK":
        meter.answered(counts, slot, took, 1)
        history.add(slot, took)
    else:
        meter.failed(counts, slot, took, code, errors.TurnoutError("whatever"), FailedRequest({}, ()))
        history.add(slot | failure_marks(code), took)
    live, past = counts.keyed.taken(), history.taken().judged(RULES.thresholds[0], RULES.client_timeout)
    found = [
        (
            (one.marked(ERROR) | one.slower(RULES.late)).tolist(),
            [one.slower(limit).tolist() for limit in RULES.thresholds],
        )
        for one in (live, past)
    ]
    assert found[0] == found[1]
