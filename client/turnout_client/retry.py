"""Decides whether and when a failed call is retried."""

import math
import random
import time
from dataclasses import dataclass, field

from turnout_client.errors import DeadlineExceeded, ResourceExhausted, TurnoutClientError, Unavailable

_FOR_EVER_SECONDS = 1e9
"""From here on a timeout is no bound: gRPC counts nanoseconds since 1970 in 64 bits, and a deadline of more than those
hold has passed at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, for the two statuses that are safe to retry.

    UNAVAILABLE is retried, since predictions have no side effects on the server. RESOURCE_EXHAUSTED is retried only if
    the server says when (`google.rpc.RetryInfo`); otherwise the limit may be one that waiting does not lift, such as
    the maximum size of a message. No other status is retried.

    All calls of a client share a budget, so that retries do not multiply the load of a server that is down or
    overloaded: a retry that fails takes one token from it, and a call that succeeds returns a tenth. Without a token,
    calls are not retried.

    Attributes:
        retries: Maximum number of retries of a call; 0 for none.
        first_backoff: Upper bound of the first pause, in seconds. The bound doubles with each retry.
        max_backoff: Maximum of that bound, in seconds.
        max_retry_after: Longest delay that a server may ask for, in seconds. If it asks for more, the call is not
            retried, and `retry_after` of its error has the delay.
        budget: Maximum number of tokens, which is also the initial number; infinity for no budget. It is at least
            `retries`, so that a single call may use all of its retries.
    """

    retries: int = 3
    first_backoff: float = 0.05
    max_backoff: float = 2.0
    max_retry_after: float = 60.0
    budget: float = 50.0

    def __post_init__(self) -> None:
        if not isinstance(self.retries, int):
            raise TypeError(f"expected the number of retries as an int, got {self.retries!r}")
        numbers = (self.retries, self.first_backoff, self.max_backoff, self.max_retry_after, self.budget)
        if not all(number >= 0 for number in numbers) or math.inf in (self.first_backoff, self.max_backoff):
            raise ValueError(f"expected numbers of 0 or more, and finite backoffs, got {self}")

    def pause(self, error: TurnoutClientError, failures: int, remaining: float | None, fraction: float) -> float | None:
        """Returns how many seconds to wait before the next attempt; None if the call must not be retried.

        The pause is the delay that the server asked for plus a random fraction of the backoff's bound. If the call's
        time would run out during the pause, or the delay is too long, the call is not retried.

        Args:
            error: The error of the last attempt.
            failures: Number of attempts that have failed, including the last; 1 or more.
            remaining: Seconds that the whole call may still take; None for no limit.
            fraction: The random fraction, in [0, 1].
        """
        if failures > self.retries or not _is_safe(error) or (error.retry_after or 0.0) > self.max_retry_after:
            return None
        bound = min(self.max_backoff, self.first_backoff * 2.0 ** min(failures - 1, 64))
        pause = (error.retry_after or 0.0) + bound * fraction
        return None if remaining is not None and pause >= remaining else pause


class RetryBudget:
    """The budget that the calls of a client share; `RetryPolicy` says how it is spent."""

    def __init__(self, policy: RetryPolicy) -> None:
        """Initializes a full budget."""
        self._most = self._tenths = max(policy.budget, policy.retries) * 10

    @property
    def spent(self) -> bool:
        """Whether no retry may be made."""
        return self._tenths < 10

    def take(self) -> None:
        """Takes a token, for a retry that failed."""
        self._tenths = max(self._tenths - 10, 0)

    def refill(self) -> None:
        """Returns a tenth of a token, for a call that succeeded."""
        self._tenths = min(self._tenths + 1, self._most)


@dataclass(slots=True)
class RetryAttempts:
    """The attempts of one call: keeps its deadline and decides what follows a failure.

    Attributes:
        policy: The retry policy.
        timeout: Time limit of all attempts and pauses together, in seconds; None, infinity or decades for no
            limit.
        budget: The client's retry budget; None for no budget.
    """

    policy: RetryPolicy
    timeout: float | None
    budget: RetryBudget | None = None
    _deadline: float | None = field(init=False, default=None)
    _failures: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout >= _FOR_EVER_SECONDS:  # not a number is a bound
            self._deadline = time.monotonic() + self.timeout

    def left(self) -> float | None:
        """Returns the remaining time of the call, in seconds; 0 if none remains, None for no limit."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        return left if left > 0 else 0.0  # NaN counts as no time

    def remaining(self) -> float | None:
        """Returns the same as `left`. Raises DeadlineExceeded if no time remains."""
        left = self.left()
        if left == 0.0:
            raise DeadlineExceeded(f"no answer came within {self.timeout} s")
        return left

    def pause_after(self, error: TurnoutClientError) -> float | None:
        """Returns how many seconds to wait before the next attempt; None if the call ends with `error`."""
        self._failures += 1
        if self.budget is not None:
            if self._failures > 1 and _is_safe(error):
                self.budget.take()
            if self.budget.spent:
                return None
        return self.policy.pause(error, self._failures, self.left(), random.random())  # noqa: S311 - jitter, not a secret


def _is_safe(error: TurnoutClientError) -> bool:
    return isinstance(error, Unavailable) or (isinstance(error, ResourceExhausted) and error.retry_after is not None)
