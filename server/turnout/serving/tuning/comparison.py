"""Compares two settings by alternating measurement windows, and chooses settings. Pure.

A shared machine varies in speed. The present settings and a candidate are therefore run in alternation, window by
window, and each pair of windows gives a ratio in which the common influence cancels out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from turnout.serving.tuning.candidates import Tuned

End = Literal["throughput", "latency"]
"""What settings are optimised for."""

ENDS: tuple[End, ...] = ("throughput", "latency")

_GAINS: Mapping[End, str] = {
    "throughput": "the requests per second of the present settings",
    "latency": "as fast as the present settings with one request at a time",
}

WORTHWHILE = 1.03
"""Minimum improvement for which a candidate is worth a change of settings."""


@dataclass(frozen=True, slots=True)
class Window:
    """The measurements of one period under one setting.

    Attributes:
        rate: Requests per second with many in flight.
        latencies: Latency in seconds of each request with one in flight.
    """

    rate: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Improvement:
    """How much better a candidate is than the present settings; above 1 is better.

    The median and the quartiles over all pairs of windows.
    """

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Improvement":
        """Summarizes the ratios of the pairs, of which there is at least one."""
        ordered = sorted(ratios)
        return cls(median(ordered), _quantile(ordered, 0.25), _quantile(ordered, 0.75))

    @property
    def better(self) -> bool:
        """Whether the candidate is better by more than the spread, and by enough to be worthwhile."""
        return self.middle >= WORTHWHILE and self.low > 1.0

    def __str__(self) -> str:
        return f"{self.middle:.2f} x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of trying one setting.

    Attributes:
        throughput: Improvement over the present settings with many requests in flight; None for the present settings.
        latency: The same with one request in flight.
        refused: Why the setting could not be tried; "" if it was.
    """

    tuned: Tuned
    windows: tuple[Window, ...] = ()
    throughput: Improvement | None = None
    latency: Improvement | None = None
    refused: str = ""

    @classmethod
    def compared(cls, tuned: Tuned, windows: Sequence[Window], present: Sequence[Window]) -> "Result":
        """Compares the windows of a candidate with those of the present settings, pair by pair."""
        pairs = list(zip(windows, present, strict=True))
        rates = [new.rate / old.rate for new, old in pairs if old.rate]
        times = [_typical(old) / _typical(new) for new, old in pairs if old.latencies and new.latencies]
        return cls(tuned, tuple(windows), Improvement.of(rates or [0.0]), Improvement.of(times or [0.0]))

    @property
    def rate(self) -> float:
        """Requests per second with many in flight: the median of the windows."""
        return median(window.rate for window in self.windows) if self.windows else 0.0

    def ratio(self, end: End) -> Improvement | None:
        """Returns the improvement over the present settings for one goal; None for the present settings themselves."""
        return self.throughput if end == "throughput" else self.latency

    def latency_at(self, share: float) -> float:
        """Returns the quantile of the latency in seconds, with one request in flight."""
        ordered = sorted(latency for window in self.windows for latency in window.latencies)
        return _quantile(ordered, share) if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings to use for one goal, and why, as a sentence."""

    tuned: Tuned
    why: str


@dataclass(slots=True)
class Findings:
    """All results.

    Attributes:
        present: Result of the settings in force.
        candidates: Results of the others, in the order in which they were tried.
        again: Results of the most promising settings in a second trial.
        skipped: Number of settings that were not tried for lack of time.
    """

    present: Result
    candidates: list[Result] = field(default_factory=list)
    again: list[Result] = field(default_factory=list)
    skipped: int = 0

    def promising(self) -> list[Tuned]:
        """Returns what looks best for each goal, to be tried again: among many candidates, one looks good by chance."""
        found = [self._best(end, self.candidates) for end in ENDS]
        return list(dict.fromkeys(result.tuned for result in found if result is not None))

    def choice(self, end: End) -> Choice:
        """Returns the settings for a goal: the best of those that were better in the second trial too."""
        confirmed = self._best(end, self.again)
        if confirmed is not None:
            return Choice(confirmed.tuned, f"{confirmed.ratio(end)} {_GAINS[end]}, when tried again")
        looks = self._best(end, self.candidates)
        if looks is None:
            tried = any(result.windows for result in self.candidates)
            why = f"nothing that was tried has a better {end} by {WORTHWHILE - 1:.0%} and by more than its spread"
            return Choice(self.present.tuned, why if tried else "nothing else was tried")
        again = next((result.ratio(end) for result in self.again if result.tuned == looks.tuned), None)
        second_try = "there was no time to try it again" if again is None else f"when tried again it was {again}"
        return Choice(self.present.tuned, f"{looks.tuned} looked better, {looks.ratio(end)}, and {second_try}")

    def best_so_far(self) -> Tuned:
        """Returns the settings to combine with the next group: those that look best for throughput."""
        best = self._best("throughput", self.candidates)
        return self.present.tuned if best is None else best.tuned

    def to_json(self) -> dict[str, Any]:
        """Returns the findings as JSON values."""
        return {
            "present": _result_json(self.present),
            "candidates": [_result_json(result) for result in self.candidates],
            "skipped": self.skipped,
            "tried_again": [_result_json(result) for result in self.again],
            "choices": {
                end: {"settings": choice.tuned.tables(), "why": choice.why}
                for end, choice in ((end, self.choice(end)) for end in ENDS)
            },
        }

    @staticmethod
    def _best(end: End, results: Sequence[Result]) -> Result | None:
        """Returns the best result that beats the present settings; of equal results, the first."""
        better = [(ratio.middle, r) for r in results if (ratio := r.ratio(end)) is not None and ratio.better]
        return max(better, key=lambda item: item[0])[1] if better else None


def _typical(window: Window) -> float:
    return max(median(window.latencies), 1e-9)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(math.floor(share * len(ordered)), len(ordered) - 1)]


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "settings": result.tuned.tables(),
        "requests_per_second": result.rate,
        "p50_ms": result.latency_at(0.5) * 1e3,
        "p99_ms": result.latency_at(0.99) * 1e3,
        "throughput_ratio": asdict(result.throughput) if result.throughput else None,
        "latency_ratio": asdict(result.latency) if result.latency else None,
        "windows": len(result.windows),
        "refused": result.refused or None,
    }
