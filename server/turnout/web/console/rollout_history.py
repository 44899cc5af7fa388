"""Caches the history of rollouts between requests for their pages.

So a page that refreshes itself reads and replays only new ticks. A rollout that ran for a day has 17,000 ticks, and
replaying all of them takes a second of the server's time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from turnout.rollout.reporting.log import RolloutLog
from turnout.rollout.reporting.messages import rollout_message
from turnout.threads import Threads
from turnout.web.report.replay import RecordedTick, Replay

_EVENTS = 200
_TICKS_AT_ONCE = 2000
_MOST_COURSES = 16


@dataclass(slots=True)
class TrackedRollout:
    """A rollout as replayed up to the tick `after`. `lock` is held while the replay is read or updated."""

    replay: Replay
    after: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take(self, ticks: Sequence[tuple[int, datetime, Mapping[str, Any]]]) -> None:
        """Replays further ticks, in order. Raises InvalidRequest if a tick cannot be read."""
        for number, when, body in ticks:
            self.replay.take(RecordedTick.from_json(when, body))
            self.after = number


class TrackedRollouts:
    """A cache of recently viewed rollouts. Used on the event loop only."""

    def __init__(self, log: RolloutLog) -> None:
        self.log = log
        self._threads = Threads("console")
        self._kept: OrderedDict[tuple[str, int], TrackedRollout] = OrderedDict()

    @asynccontextmanager
    async def of(self, model: str, attempt: int) -> AsyncIterator[Replay]:
        """Yields a rollout in its current state. It does not change inside the context.

        Raises:
            ModelNotFound, NotFoundError: The rollout does not exist.
            UnavailableError: The state store does not answer.
            InvalidRequest, Unsupported: The rollout was written by a later release of Turnout.
        """
        record, rollout = await self.log.latest(model, attempt)
        events = await self.log.events(model, attempt, _EVENTS)
        key = (model, attempt)
        tracked = self._kept.setdefault(key, TrackedRollout(Replay(rollout.plan)))
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
            tracked.replay.rollout = rollout_message(rollout, record, events)
            yield tracked.replay
