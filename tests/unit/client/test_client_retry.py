"""When the client tries again, decided on values alone."""

import math

import grpc
import pytest

from turnout_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    ResourceExhausted,
    RetryPolicy,
    TurnoutClientError,
    Unavailable,
)
from turnout_client.retry import RetryAttempts, RetryBudget

POLICY = RetryPolicy(retries=3, first_backoff=0.1, max_backoff=0.5)


def test_only_two_statuses_are_safe_to_retry():
    safe = {
        kind.code
        for kind in TurnoutClientError.__subclasses__()
        if POLICY.pause(kind("so it is", retry_after=0.0), 1, None, 1.0) is not None
    }
    assert safe == {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_an_exhausted_bound_is_retried_only_where_the_server_says_when():
    assert POLICY.pause(ResourceExhausted("too large"), 1, None, 1.0) is None
    assert POLICY.pause(ResourceExhausted("queue full", retry_after=2.0), 1, None, 0.0) == 2.0


def test_the_backoff_doubles_up_to_its_bound_and_is_jittered_whole():
    busy = Unavailable("loading")
    patient = RetryPolicy(retries=2000, first_backoff=0.1, max_backoff=0.5)
    assert [patient.pause(busy, n, None, 1.0) for n in (1, 2, 3, 4, 2000)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert POLICY.pause(busy, 3, None, 0.0) == 0.0
    assert POLICY.pause(busy, 3, None, 0.5) == 0.2


def test_the_servers_wish_comes_before_the_jitter():
    assert POLICY.pause(Unavailable("loading", retry_after=1.0), 1, None, 0.5) == 1.05


def test_tries_are_bounded():
    assert POLICY.pause(Unavailable("loading"), 3, None, 1.0) is not None
    assert POLICY.pause(Unavailable("loading"), 4, None, 1.0) is None
    assert RetryPolicy(retries=0).pause(Unavailable("loading"), 1, None, 1.0) is None


def test_no_pause_reaches_the_deadline():
    assert POLICY.pause(Unavailable("loading", retry_after=1.0), 1, 1.0, 0.0) is None
    assert POLICY.pause(Unavailable("loading", retry_after=1.0), 1, 1.01, 0.0) == 1.0


@pytest.mark.parametrize("name", ["retries", "first_backoff", "max_backoff", "max_retry_after", "budget"])
def test_what_no_pause_can_be_made_of_is_no_policy(name):
    with pytest.raises(ValueError, match="expected numbers of 0 or more"):
        RetryPolicy(**{name: -1})
    if name == "retries":
        return
    with pytest.raises(ValueError, match="expected numbers of 0 or more"):
        RetryPolicy(**{name: math.nan})
    if name.endswith("backoff"):
        with pytest.raises(ValueError, match="finite backoffs"):
            RetryPolicy(**{name: math.inf})


@pytest.mark.parametrize("retries", ["3", 1.5, None])
def test_the_number_of_retries_is_checked_when_the_client_is_made(retries):
    for kind in (Client, AsyncClient):
        with pytest.raises(TypeError, match="expected the number of retries as an int"):
            kind("127.0.0.1:1", retries=retries)


@pytest.mark.parametrize("seconds", [60.1, 1e10, 9.3e18])
def test_a_server_that_asks_for_too_much_patience_gets_none(seconds):
    assert POLICY.pause(Unavailable("down for maintenance", retry_after=seconds), 1, None, 0.0) is None
    patient = RetryPolicy(max_retry_after=math.inf)
    assert patient.pause(Unavailable("down for maintenance", retry_after=seconds), 1, None, 0.0) == seconds


def test_retries_that_fail_use_up_the_budget_and_calls_that_succeed_refill_it():
    policy = RetryPolicy(retries=1, first_backoff=0.0, budget=2)
    budget = RetryBudget(policy)

    def call() -> list[bool]:
        """Returns for each failure of a call whether a retry followed."""
        attempts, failures = RetryAttempts(policy, None, budget), []
        while not failures or failures[-1]:
            failures.append(attempts.pause_after(Unavailable("down")) is not None)
        return failures

    assert call() == call() == [True, False]  # each of the two retries takes a token
    assert call() == call() == [False]
    for _ in range(10):
        budget.refill()
    assert call() == [True, False]
    assert call() == [False]
    for _ in range(1000):
        budget.refill()
    assert [call(), call(), call()] == [[True, False], [True, False], [False]]  # no more than two again


def test_the_budget_is_enough_for_all_retries_of_one_call():
    attempts = RetryAttempts(many := RetryPolicy(retries=100, budget=0), None, RetryBudget(many))
    assert [attempts.pause_after(Unavailable("down")) is not None for _ in range(101)] == [True] * 100 + [False]


@pytest.mark.parametrize("timeout", [0, 0.0, -1.0, math.nan])
def test_no_time_is_a_deadline_exceeded_before_anything_is_sent(timeout):
    with pytest.raises(DeadlineExceeded):
        RetryAttempts(POLICY, timeout).remaining()


@pytest.mark.parametrize("timeout", [None, math.inf, 1e10])
def test_unbounded_time_stays_unbounded(timeout):
    assert RetryAttempts(POLICY, timeout).remaining() is None
