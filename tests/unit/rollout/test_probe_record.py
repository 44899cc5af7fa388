"""What measurements of probes come to: property tests of the rules in docs/rollout-checks.md."""

import itertools
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.rollout.analysis.json_path import value_at
from turnout.rollout.machine.confirmation import Confirmation, Reply, reply_of
from turnout.rollout.machine.measurements import NOT_ASKED, Measurement, ProbeLimits, ProbeOutcome, ProbeRecord, judged

NOW = datetime(2026, 1, 2, tzinfo=UTC)
P, F, N = ProbeOutcome.PASSED, ProbeOutcome.FAILED, ProbeOutcome.INCONCLUSIVE
outcomes = st.lists(st.sampled_from(ProbeOutcome), max_size=30)
limits = st.builds(ProbeLimits, st.integers(1, 4), st.integers(0, 4), st.integers(0, 4))


def record(several: list[ProbeOutcome], limit: ProbeLimits = NOT_ASKED.limits) -> ProbeRecord:
    found = NOT_ASKED
    for outcome in several:
        found = found.taken(Measurement("qa", 0, outcome, "1", "why", NOW, limit))
    return found


@given(outcomes, limits)
def test_it_fails_by_failures_alone_and_only_beyond_the_limit(several, limit) -> None:
    assert record(several, limit).has_failed == (several.count(F) > limit.failure_limit)


@given(outcomes, limits)
def test_a_step_is_passed_only_on_enough_that_passed_the_last_of_which_is_recent(several, limit) -> None:
    conclusive = [outcome for outcome in several if outcome is not N]
    in_a_row = len(list(itertools.takewhile(lambda outcome: outcome is N, reversed(several))))
    passes = (
        several.count(P) >= limit.count
        and conclusive[-1:] == [P]
        and in_a_row <= limit.consecutive_error_limit
    )  # fmt: skip
    assert (record(several, limit).lacking == "") == passes


@given(outcomes, limits)
def test_one_that_is_inconclusive_neither_passes_nor_fails_anything(several, limit) -> None:
    before, after = record(several, limit), record([*several, N], limit)
    assert (after.passed, after.failed, after.has_failed) == (before.passed, before.failed, before.has_failed)
    assert not (before.lacking and not after.lacking), "it lets no step pass that was not passed before"


@given(outcomes, limits)
def test_a_record_is_read_as_it_was_written(several, limit) -> None:
    written = record(several, limit)
    assert ProbeRecord.from_json(json.loads(json.dumps(written.to_json()))) == written


@pytest.mark.parametrize(
    "damage", [{"passed": -1}, {"value": 3}, {"outcome": "fine"}, {"limits": [1, 2]}, {"time": "soon"}]
)
def test_a_damaged_record_is_refused(damage) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        ProbeRecord.from_json(record([P]).to_json() | damage)


INF = float("inf")


@pytest.mark.parametrize(
    ("value", "above", "below", "outcome"),
    [
        (1, 1, None, P), (1.1, 1, None, F), (INF, 1, None, F), (-INF, 1, None, P), (-INF, None, 1, F),
        (0.9, None, 1, F), (1, None, 1, P), (1, 2, 1, P), (3, 2, 1, F), (0, 2, 1, F), (float("nan"), 1, 0, N),
        (1, None, None, N),
    ],
)  # fmt: skip
def test_limits_are_closed_and_infinity_is_a_number_while_nan_is_none(value, above, below, outcome) -> None:
    found, detail = judged(float(value), above, below)
    assert found is outcome
    assert (detail == "") == (outcome is P)


@pytest.mark.parametrize(
    ("path", "value"),
    [("$", {"a": [{"b c": 1}], "d": None}), ("$.a[0]", {"b c": 1}), ('$.a[0]["b c"]', 1), ('$["d"]', None)],
)
def test_a_path_names_one_value(path, value) -> None:
    assert value_at({"a": [{"b c": 1}], "d": None}, path) == value


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("$.b", "$ has no 'b'"), ("$.a[1]", "$.a has no item 1"), ("$.a.b", "$.a has no 'b'"),
        ("$[0]", "$ has no item 0"), ("$.d.e", "$.d has no 'e'"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_says_from_where_on(path, why) -> None:
    with pytest.raises(LookupError) as caught:
        value_at({"a": [1], "d": None}, path)
    assert caught.value.args[0] == why


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_lets_a_step_begin(status) -> None:
    assert reply_of(status, {"reason": "x", "rollback": True}) == (Reply.GO, "")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 451, 499])
def test_4xx_is_a_veto_and_takes_back_only_where_it_says_so(status) -> None:
    assert reply_of(status, {"reason": "no\n way"}) == (Reply.VETO, "no way")
    assert reply_of(status, "text") == (Reply.VETO, "text")
    assert reply_of(status, ["?"]) == (Reply.VETO, f"it answered {status}")
    assert reply_of(status, {"reason": 3, "rollback": "yes"}) == (Reply.VETO, f"it answered {status}")
    assert reply_of(status, {"rollback": True}) == (Reply.ROLLBACK, f"it answered {status}")


@pytest.mark.parametrize("status", [100, 301, 302, 307, 408, 425, 429, 500, 502, 503, 504, 599])
def test_anything_else_is_neither_yes_nor_no(status) -> None:
    assert reply_of(status, {"reason": "x", "rollback": True}) == (Reply.WAITING, f"it answered {status}")


def test_a_confirmation_is_read_as_it_was_written() -> None:
    for one in (Confirmation(2), Confirmation(0, Reply.VETO, "no", 3, 1.5)):
        assert Confirmation.from_json(json.loads(json.dumps(one.to_json()))) == one
    for damaged in ([1, "go", "", 0], [-1, "go", "", 0, 0], [1, "maybe", "", 0, 0], [1, "go", None, 0, 0]):
        with pytest.raises((ValueError, TypeError)):
            Confirmation.from_json(damaged)
