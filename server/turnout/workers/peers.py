"""Applies in every worker what an operator asks of one of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import NotLoaded, TurnoutError, UnavailableError
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.serving.versions.manager import Manager
from turnout.workers.member import Member

_LOAD_SECONDS = 3600.0
"""Seconds for a load: practically unlimited, since the caller's own deadline ends the wait."""

_FOLLOW_SECONDS = 2.0
"""Seconds for the others to follow a change; they find it in the state store a moment later anyway."""

_TELL_SECONDS = 2.0


class Peers:
    """The other workers, as a worker's services see them. Used on the event loop only."""

    def __init__(
        self,
        member: Member,
        manager: Manager,
        catalog: Catalog,
        refresh: Callable[[], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        """Prepares, and takes over operators' requests from before this worker was started.

        Args:
            member: The link to them.
            manager: Loads and unloads here.
            catalog: Woken when the readiness of the others changes.
            refresh: Follows the state store and the repository.
            log: Receives a line if another worker did not follow.
        """
        self._member = member
        self._manager = manager
        self._catalog = catalog
        self._refresh = refresh
        self._log = log
        member.on_change = lambda: catalog.swap(catalog.snapshot)
        for model, version, load in member.start.asked:
            manager.recall(model, Version.parse(version), load=load)
        member.answers("load", self._load_here)
        member.answers("refresh", self._refresh_here)

    @property
    def has_control(self) -> bool:
        """True in the one worker that has the operators' listener."""
        return self._member.start.control

    @property
    def part(self) -> str:
        """The name of this worker, in words."""
        return f"worker {self._member.start.index} of {self._member.start.settings.workers}"

    def others_ready(self) -> bool:
        """Tells whether every other worker that accepts connections is ready."""
        return self._member.others_ready

    async def load(self, model: str, version: Version) -> VersionEntry:
        """Loads a version in every worker; raises as `Manager.load`, and NotLoaded if another worker could not."""
        entry = await self._manager.load(model, version)
        await self._spread(model, version, load=True)
        return entry

    async def unload(self, model: str, version: Version) -> VersionEntry:
        """Takes a version out of service in every worker; raises as `Manager.unload`, and NotLoaded as `load`."""
        entry = await self._manager.unload(model, version)
        await self._spread(model, version, load=False)
        return entry

    async def follow(self) -> None:
        """Makes the other workers follow the state store now, and waits a moment for that."""
        try:
            answers = await self._member.gather("refresh", bound=_FOLLOW_SECONDS)
        except UnavailableError:
            return  # the parent is busy or gone; the others will look for themselves
        for worker, answer in answers.items():
            if isinstance(answer, UnavailableError):
                self._log.warning("another worker follows a change later", worker=worker, reason=answer.message)

    async def ask(self, topic: str, body: bytes = b"") -> Mapping[int, bytes]:
        """Returns the answer of each other worker, by its number; without those that do not answer."""
        try:
            answers = await self._member.gather(topic, body, bound=_TELL_SECONDS)
        except UnavailableError:
            return {}
        return {worker: answer for worker, answer in answers.items() if isinstance(answer, bytes)}

    async def broadcast(self, topic: str, body: bytes) -> None:
        """Sends something to every other worker.

        Raises:
            UnavailableError: One of them did not confirm it; others may have.
        """
        answers = await self._member.gather(topic, body, bound=_TELL_SECONDS)
        if refusals := [f"worker {n}: {e.message}" for n, e in answers.items() if isinstance(e, TurnoutError)]:
            raise UnavailableError(f"not every worker could follow: {'; '.join(refusals)}", retry_after=1.0)

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Sets the handler for a topic of the other workers."""
        self._member.answers(topic, answer)

    async def wait_to_listen(self) -> None:
        """Waits until all versions are loaded that should be, or no other worker accepts connections."""
        loaded = asyncio.ensure_future(self._catalog.wait_for(lambda snapshot: snapshot.complete))
        urged = asyncio.ensure_future(self._member.listen_now.wait())
        try:
            await asyncio.wait([loaded, urged], return_when=asyncio.FIRST_COMPLETED)
        finally:
            loaded.cancel()
            urged.cancel()

    async def report_ready(self) -> None:
        """Reports to the parent when all versions are loaded that should be; then goes on until cancelled."""
        await self._catalog.wait_for(lambda snapshot: snapshot.complete)
        with suppress(TurnoutError):  # the parent is gone: this worker is about to end
            await self._member.ready()
        await asyncio.Event().wait()

    async def _spread(self, model: str, version: Version, *, load: bool) -> None:
        request = json.dumps([model, str(version), load]).encode()
        answers = await self._member.gather("load", request, bound=_LOAD_SECONDS)
        if refusals := [f"worker {n}: {e.message}" for n, e in answers.items() if isinstance(e, TurnoutError)]:
            verb = "loaded" if load else "unloaded"
            raise NotLoaded(f"{model} {version} was not {verb} in every worker: {'; '.join(refusals)}")

    async def _load_here(self, body: bytes) -> bytes:
        model, version, load = json.loads(body)
        exact = Version.parse(version)
        await (self._manager.load(model, exact) if load else self._manager.unload(model, exact))
        return b""

    async def _refresh_here(self, _: bytes) -> bytes:
        await self._refresh()
        return b""
