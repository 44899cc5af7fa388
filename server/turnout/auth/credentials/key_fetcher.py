"""Fetches the keys of JWT issuers: at the start, again after a while, and for a JWT with an unknown key.

Each issuer has a thread of its own, since an issuer, or the resolver of its host name, may hang. Nothing else waits for
that thread, and a fetch that takes too long counts as failed, even though its thread cannot be stopped.
"""

import asyncio
from collections.abc import Callable, Mapping, Set

from structlog.typing import FilteringBoundLogger

from turnout.auth.credentials.jwks import KeySet
from turnout.errors import ConfigError
from turnout.telemetry.metrics.auth import AuthRecorder
from turnout.threads import Threads

_LONGEST_FETCH = 30.0
"""Maximum time of a fetch in seconds, whatever it waits for. A resolver may take this long to try all name servers."""

_LONGEST_WAIT = 5.0
"""Maximum time in seconds that a call with an unknown key waits for a fetch."""


class KeyFetcher:
    """Keeps the keys of all issuers up to date. Used on the event loop only."""

    def __init__(
        self,
        keys: Mapping[str, KeySet],
        recorder: AuthRecorder,
        log: FilteringBoundLogger,
        withdraw: Callable[[str, Set[str]], None],
    ) -> None:
        """Creates the fetcher, without fetching anything.

        `withdraw` is called with an issuer and the ids of its keys that were changed or removed, if there are any.
        """
        self._keys = keys
        self._recorder = recorder
        self._log = log
        self._withdraw = withdraw
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._threads = {issuer: Threads(f"keys of {issuer}") for issuer in keys}
        recorder.keys_failed = dict.fromkeys(keys, False)

    async def fetch_all(self) -> None:
        """Fetches the keys of all issuers. An issuer that cannot be reached is tried again later."""
        await asyncio.gather(*map(self._begin, self._keys))

    def fetch_due(self) -> None:
        """Begins to fetch the keys that are due again."""
        for issuer, keys in self._keys.items():
            if keys.due and issuer not in self._fetching:
                self._begin(issuer)

    async def fetch_for(self, issuer: str) -> None:
        """Fetches an issuer's keys and waits for them a little, unless they were fetched a moment ago."""
        task = self._fetching.get(issuer)
        if task is None:
            if not self._keys[issuer].may_look:
                return
            task = self._begin(issuer)
        await asyncio.wait([task], timeout=_LONGEST_WAIT)

    def close(self) -> None:
        """Cancels fetches and shuts down the threads."""
        for task in self._fetching.values():
            task.cancel()
        for threads in self._threads.values():
            threads.shutdown(wait=False)

    def _begin(self, issuer: str) -> "asyncio.Task[None]":
        self._keys[issuer].tried()
        task = asyncio.get_running_loop().create_task(self._fetch(issuer), name=f"keys of {issuer}")
        self._fetching[issuer] = task
        task.add_done_callback(lambda _: self._fetching.pop(issuer, None))
        return task

    async def _fetch(self, issuer: str) -> None:
        keys = self._keys[issuer]
        try:
            async with asyncio.timeout(_LONGEST_FETCH):
                fetched = await self._threads[issuer].run(keys.fetch)
        except Exception as error:  # noqa: BLE001 - the metric has to show any failure
            reason = _reason(issuer, error)
            if not keys.failure:
                self._log.error("keys cannot be fetched; the previous keys stay in force", reason=reason)
            keys.failure = reason
        else:
            if keys.failure:
                self._log.info("keys can be fetched again", issuer=issuer)
            if gone := keys.put(fetched):
                self._withdraw(issuer, gone)
        self._recorder.keys_failed[issuer] = bool(keys.failure)


def _reason(issuer: str, error: Exception) -> str:
    if isinstance(error, ConfigError):
        return error.message
    late = f"no answer within {_LONGEST_FETCH:g} s"
    return f"auth.jwt.{issuer}.jwks: {late if isinstance(error, TimeoutError) else repr(error)}"
