"""The results of one shadow's comparisons with one baseline. Owned by the event loop."""

import heapq
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from turnout.routing.shadow.compare import AnswerComparison, OutputComparison
from turnout.routing.shadow.noise import NEEDED_REPEATS, Noise
from turnout.serving.sessions.tensor import Array, memory_of
from turnout.telemetry.metrics.shadow import ShadowRecorder
from turnout.telemetry.ratios import Ratio, ShadowAgreement

_KEPT_OUTCOMES = 65_536
_KEPT_INPUT_BYTES = 32 << 20
"""Maximum size of the kept inputs of one pair's disagreements. Only the worst of them keep theirs."""


class CopyOutcome(StrEnum):
    """The outcome of a copy that was run."""

    AGREED = "agreed"
    DISAGREED = "disagreed"
    INVALID = "invalid"
    """The shadow's signature does not accept the request."""
    FAILED = "failed"
    """The shadow raised an error."""
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    """The shadow crashed its child process."""
    MEMORY = "memory"
    """The shadow reached its memory limit."""


@dataclass(frozen=True, slots=True)
class ShadowSample:
    """One outcome, for the evidence of a rollout.

    Attributes:
        number: Number of the copy within its pair, from 1.
        epoch: Epoch of the policy under which the copy was taken.
    """

    number: int
    epoch: int
    outcome: CopyOutcome
    differing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request that the two versions answered differently.

    Attributes:
        time: When the answers were compared, in UTC.
        inputs: Stored part of the inputs; empty unless configured, or if there was no room for them.
        input_bytes: Size of that part in bytes.
    """

    request_id: str
    time: datetime
    comparison: AnswerComparison
    inputs: Mapping[str, Array]
    input_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_bytes", memory_of(self.inputs.values()))


@dataclass(slots=True)
class OutputRecord:
    """The comparisons of one output so far.

    Attributes:
        mismatches: Number of disagreements by kind.
        measured: Number of comparisons in which the values could be compared.
        sum_abs: Sum of each copy's largest absolute difference.
        ranked: Number of comparisons in which the output contained scores.
        sum_top1, sum_top_k: Sums over those comparisons.
    """

    compared: int = 0
    mismatches: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    measured: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    ranked: int = 0
    sum_top1: float = 0.0
    sum_top_k: float = 0.0

    def take(self, comparison: OutputComparison) -> None:
        """Counts one comparison."""
        self.compared += 1
        if comparison.kind is not None:
            self.mismatches[comparison.kind] += 1
        if math.isfinite(comparison.max_abs):
            self.measured += 1
            self.max_abs = max(self.max_abs, comparison.max_abs)
            self.sum_abs += comparison.max_abs
        if comparison.top1 is not None and comparison.top_k is not None:
            self.ranked += 1
            self.sum_top1 += comparison.top1
            self.sum_top_k += comparison.top_k


class Ledger:
    """All results of one pair.

    Attributes:
        compared: Number of copies whose outputs were compared.
        disagreed: Number of those that disagreed.
        noise: The baseline's disagreement with itself.
        samples: The latest outcomes, oldest first.
    """

    def __init__(self, recorder: ShadowRecorder, keep_worst: int, *, noise: bool = True) -> None:
        """Creates an empty ledger. It keeps the `keep_worst` worst disagreements; with `noise`, copies are repeated."""
        self.recorder = recorder
        self.compared = 0
        self.disagreed = 0
        self.noise = Noise(noise)
        self.outputs: dict[str, OutputRecord] = {}
        self.samples: deque[ShadowSample] = deque(maxlen=_KEPT_OUTCOMES)
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self._keep_worst = keep_worst
        self._worst: list[tuple[float, int, Disagreement]] = []
        self._numbers = itertools.count(1)

    @property
    def agreement(self) -> float | None:
        """Share of the compared copies that agree, with the baseline's own noise subtracted."""
        return self._agreement.value if self.compared else None

    @property
    def unanswered(self) -> int:
        """Number of copies that the shadow ran and did not answer, so that nothing could be compared."""
        return sum(self.outcomes.values()) - self.compared

    @property
    def worst(self) -> Sequence[Disagreement]:
        """The kept disagreements, worst first."""
        return [disagreement for _, _, disagreement in sorted(self._worst, key=lambda item: item[:2], reverse=True)]

    def configure(self, keep_worst: int, *, noise: bool) -> None:
        """Changes what is kept, and whether copies are repeated, as in the constructor."""
        self._keep_worst = keep_worst
        while len(self._worst) > keep_worst:
            heapq.heappop(self._worst)
        self.noise.measured = noise

    def forget_inputs(self) -> None:
        """Discards the inputs that were stored: what may be stored has changed."""
        self._worst = [(at, number, replace(one, inputs={})) for at, number, one in self._worst]

    def drop(self, reason: str) -> None:
        """Counts a copy that was not run."""
        self.dropped[reason] += 1
        self.recorder.dropped[reason] += 1

    def compare(self, comparison: AnswerComparison, epoch: int, lag: float) -> bool:
        """Counts a comparison, `lag` seconds after the live answer.

        Returns:
            True if it is one of the worst so far, so that its Disagreement should be kept.
        """
        self.compared += 1
        self.recorder.lag.observe(lag)
        for output in comparison.outputs:
            self.outputs.setdefault(output.name, OutputRecord()).take(output)
            if output.kind is not None:
                self.recorder.mismatches[output.name, str(output.kind)] += 1
            if math.isfinite(output.max_abs):
                self.recorder.difference(output.name, output.max_abs)
        if not comparison.agrees:
            self.disagreed += 1
        self.count(CopyOutcome.AGREED if comparison.agrees else CopyOutcome.DISAGREED, epoch, comparison.differing)
        self.recorder.agreement = self._agreement
        full = len(self._worst) >= self._keep_worst
        return not comparison.agrees and (not full or (self._worst != [] and comparison.severity >= self._worst[0][0]))

    def keep(self, disagreement: Disagreement) -> None:
        """Keeps one of the worst disagreements. If there are too many, the least severe is dropped."""
        item = (disagreement.comparison.severity, next(self._numbers), disagreement)
        if len(self._worst) < self._keep_worst:
            heapq.heappush(self._worst, item)
        elif self._keep_worst:
            heapq.heappushpop(self._worst, item)
        self._bound_inputs()

    def repeat(self, comparison: AnswerComparison) -> None:
        """Counts a comparison of the baseline with itself."""
        self.noise.take(comparison.differing)
        self.recorder.noise = Ratio(self.noise.disagreements, self.noise.runs)
        if self.compared:
            self.recorder.agreement = self._agreement

    def _bound_inputs(self) -> None:
        """Discards inputs for which there is no room; the worst disagreements get theirs first."""
        room, kept = _KEPT_INPUT_BYTES, []
        for severity, number, one in sorted(self._worst, key=lambda item: item[:2], reverse=True):
            fits = one.input_bytes <= room
            room -= one.input_bytes if fits else 0
            kept.append((severity, number, one if fits else replace(one, inputs={})))
        self._worst = kept[::-1]  # ascending, which is a heap

    @property
    def _agreement(self) -> ShadowAgreement:
        return ShadowAgreement(self.disagreed, self.compared, self.noise.disagreements, self.noise.runs)

    @property
    def wants_repeat(self) -> bool:
        """Whether the copy that was compared last should be repeated on the baseline, beyond the configured share."""
        return self.noise.wanted(self.compared, self.disagreed)

    @property
    def judged(self) -> bool:
        """Whether enough is known about the noise to judge outcomes. Copies that fail can be judged without it."""
        return self.noise.known or not self.compared

    @property
    def incomparable(self) -> str:
        """Why no output can be compared, as a sentence; "" if one can."""
        return self.noise.nothing_left(self.outputs.keys())

    @property
    def uncounted(self) -> str:
        """Which copies count for nothing, in words; "" if all count."""
        dropped = sum(self.dropped.values())
        found = []
        if dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            found.append(f"{dropped} copies were dropped ({reasons})")
        if not self.judged:
            found.append(
                f"{self.compared} count for nothing before the baseline has answered {NEEDED_REPEATS} of them again; "
                f"so far it has answered {self.noise.runs}"
            )
        return " and ".join(found)

    def bad(self, sample: ShadowSample, allowed: float) -> bool:
        """Returns whether a sample counts against the shadow, with the baseline's own noise subtracted.

        `allowed` is the rate of disagreements that is allowed for a shadow.
        """
        if sample.outcome is CopyOutcome.DISAGREED:
            return self.noise.counts(sample.differing, sample.number, allowed)
        return sample.outcome is not CopyOutcome.AGREED

    def count(self, outcome: CopyOutcome, epoch: int, differing: Sequence[str] = ()) -> None:
        """Counts a copy that was run, and the outputs in which it disagrees if it was compared (see `compare`)."""
        self.outcomes[outcome] += 1
        self.recorder.outcomes[outcome] += 1
        self.samples.append(ShadowSample(sum(self.outcomes.values()), epoch, outcome, differing))
