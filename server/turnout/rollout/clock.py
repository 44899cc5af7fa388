"""The time that rollouts go by. They are handed a clock, so that a test can have it jump as a machine's does."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that measures, and one that others read too and that people and NTP set."""

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
