"""The other workers, from the point of view of one worker: applies operators' requests to all of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import NotLoaded, TurnoutError, UnavailableError
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.serving.versions.manager import Manager
from turnout.workers.member import Member

_LOAD_SECONDS = 3600.0
"""Timeout in seconds for a load. Practically unlimited, since the caller's deadline ends the wait."""

_FOLLOW_SECONDS = 5.0
"""Timeout in seconds for the other workers to apply a change. They soon find it in the state store in any case."""

_TELL_SECONDS = 2.0


Question = TypeVar("Question", bound=Message)
Reply = TypeVar("Reply", bound=Message)


class EachWorker(Generic[Question, Reply]):
    """A question that each worker answers from its own state."""

    def __init__(
        self, peers: "Peers | None", topic: str, question: type[Question], answer: Callable[[Question], Reply]
    ) -> None:
        """Answers questions of type `question` that other workers ask on a topic; without `peers`, there are none."""
        self._peers = peers
        self._topic = topic
        self._question = question
        self._answer = answer
        if peers is not None:
            peers.answers(topic, self._answer_peer)

    async def ask(self, question: Question) -> list[Reply]:
        """Returns the replies: first that of this worker, then those of the others, without any that do not reply."""
        own = self._answer(question)
        others = {} if self._peers is None else await self._peers.ask(self._topic, question.SerializeToString())
        return [own, *map(type(own).FromString, others.values())]

    async def _answer_peer(self, body: bytes) -> bytes:
        return self._answer(self._question.FromString(body)).SerializeToString()


@dataclass(eq=False, repr=False)
class Peers:
    """The other workers of a server. Used on the event loop only. `catch_up` begins to answer their requests."""

    member: Member
    _manager: Manager
    _catalog: Catalog
    _refresh: Callable[[], Awaitable[None]]
    _log: FilteringBoundLogger

    def __post_init__(self) -> None:
        self.member.on_change = lambda: self._catalog.swap(self._catalog.snapshot)
        self.member.answers("load", self._load_here)
        self.member.answers("refresh", self._refresh_here)

    @property
    def part(self) -> str:
        """Description of this worker, such as `worker 0 of 4`."""
        return f"worker {self.member.start.index} of {self.member.start.settings.workers}"

    async def catch_up(self) -> None:
        """Applies what operators requested before this worker could answer. From then on it gets others' requests.

        Raises:
            UnavailableError: The supervisor has ended.
        """
        for model, version, load in await self.member.asked():
            self._manager.recall(model, Version.parse(version), load=load)

    async def load(self, model: str, version: Version) -> VersionEntry:
        """Loads a version in every worker.

        Raises:
            NotLoaded: Another worker could not load the version.
            TurnoutError: As for `Manager.load`.
        """
        entry = await self._manager.load(model, version)
        await self._spread(model, version, load=True)
        return entry

    async def unload(self, model: str, version: Version) -> VersionEntry:
        """Unloads a version in every worker.

        Raises:
            NotLoaded: Another worker could not unload the version.
            TurnoutError: As for `Manager.unload`.
        """
        entry = await self._manager.unload(model, version)
        await self._spread(model, version, load=False)
        return entry

    async def follow(self) -> None:
        """Makes the other workers apply changes in the state store now, and waits briefly for that."""
        try:
            answers = await self.member.gather("refresh", bound=_FOLLOW_SECONDS)
        except UnavailableError:
            return  # the supervisor is busy or has ended; the others will find the change themselves
        for worker, answer in answers.items():
            if isinstance(answer, UnavailableError):
                self._log.warning("another worker follows a change later", worker=worker, reason=answer.message)

    async def ask(self, topic: str, body: bytes = b"") -> Mapping[int, bytes]:
        """Returns the replies of the other workers by worker index, without those that do not reply."""
        try:
            answers = await self.member.gather(topic, body, bound=_TELL_SECONDS)
        except UnavailableError:
            return {}
        return {worker: answer for worker, answer in answers.items() if isinstance(answer, bytes)}

    async def broadcast(self, topic: str, body: bytes) -> None:
        """Sends a request to every other worker.

        Raises:
            UnavailableError: A worker did not confirm the request. Other workers may have applied it.
        """
        if refusals := await self._refusals(topic, body, _TELL_SECONDS):
            raise UnavailableError(f"not every worker could follow: {refusals}", retry_after=1.0)

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Sets the handler for requests on a topic from other workers."""
        self.member.answers(topic, answer)

    async def wait_to_listen(self) -> None:
        """Waits until this worker has finished loading versions, or no other worker accepts connections."""
        loaded = asyncio.ensure_future(self._catalog.wait_for(lambda snapshot: snapshot.complete))
        urged = asyncio.ensure_future(self.member.listen_now.wait())
        try:
            await asyncio.wait([loaded, urged], return_when=asyncio.FIRST_COMPLETED)
        finally:
            loaded.cancel()
            urged.cancel()

    async def report_ready(self) -> None:
        """Reports to the supervisor when this worker has finished loading versions, then waits until cancelled."""
        await self._catalog.wait_for(lambda snapshot: snapshot.complete)
        with suppress(TurnoutError):  # the supervisor has ended, and this worker is about to
            await self.member.ready()
        await asyncio.Event().wait()

    async def _spread(self, model: str, version: Version, *, load: bool) -> None:
        request = json.dumps([model, str(version), load]).encode()
        if refusals := await self._refusals("load", request, _LOAD_SECONDS):
            verb = "loaded" if load else "unloaded"
            raise NotLoaded(f"{model} {version} was not {verb} in every worker: {refusals}")

    async def _refusals(self, topic: str, body: bytes, bound: float) -> str:
        answers = await self.member.gather(topic, body, bound=bound)
        return "; ".join(f"worker {n}: {e.message}" for n, e in answers.items() if isinstance(e, TurnoutError))

    async def _load_here(self, body: bytes) -> bytes:
        model, version, load = json.loads(body)
        exact = Version.parse(version)
        await (self._manager.load(model, exact) if load else self._manager.unload(model, exact))
        return b""

    async def _refresh_here(self, _: bytes) -> bytes:
        await self._refresh()
        return b""
