"""Decides whether and when a failed call is retried."""

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

    Attributes:
        retries: Maximum number of retries of a call; 0 for none.
        first_backoff: Upper bound of the first pause, in seconds. The bound doubles with each retry.
        max_backoff: Maximum of that bound, in seconds.
    """

    retries: int = 3
    first_backoff: float = 0.05
    max_backoff: float = 2.0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.first_backoff < 0 or self.max_backoff < 0:
            raise ValueError(f"a retry policy holds no negative numbers: {self}")

    def pause(self, error: TurnoutClientError, failures: int, remaining: float | None, fraction: float) -> float | None:
        """Returns how many seconds to wait before the next attempt; None if the call must not be retried.

        The pause is the delay that the server asked for plus a random fraction of the backoff's bound. If the call's
        time would run out during the pause, the call is not retried.

        Args:
            error: The error of the last attempt.
            failures: Number of attempts that have failed, including the last; 1 or more.
            remaining: Seconds that the whole call may still take; None for no limit.
            fraction: The random fraction, in [0, 1].
        """
        if failures > self.retries or not _is_safe(error):
            return None
        bound = min(self.max_backoff, self.first_backoff * 2.0 ** min(failures - 1, 64))
        pause = (error.retry_after or 0.0) + bound * fraction
        return None if remaining is not None and pause >= remaining else pause


@dataclass(slots=True)
class RetryAttempts:
    """The attempts of one call: keeps its deadline and decides what follows a failure.

    Attributes:
        policy: The retry policy.
        timeout: Time limit of all attempts and pauses together, in seconds; None, infinity or decades for no
            limit.
    """

    policy: RetryPolicy
    timeout: float | None
    _deadline: float | None = field(init=False, default=None)
    _failures: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout >= _FOR_EVER_SECONDS:  # not a number is a bound
            self._deadline = time.monotonic() + self.timeout

    def remaining(self) -> float | None:
        """Returns the remaining time of the call, in seconds; None for no limit.

        Raises:
            DeadlineExceeded: No time remains.
        """
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if not left > 0:  # NaN counts as no time
            raise DeadlineExceeded(f"no answer came within {self.timeout} s")
        return left

    def pause_after(self, error: TurnoutClientError) -> float | None:
        """Returns how many seconds to wait before the next attempt; None if the call ends with `error`."""
        self._failures += 1
        left = None if self._deadline is None else self._deadline - time.monotonic()
        return self.policy.pause(error, self._failures, left, random.random())  # noqa: S311 - jitter, not a secret


def _is_safe(error: TurnoutClientError) -> bool:
    return isinstance(error, Unavailable) or (isinstance(error, ResourceExhausted) and error.retry_after is not None)
