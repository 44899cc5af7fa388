"""Caches the history of rollouts between requests for their pages.

So a page that refreshes itself reads and replays only new ticks. A rollout that ran for a day has 17,000 ticks, and
replaying all of them takes a second of the server's time.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from turnout.rollout.evidence import Evidence, Metric
from turnout.rollout.plan import Plan
from turnout.rollout.reporting.log import RolloutLog
from turnout.rollout.reporting.messages import rollout_message
from turnout.threads import Threads
from turnout.web.report.page import MOST_POINTS, PlotPoint, drawing
from turnout.web.report.replay import RecordedTick, ratio_of, worse_and_better
from turnout_proto.v1 import rollout_pb2 as pb

_EVENTS = 200
_TICKS_AT_ONCE = 2000
_MOST_COURSES = 16

_Tick = tuple[int, datetime, Mapping[str, Any]]


class TrackedRollout:
    """A rollout and the history that its page shows up to the tick `after`, in bounded memory.

    `lock` is held while the history is read or updated.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.last = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
        self.after = 0
        self.lock = asyncio.Lock()
        self.rollout = pb.Rollout()
        self._sums = {metric.name: (0.0, 0.0) for metric in plan.evidence_metrics}
        self._arms: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self._points: list[PlotPoint] = []
        self._latest: PlotPoint | None = None
        self._taken = 0
        self._stride = 1

    def take(self, ticks: Sequence[_Tick]) -> None:
        """Replays further ticks, in order. Raises InvalidRequest if a tick cannot be read."""
        for number, when, body in ticks:
            recorded = RecordedTick.from_json(when, body)
            self.last = self.last.taken(recorded.tick)
            for name, (worse, better) in self._sums.items():
                more, less = worse_and_better(recorded.tick, name)
                self._sums[name] = worse + more, better + less
            for arm, counts in zip(self._arms, (recorded.canary, recorded.baseline), strict=True):
                arm.update(counts)
            self._draw(PlotPoint.of(recorded, self.last))
            self.after = number

    def ratio(self, metric: Metric) -> float | None:
        """Returns the ratio of the candidate's rate of bad events to the baseline's, as `Replay.ratio`."""
        return ratio_of(*self._sums[metric.name])

    def plots(self, colours: Mapping[str, int]) -> dict[str, Any]:
        """Returns the data of the plots as JSON values, with the colours of the versions."""
        latest = self._latest
        points = [*self._points, *([latest] if latest is not None and latest is not self._points[-1] else [])]
        return drawing(self.rollout, self.plan, points, self._arms, colours)

    def _draw(self, point: PlotPoint) -> None:
        """Adds a point to the plots. Halves their resolution when they have more points than a screen has columns."""
        self._latest = point
        if self._taken % self._stride == 0:
            self._points.append(point)
        self._taken += 1
        if len(self._points) > MOST_POINTS:
            self._points = self._points[::2]
            self._stride *= 2


class TrackedRollouts:
    """A cache of recently viewed rollouts. Used on the event loop only."""

    def __init__(self, log: RolloutLog) -> None:
        self.log = log
        self._threads = Threads("console")
        self._kept: OrderedDict[tuple[str, int], TrackedRollout] = OrderedDict()

    @asynccontextmanager
    async def of(self, model: str, attempt: int) -> AsyncIterator[TrackedRollout]:
        """Yields a rollout in its current state. It does not change inside the context.

        Raises:
            ModelNotFound, NotFoundError: The rollout does not exist.
            UnavailableError: The state store does not answer.
            InvalidRequest, Unsupported: The rollout was written by a later release of Turnout.
        """
        record, rollout = await self.log.latest(model, attempt)
        events = await self.log.events(model, attempt, _EVENTS)
        key = (model, attempt)
        tracked = self._kept.setdefault(key, TrackedRollout(rollout.plan))
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_COURSES:
            self._kept.popitem(last=False)
        async with tracked.lock:
            try:
                while ticks := await self.log.ticks(model, attempt, tracked.after, _TICKS_AT_ONCE):
                    await self._threads.run(tracked.take, ticks)
                    if len(ticks) < _TICKS_AT_ONCE:
                        break
            except BaseException:
                self._kept.pop(key, None)  # it may have replayed only some of the ticks
                raise
            tracked.rollout = rollout_message(rollout, record, events)
            yield tracked
