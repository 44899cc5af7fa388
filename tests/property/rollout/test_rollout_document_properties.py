"""A rollout's record, changed anywhere: it is refused in words, or it is a rollout that the next ticks can work on."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_values import BAD, GOOD, PLAN, SILENT, V3, S, reached
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.desired_policy import desired_policy
from turnout.rollout.machine.machine import advance
from turnout.rollout.reporting.messages import rollout_message
from turnout.routing.policy import Canary, Policy

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*map(str, S)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
STATES = [state for state in S if state is not S.FAILED and state not in (S.ROLLED_BACK, S.SUPERSEDED)]
BODIES = {state: json.dumps(reached(state, PLAN).to_json()) for state in STATES}


def places(body: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the ways to each value of a document."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [here, *(place for key, value in inner for place in places(value, (*here, key)))]


@settings(max_examples=300)
@given(data=st.data(), state=st.sampled_from(STATES))
def test_a_changed_record_is_refused_or_worked_on(data, state) -> None:
    body = json.loads(BODIES[state])
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(body)[1:]))
        holder = body
        for key in place[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()) and data.draw(st.booleans()):
            del holder[place[-1]]
        else:
            holder[place[-1]] = data.draw(VALUES)
    try:
        rollout = Rollout.from_json(body)
    except ValueError:
        return
    for facts in (GOOD, SILENT, BAD, GOOD):
        for policy in (None, Policy(V3, (Canary(rollout.candidate, 500),))):
            desired_policy(rollout, policy)
        rollout_message(rollout, None)
        json.dumps(rollout.to_json(), allow_nan=False)
        rollout, _ = advance(rollout, facts)
