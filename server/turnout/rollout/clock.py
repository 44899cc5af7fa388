"""The clock that rollouts use. It is injected, so that a test can make it jump as a machine's clock does."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: a monotonic one, and the time of day, which is comparable between machines but can be adjusted."""

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary moment. Never goes back."""

    def now(self) -> datetime:
        """Returns the time of day in UTC. It may jump, and differs between machines."""


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary moment. Never goes back."""
        return time.monotonic()

    def now(self) -> datetime:
        """Returns the time of day in UTC."""
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()
"""The clock that a server uses."""


_LEASE_TICKS = 4


@dataclass(frozen=True, slots=True)
class TickSchedule:
    """When rollouts are evaluated.

    Attributes:
        seconds: Interval between two ticks in seconds.
    """

    clock: Clock
    seconds: float

    @property
    def lease_seconds(self) -> float:
        """Duration of the lease during which no other server may drive a rollout: four ticks, in seconds."""
        return _LEASE_TICKS * self.seconds
