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

    UNAVAILABLE is retried, since predictions change nothing in the server. RESOURCE_EXHAUSTED is retried if the
    server says when (`google.rpc.RetryInfo`): without that it may be a limit that no waiting changes, such as the size
    of a message. No other status is retried.

    Attributes:
        retries: How often a call is tried again, at most; 0 for never.
        first_backoff: Bound of the first pause, in seconds; each later bound is twice the one before.
        max_backoff: No bound is above this, in seconds.
    """

    retries: int = 3
    first_backoff: float = 0.05
    max_backoff: float = 2.0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.first_backoff < 0 or self.max_backoff < 0:
            raise ValueError(f"a retry policy holds no negative numbers: {self}")

    def pause(self, error: TurnoutClientError, failures: int, remaining: float | None, fraction: float) -> float | None:
        """Returns how many seconds to wait before the next try; None if there is none.

        The pause is a random part of the backoff's bound, after what the server asks for. A call whose time would be
        over by then fails now, with the error it has.

        Args:
            error: What the last try ended with.
            failures: How many tries have failed, that one included; 1 or more.
            remaining: Seconds that the whole call may still take; None for no bound.
            fraction: The random part, in [0, 1].
        """
        if failures > self.retries or not _is_safe(error):
            return None
        bound = min(self.max_backoff, self.first_backoff * 2.0 ** min(failures - 1, 64))
        pause = (error.retry_after or 0.0) + bound * fraction
        return None if remaining is not None and pause >= remaining else pause


@dataclass(slots=True)
class RetryAttempts:
    """One call's tries: how much time is left, and what follows a failure.

    Attributes:
        policy: Decides.
        timeout: Seconds that all tries and pauses may take together; None, infinity or decades for no bound.
    """

    policy: RetryPolicy
    timeout: float | None
    _deadline: float | None = field(init=False, default=None)
    _failures: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout >= _FOR_EVER_SECONDS:  # not a number is a bound
            self._deadline = time.monotonic() + self.timeout

    def remaining(self) -> float | None:
        """Returns the seconds that are left; None for no bound.

        Raises:
            DeadlineExceeded: None are.
        """
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if not left > 0:  # not a number is no time either
            raise DeadlineExceeded(f"no answer came within {self.timeout} s")
        return left

    def pause_after(self, error: TurnoutClientError) -> float | None:
        """Returns how many seconds to wait before the next try; None if `error` is how the call ends."""
        self._failures += 1
        left = None if self._deadline is None else self._deadline - time.monotonic()
        return self.policy.pause(error, self._failures, left, random.random())  # noqa: S311 - spreads clients, no secret


def _is_safe(error: TurnoutClientError) -> bool:
    return isinstance(error, Unavailable) or (isinstance(error, ResourceExhausted) and error.retry_after is not None)
