"""The time that rollouts go by. They are given a clock, so that a test can make it jump as a machine's does."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, Self


class Clock(Protocol):
    """Two clocks: a monotonic one, and the time of day, which others read too and which people and NTP set."""

    def monotonic(self) -> float:
        """Returns seconds since some moment; never goes back."""
        ...

    def now(self) -> datetime:
        """Returns the time of day, in UTC; may jump, and differs between machines."""
        ...


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        """Returns seconds since some moment; never goes back."""
        return time.monotonic()

    def now(self) -> datetime:
        """Returns the time of day, in UTC."""
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()
"""What a server goes by."""


_LEASE_TICKS = 4


@dataclass(frozen=True, slots=True)
class TickSchedule:
    """When rollouts are looked at.

    Attributes:
        clock: That they go by.
        seconds: Between two ticks.
    """

    clock: Clock
    seconds: float

    @property
    def lease_seconds(self) -> float:
        """How long nobody else may drive what a server drives: four ticks."""
        return _LEASE_TICKS * self.seconds


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of both clocks: decisions made together go by the same one.

    Attributes:
        monotonic: Seconds since some moment.
        utc: The time of day.
    """

    monotonic: float
    utc: datetime

    @classmethod
    def of(cls, clock: Clock) -> Self:
        """Reads a clock."""
        return cls(clock.monotonic(), clock.now())
