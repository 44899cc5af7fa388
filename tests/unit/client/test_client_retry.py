"""When the client tries again, decided on values alone."""

import math

import grpc
import pytest

from turnout_client import DeadlineExceeded, ResourceExhausted, RetryPolicy, TurnoutClientError, Unavailable
from turnout_client.retry import RetryAttempts

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


def test_negative_numbers_are_no_policy():
    for wrong in ({"retries": -1}, {"first_backoff": -0.1}, {"max_backoff": -1.0}):
        with pytest.raises(ValueError, match="no negative numbers"):
            RetryPolicy(**wrong)


@pytest.mark.parametrize("timeout", [0, 0.0, -1.0, math.nan])
def test_no_time_is_a_deadline_exceeded_before_anything_is_sent(timeout):
    with pytest.raises(DeadlineExceeded):
        RetryAttempts(POLICY, timeout).remaining()


@pytest.mark.parametrize("timeout", [None, math.inf, 1e10])
def test_unbounded_time_stays_unbounded(timeout):
    assert RetryAttempts(POLICY, timeout).remaining() is None
