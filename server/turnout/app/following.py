"""What the server follows: the repository, the state store, and what others record there."""

import asyncio
from contextlib import suppress

from turnout.app.foundation import Foundation
from turnout.app.rollouts import Rollouts
from turnout.app.serving import Serving
from turnout.serving.versions.follow import follow


class Following:
    """Puts in force what is recorded and published."""

    def __init__(self, base: Foundation, serving: Serving, rollouts: Rollouts) -> None:
        """Follows nothing yet.

        Args:
            base: Has the repository and the state store.
            serving: Loads versions and has policies in force.
            rollouts: Has rollbacks of other servers in force.
        """
        self._base = base
        self._serving = serving
        self._rollouts = rollouts

    async def refresh(self) -> None:
        """Puts in force what is recorded of policies, rollbacks and releases, and loads what that asks for."""
        try:
            await self._serving.traffic.refresh()  # first: what a policy needs is loaded, and stays so
            await self._rollouts.engine.rollbacks.note()
            if self._base.mount is not None:
                await self._base.mount.refresh()
        except Exception:  # and no `finally`: what is raised there would take the place of a cancellation
            await self._serving.manager.refresh()
            raise
        await self._serving.manager.refresh()

    async def follow_all(self) -> None:
        """Does the same, and has tokens that were revoked refused."""
        authority, store = self._base.authority, self._base.store
        if authority is not None:  # first: whatever else cannot be followed, a token that is revoked is
            authority.put_tokens(await store.in_thread(store.tokens, revoked=False))
        await self.refresh()

    async def run(self) -> None:
        """Follows for as long as the server runs."""
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
