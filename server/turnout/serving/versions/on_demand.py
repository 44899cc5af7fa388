"""Loads versions on demand: requests for a version wait, each until its deadline, while the version is loaded once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from semver import Version

from turnout.config import Settings
from turnout.errors import DeadlineExceededError, Draining, QueueFull, TurnoutError
from turnout.serving.versions.load_outcomes import LOADING_RETRY_SECONDS
from turnout.serving.versions.presence import Key


@dataclass(slots=True, eq=False)
class _WaitingRequests:
    """Requests that wait for a version, or have waited and are running; they keep the version in use."""

    load: "asyncio.Task[TurnoutError | None]"  # ends once the version can answer or has failed
    requests: int = 0
    queued: int = 0  # requests that still wait for the load
    bytes: int = 0  # size of the inputs of the queued requests


class OnDemand:
    """Loads versions on demand. Used on the event loop only."""

    def __init__(self, settings: Settings, load: Callable[[str, Version], Coroutine[Any, Any, None]]) -> None:
        """Starts without waiting requests. The bounds of a version's queue also apply to requests waiting for its load.

        `load` returns once a version can answer, and raises TurnoutError if it fails.
        """
        self._settings = settings
        self._load = load
        self._waiting: dict[Key, _WaitingRequests] = {}
        self._loads: set[asyncio.Task[TurnoutError | None]] = set()

    def waits(self, model: str, version: Version) -> bool:
        """Returns whether requests wait for a version, or have waited and are not answered yet."""
        return (model, version) in self._waiting

    def waiting(self) -> Mapping[str, int]:
        """Returns, by model, the number of requests that wait for the load of one of its versions."""
        counts: dict[str, int] = {}
        for (model, _), waiting in self._waiting.items():
            counts[model] = counts.get(model, 0) + waiting.queued
        return counts

    @asynccontextmanager
    async def loaded(
        self, model: str, version: Version, deadline: float | None, size: int
    ) -> AsyncIterator[TurnoutError | None]:
        """Waits until a version is in memory, and keeps it there while the context is entered.

        The request waits until `deadline` (`time.monotonic()`; None for no deadline), and its inputs have `size` bytes.

        Yields:
            Why the version could not be loaded, as a new object; None if it is in memory.

        Raises:
            DeadlineExceededError: The deadline passed; the load continues.
            QueueFull: Too many requests wait for the version.
            Draining: The server stops.
        """
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceededError(f"the deadline passed before {model} {version} was loaded")
        key = model, version
        waiting = self._waiting.get(key)
        self._check_bounds(model, version, waiting, size)
        if waiting is None:
            waiting = self._waiting[key] = _WaitingRequests(self._begin(model, version))
        elif waiting.load.done():  # an earlier request is still running, but the version has been unloaded
            waiting.load = self._begin(model, version)
        waiting.requests += 1
        try:
            yield await self._wait(waiting, f"{model} {version}", deadline, size)
        finally:
            waiting.requests -= 1
            if not waiting.requests and self._waiting.get(key) is waiting:
                del self._waiting[key]

    async def close(self) -> None:
        """Cancels the tasks that wait for loads."""
        for load in (loads := list(self._loads)):
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _wait(
        self, waiting: _WaitingRequests, name: str, deadline: float | None, size: int
    ) -> TurnoutError | None:
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
        if (failure := waiting.load.result()) is None:
            return None
        # A new object for each request, since raising changes it.
        return type(failure)(failure.message, violations=failure.violations, retry_after=failure.retry_after)

    def _begin(self, model: str, version: Version) -> "asyncio.Task[TurnoutError | None]":
        load = asyncio.create_task(self._attempt(model, version), name=f"on demand {model}@{version}")
        self._loads.add(load)  # it continues even if no request waits any more
        load.add_done_callback(self._loads.discard)
        return load

    async def _attempt(self, model: str, version: Version) -> TurnoutError | None:
        """Loads a version; returns the error if it fails, since an exception would go unseen if no request waits."""
        await asyncio.sleep(0)  # until the request that started the load is counted
        try:
            await self._load(model, version)
        except TurnoutError as error:
            return error
        return None

    def _check_bounds(self, model: str, version: Version, waiting: _WaitingRequests | None, size: int) -> None:
        limits = self._settings.for_model(model).limits
        queued, held = (0, 0) if waiting is None else (waiting.queued, waiting.bytes)
        # The first request is accepted whatever its size, as by a version's queue.
        if queued >= limits.max_queue_requests or (queued and held + size > int(limits.max_queue_bytes)):
            message = (
                f"{model} {version} is being loaded; {queued} requests with {held:,} bytes are waiting, the maximum"
            )
            raise QueueFull(message, retry_after=LOADING_RETRY_SECONDS)
