"""Numbers of a plan that no float can hold are no numbers of a plan."""

import json
from dataclasses import fields
from typing import Any

import pytest

from turnout.errors import InvalidRequest
from turnout.rollout.plan import Plan
from turnout.rpc.control.rollouts import read_plan

_HUGE = 10**400
_STEP = {"weight": 0.1, "soak_s": 1}


def _plans(number: object) -> list[dict[str, Any]]:
    whole = [{"steps": [_STEP], field.name: number} for field in fields(Plan)]
    parts = [{"steps": [_STEP | {"weight": number}]}, {"steps": [_STEP | {"soak_s": number}]}]
    return [*whole, *parts, {"shadow": {"rate": number}}, {"shadow": {"soak_s": number}}]


@pytest.mark.parametrize("number", [_HUGE, -_HUGE, float("inf"), float("nan")])
def test_a_number_that_no_float_holds_is_refused_wherever_it_stands(number: object) -> None:
    for plan in _plans(number):
        with pytest.raises(InvalidRequest):
            read_plan(json.dumps(plan))
