"""Keeps the server up to date with the repository and the state store, which other servers also change."""

import asyncio
from contextlib import suppress

from turnout.app.foundation import Foundation
from turnout.app.rollouts import Rollouts
from turnout.app.serving import Serving
from turnout.serving.versions.follow import follow


class Following:
    """Applies recorded changes and published versions to this server. `run` starts following."""

    def __init__(self, base: Foundation, serving: Serving, rollouts: Rollouts) -> None:
        self._base = base
        self._serving = serving
        self._rollouts = rollouts

    async def refresh(self) -> None:
        """Applies the recorded policies, rollbacks and releases, and loads the versions that they need."""
        try:
            await self._serving.traffic.refresh()  # first, so that the versions of policies are loaded and kept
            await self._rollouts.engine.rollbacks.note()
            if self._base.mount is not None:
                await self._base.mount.refresh()
        except Exception:  # not `finally`, where an exception would replace a cancellation
            await self._serving.manager.refresh()
            raise
        await self._serving.manager.refresh()

    async def follow_all(self) -> None:
        """Does the same as `refresh`, and applies the revocation of tokens."""
        authority, store = self._base.authority, self._base.store
        if authority is not None:  # first, so that revocations apply even if the rest fails
            authority.put_tokens(await store.in_thread(store.tokens, revoked=False))
        await self.refresh()

    async def run(self) -> None:
        """Follows changes until the task is cancelled."""
        base, changed, loop = self._base, asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(changed.set)

        base.store.listen(wake)
        await follow(
            self.follow_all, self._revision, self._serving.availability, base.repository.root,
            base.settings.repository, base.log, changed, remote=base.repository.remote,
        )  # fmt: skip

    async def _revision(self) -> int:
        store = self._base.store

        def look() -> int:
            store.check()
            return store.revision()

        return await store.in_thread(look)
