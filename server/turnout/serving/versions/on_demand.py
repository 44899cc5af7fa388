"""Requests for versions that are not in memory wait, each until its deadline, while the version is loaded once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from semver import Version

from turnout.config import Settings
from turnout.errors import DeadlineExceededError, Draining, QueueFull, TurnoutError
from turnout.serving.versions.presence import Key

RETRY_SECONDS = 1.0
"""When to ask again if too many requests wait for a version: loads take from 0.4 seconds to some minutes."""


@dataclass(slots=True, eq=False)
class _WaitingRequests:
    """Requests that wait for a version, or have waited and run now: it is in use meanwhile.

    Attributes:
        load: Ends once the version can answer, or will not.
        requests: How many.
        queued: How many of them wait for the load.
        bytes: Of the inputs of these.
    """

    load: "asyncio.Task[TurnoutError | None]"
    requests: int = 0
    queued: int = 0
    bytes: int = 0


class OnDemand:
    """Has versions loaded for the requests that ask for them. Used on the event loop only."""

    def __init__(self, settings: Settings, load: Callable[[str, Version], Coroutine[Any, Any, None]]) -> None:
        """Begins with nobody waiting.

        Args:
            settings: Have the bounds of a version's queue, which hold for what waits for its load too.
            load: Loads a version and returns once it can answer. Raises TurnoutError where it will not.
        """
        self._settings = settings
        self._load = load
        self._waiting: dict[Key, _WaitingRequests] = {}
        self._loads: set[asyncio.Task[TurnoutError | None]] = set()

    def waits(self, model: str, version: Version) -> bool:
        """Tells whether requests wait for a version, or have waited for it and are not answered yet."""
        return (model, version) in self._waiting

    def waiting(self) -> Mapping[str, int]:
        """Returns by model how many requests wait for the load of one of its versions."""
        counts: dict[str, int] = {}
        for (model, _), waiting in self._waiting.items():
            counts[model] = counts.get(model, 0) + waiting.queued
        return counts

    @asynccontextmanager
    async def loaded(self, model: str, version: Version, deadline: float | None, size: int) -> AsyncIterator[None]:
        """Waits until a version is in memory; it stays there while the context is entered.

        Args:
            model: Its model.
            version: Which.
            deadline: `time.monotonic()` until which the request waits; None for no bound.
            size: Bytes of the request's inputs.

        Raises:
            DeadlineExceededError: The deadline came first; the load goes on.
            QueueFull: As many requests wait for it as may.
            TurnoutError: It could not be loaded; the error says why.
        """
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError(f"the deadline passed before {model} {version} was loaded")
        key = model, version
        waiting = self._waiting.get(key)
        self._check_bounds(model, version, waiting, size)
        if waiting is None:
            waiting = self._waiting[key] = _WaitingRequests(self._begin(model, version))
        elif waiting.load.done():  # somebody who waited still runs, and the version left all the same
            waiting.load = self._begin(model, version)
        waiting.requests += 1
        try:
            await self._wait(waiting, f"{model} {version}", deadline, size)
            yield
        finally:
            waiting.requests -= 1
            if not waiting.requests and self._waiting.get(key) is waiting:
                del self._waiting[key]

    async def close(self) -> None:
        """Waits for nothing any more."""
        for load in (loads := list(self._loads)):
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _wait(self, waiting: _WaitingRequests, name: str, deadline: float | None, size: int) -> None:
        waiting.queued += 1
        waiting.bytes += size
        try:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            await asyncio.wait([waiting.load], timeout=left)
        finally:
            waiting.queued -= 1
            waiting.bytes -= size
        if not waiting.load.done():
            raise DeadlineExceededError(f"the deadline passed while {name} was being loaded; the load goes on")
        if waiting.load.cancelled():
            raise Draining(f"the server stopped while {name} was being loaded")
        if (failure := waiting.load.result()) is not None:
            # A new one each time, since raising one adds to it.
            raise type(failure)(failure.message, violations=failure.violations, retry_after=failure.retry_after)

    def _begin(self, model: str, version: Version) -> "asyncio.Task[TurnoutError | None]":
        load = asyncio.create_task(self._attempt(model, version), name=f"on demand {model}@{version}")
        self._loads.add(load)  # it goes on when nobody waits any more
        load.add_done_callback(self._loads.discard)
        return load

    async def _attempt(self, model: str, version: Version) -> TurnoutError | None:
        """Loads a version, and returns why that failed: nobody may be waiting, and an exception would go unseen."""
        await asyncio.sleep(0)  # until whoever asked is counted
        try:
            await self._load(model, version)
        except TurnoutError as error:
            return error
        return None

    def _check_bounds(self, model: str, version: Version, waiting: _WaitingRequests | None, size: int) -> None:
        limits = self._settings.for_model(model).limits
        queued, held = (0, 0) if waiting is None else (waiting.queued, waiting.bytes)
        # The first is let in whatever its size, as into a version's queue.
        if queued >= limits.max_queue_requests or (queued and held + size > int(limits.max_queue_bytes)):
            message = f"{model} {version} is being loaded; {queued} requests with {held:,} bytes wait, and no more may"
            raise QueueFull(message, retry_after=RETRY_SECONDS)
