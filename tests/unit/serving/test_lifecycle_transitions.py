"""A version's state moves along the legal transitions only."""

import itertools

import pytest

from turnout.serving.versions.lifecycle import TRANSITIONS, LifecycleState, step


@pytest.mark.parametrize(("state", "to"), list(itertools.product(LifecycleState, repeat=2)))
def test_only_legal_transitions_are_made(state: LifecycleState, to: LifecycleState) -> None:
    if (state, to) in TRANSITIONS:
        assert step(state, to) is to
    else:
        with pytest.raises(ValueError, match="does not go from"):
            step(state, to)


def test_every_state_can_be_reached_and_none_is_a_dead_end() -> None:
    assert {to for _, to in TRANSITIONS} | {LifecycleState.NEW} == set(LifecycleState)
    assert {state for state, _ in TRANSITIONS} == set(LifecycleState)
