"""What the baseline does to itself is taken off what a shadow seems to do."""

import numpy as np
import pytest

from turnout.registry.manifest.manifest import Tolerance
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Tick
from turnout.rollout.plan import Plan, ShadowStage
from turnout.routing.shadow.compare import OutputRule, compare
from turnout.routing.shadow.ledger import CopyOutcome, Ledger
from turnout.routing.shadow.noise import EARLY_REPEATS, NEEDED_REPEATS, Noise
from turnout.telemetry.metrics.shadow import ShadowRecorder

ALLOWED = 0.01
A_TICK = 10
"""Copies that the evidence takes at a time."""
PLAN = Plan(shadow=ShadowStage(agreement=1 - ALLOWED))
RULES = {name: OutputRule(Tolerance(1e-5, 1e-3)) for name in ("y", "z")}
ONES = np.ones((1, 4), np.float32)


def answer(y=ONES, z=ONES):
    return {"y": y, "z": z}


def differing(actual) -> tuple[str, ...]:
    return compare(answer(), actual, RULES).differing


SAME, NOISY, WRONG = (
    compare(answer(), actual, RULES) for actual in (answer(), answer(y=ONES * 1.5), answer(z=ONES * 3))
)


def judged(rng, noise: float, worse: float, copies: int) -> tuple[Evidence, Ledger]:
    """Runs copies through a ledger as a lane does, and takes what counts into the evidence."""
    ledger = Ledger(ShadowRecorder("m", "2.0.0"), 0)
    evidence = Evidence.start(PLAN.evidence_metrics, 86_400.0)
    for number in range(copies):
        drawn = [NOISY if rng.random() < noise else SAME for _ in range(2)]
        ledger.compare(WRONG if rng.random() < worse else drawn[0], 1, 0.0)
        if ledger.wants_repeat or rng.random() < 0.02:
            ledger.repeat(drawn[1])
        if ledger.judged and (len(ledger.samples) >= A_TICK or number == copies - 1):
            fresh = list(ledger.samples)
            ledger.samples.clear()
            count = Count(len(fresh), sum(ledger.bad(sample, ALLOWED) for sample in fresh))
            evidence = evidence.taken(Tick.unkeyed(0.0, {DISAGREEMENT: count}, {}))
    return evidence, ledger


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.1, 0.4, 0.8, 1.0])
def test_a_shadow_that_is_as_noisy_as_the_baseline_is_not_rolled_back(noise) -> None:
    rng = np.random.default_rng(7)
    rolled_back = sum(judged(rng, noise, 0.0, 600)[0].worse(0.01) for _ in range(40))
    assert rolled_back <= 1, f"{rolled_back} of 40"


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.4, 1.0])
def test_one_that_is_wrong_in_an_output_without_noise_is(noise) -> None:
    rng = np.random.default_rng(8)
    assert all(judged(rng, noise, 0.3, 200)[0].worse(0.01) for _ in range(10))


def test_where_all_outputs_differ_from_themselves_nothing_is_left_and_that_is_said() -> None:
    noise = Noise()
    for _ in range(NEEDED_REPEATS):
        noise.take(("y", "z"))
    assert noise.nothing_left(("y", "z")) == (
        "nothing is left to compare: the baseline disagrees with itself in 16 of 16 repeated copies, in every output"
    )
    assert not noise.counts(("y",), 1, ALLOWED)
    assert noise.counts(("y (nonfinite)",), 1, ALLOWED), "NaN where the baseline has none is no noise"
    assert not noise.nothing_left(("y", "z", "label")), "an output that never differed is left"


def test_nothing_is_judged_before_the_noise_is_known_but_failures() -> None:
    ledger = Ledger(ShadowRecorder("m", "2.0.0"), 0)
    ledger.count(CopyOutcome.CRASHED, 1)
    assert ledger.judged
    assert ledger.bad(ledger.samples[0], ALLOWED)
    ledger.compare(compare(answer(), answer(y=ONES * 2), RULES), 1, 0.0)
    assert not ledger.judged
    for _ in range(NEEDED_REPEATS):
        assert ledger.wants_repeat or ledger.noise.runs >= ledger.compared
        ledger.repeat(compare(answer(), answer(), RULES))
    assert ledger.judged
    assert ledger.bad(ledger.samples[1], ALLOWED)


def test_repeats_come_early_and_for_disagreements() -> None:
    noise = Noise()
    wanted = 0
    for compared in range(1, 500):
        if noise.wanted(compared, 0):
            noise.take(())
            wanted += 1
    assert wanted == EARLY_REPEATS
    assert noise.wanted(500, 1)
    assert not Noise(measured=False).wanted(500, 10)
    assert Noise(measured=False).known


def test_what_differs_in_form_goes_by_another_name() -> None:
    assert differing(answer()) == ()
    assert differing(answer(y=ONES * 2)) == ("y",)
    assert differing(answer(y=ONES * np.float32("nan"), z=ONES * 2)) == ("y (nonfinite)", "z")
    assert differing({"y": ONES.astype(np.float64)}) == ("y (dtype)", "z (missing)")


def test_copies_that_count_for_nothing_are_told_with_the_reason() -> None:
    ledger = Ledger(ShadowRecorder("m", "2.0.0"), 0)
    assert ledger.uncounted == ""
    for _ in range(3):
        ledger.drop("stale")
        ledger.compare(SAME, 1, 0.0)
    ledger.repeat(SAME)
    assert ledger.uncounted == (
        "3 copies were dropped (3 stale) and 3 count for nothing before the baseline has answered 16 of them again; "
        "so far it has answered 1"
    )
