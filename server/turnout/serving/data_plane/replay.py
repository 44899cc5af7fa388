"""Runs requests that failed on a canary again on the baseline, after the answer, to decide who was at fault.

A request that goes as badly on the baseline says nothing about the canary. Replays run one at a time in a separate
lane, and the queue is bounded, so that a canary that fails every request does not overload the baseline.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from turnout.errors import DeadlineExceededError, NotLoaded, QueueFull, TurnoutError
from turnout.serving.counting.arm_counts import FailedRequest, Settle
from turnout.serving.counting.finite import all_finite
from turnout.serving.counting.tick_counts import Replayed
from turnout.serving.sessions.tensor import memory_of
from turnout.serving.versions.handle import VersionHandle

_LANE = "replay"
_MAX_WAITING = 64
_MAX_BYTES = 64 * 1024 * 1024
_SECONDS = 10.0
"""Maximum duration of a replay in seconds."""


@dataclass(frozen=True, slots=True)
class _PendingReplay:
    handle: VersionHandle
    request: FailedRequest
    nbytes: int
    settle: Settle


class Replays:
    """The replays of one server. Used on the event loop only."""

    def __init__(self) -> None:
        self._waiting: deque[_PendingReplay] = deque()
        self._nbytes = 0
        self._task: asyncio.Task[None] | None = None

    def on(self, handle: VersionHandle) -> "ReplayedBaseline":
        """Returns a baseline that replays requests on `handle`."""
        return ReplayedBaseline(handle, self)

    def ask(self, handle: VersionHandle, request: FailedRequest, settle: Settle) -> bool:
        """Schedules `request` on `handle` and passes the result to `settle`; returns False if the queue is full."""
        nbytes = memory_of(request.inputs.values())
        if len(self._waiting) >= _MAX_WAITING or self._nbytes + nbytes > _MAX_BYTES:
            return False
        self._waiting.append(_PendingReplay(handle, request, nbytes, settle))
        self._nbytes += nbytes
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="replays")
        return True

    async def close(self) -> None:
        """Cancels the replay in progress; waiting replays are settled without a result."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                replay = self._waiting.popleft()
                self._nbytes -= replay.nbytes
                replay.settle(await _replayed(replay.handle, replay.request))
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popleft().settle(None)
            self._nbytes = 0


@dataclass(frozen=True, slots=True)
class ReplayedBaseline:
    """The version that a canary is compared with, for replays of requests."""

    handle: VersionHandle
    replays: Replays

    def accepts(self, request: FailedRequest) -> bool:
        """Returns whether the request fits the baseline's signature."""
        try:
            self.handle.check(request.inputs, request.outputs)
        except TurnoutError:
            return False
        return True

    def ask(self, request: FailedRequest, settle: Settle) -> bool:
        """Does the same as `Replays.ask`."""
        return self.replays.ask(self.handle, request, settle)


async def _replayed(handle: VersionHandle, request: FailedRequest) -> Replayed | None:
    began = time.monotonic()
    try:
        _, answer = await handle.infer(request.inputs, request.outputs, began + _SECONDS, _LANE)
    except (NotLoaded, QueueFull, DeadlineExceededError):
        return None
    except TurnoutError:
        return Replayed(answered=False, invalid=False, seconds=time.monotonic() - began)
    return Replayed(answered=True, invalid=not all_finite(answer.outputs), seconds=time.monotonic() - began)
