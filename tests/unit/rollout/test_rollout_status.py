"""How a rollout stands, as other systems read it: every state has a phase and a verdict, and all of it is JSON."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rollout_values import PLAN, begun, reached
from turnout.rollout.machine.attempt import Pause, Rollout, RolloutState
from turnout.rollout.machine.records import read_record
from turnout.rollout.machine.status import json_number, phase_of, status, verdict_of
from turnout.state.rollouts import RolloutRecord

S = RolloutState
NOW = datetime(2026, 11, 25, 1, 24, 28, tzinfo=UTC)


def record_of(rollout: Rollout, **document: object) -> RolloutRecord:
    body = rollout.to_json() | document
    return RolloutRecord(
        rollout.model, rollout.attempt, 1, str(rollout.state), rollout.state.final, NOW, NOW, "", NOW, body
    )


@pytest.mark.parametrize(
    ("state", "end", "cause", "phase", "verdict"),
    [
        (S.PENDING, S.ROLLED_BACK, "", "pending", "undecided"),
        (S.VALIDATING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.SHADOWING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.RAMPING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.SOAKING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.DECIDING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.PROMOTING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.WATCHING, S.ROLLED_BACK, "", "progressing", "undecided"),
        (S.SUCCEEDED, S.ROLLED_BACK, "", "succeeded", "accepted"),
        (S.ABORTING, S.ROLLED_BACK, "evidence", "progressing", "rejected"),
        (S.ABORTING, S.ROLLED_BACK, "", "progressing", "inconclusive"),
        (S.ABORTING, S.SUPERSEDED, "", "progressing", "inconclusive"),
        (S.ABORTING, S.FAILED, "", "progressing", "rejected"),
        (S.ROLLED_BACK, S.ROLLED_BACK, "evidence", "rolled_back", "rejected"),
        (S.ROLLED_BACK, S.ROLLED_BACK, "breaker", "rolled_back", "rejected"),
        (S.ROLLED_BACK, S.ROLLED_BACK, "guard", "rolled_back", "rejected"),
        (S.ROLLED_BACK, S.ROLLED_BACK, "", "rolled_back", "inconclusive"),
        (S.SUPERSEDED, S.SUPERSEDED, "", "superseded", "inconclusive"),
        (S.FAILED, S.FAILED, "", "failed", "rejected"),
    ],
)
def test_a_state_has_a_phase_and_a_verdict(state: S, end: S, cause: str, phase: str, verdict: str) -> None:
    rollout = replace(begun(), state=state, end=end, cause=cause)
    assert (str(phase_of(rollout)), str(verdict_of(rollout))) == (phase, verdict)
    paused = replace(rollout, pauses=(Pause("operator", "lunch"),))
    stands_still = not state.final and state is not S.ABORTING
    assert str(phase_of(paused)) == ("paused" if stands_still else phase)


def test_every_state_is_looked_at() -> None:
    (mark,) = test_a_state_has_a_phase_and_a_verdict.pytestmark
    assert {case[0] for case in mark.args[1]} == set(S)


@pytest.mark.parametrize("state", [S.SOAKING, S.SUCCEEDED])
def test_it_is_json_whatever_the_evidence_is(state: S) -> None:
    rollout = reached(state)
    message = status(rollout, record_of(rollout))
    assert json.loads(json.dumps(message, allow_nan=False)) == message
    assert message["steps"] == len(PLAN.steps)
    assert json_number(math.inf) == pytest.approx(1.797e308, rel=1e-3)


def test_one_that_cannot_be_read_has_the_same_keys_and_decides_nothing() -> None:
    rollout = begun()
    unreadable = read_record(record_of(rollout, schema=99))
    message = status(unreadable, record_of(rollout, schema=99))
    assert message.keys() == status(rollout, record_of(rollout)).keys()
    assert (message["phase"], message["verdict"], message["candidate"]) == (
        "unreadable",
        "undecided",
        str(rollout.candidate),
    )
    assert "cannot be read by this release" in message["message"]
