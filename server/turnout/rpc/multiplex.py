"""One stream of requests: many under way, answered as they are ready or in the order they came.

    reader: read -> answer at once, or start a task      writer: next answer -> stream

Requests of quick versions are answered in the reader without a task of their own; that is what makes a stream cost half
of unary calls. Reading pauses while as many requests as allowed are unanswered, so a client that does not read its
answers stops itself and nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from turnout.auth.quotas import Quota
from turnout.errors import Draining, Exhausted, InvalidRequest
from turnout.rpc.transport.port import Stream
from turnout.serving.data_plane import DataPlane, Pending
from turnout.serving.inference import Exchange

_SHOWN_KEY = 128
"""Characters of a key that a refusal repeats."""

Task: TypeAlias = asyncio.Task[bytes]

Ordering: TypeAlias = Callable[[Task, Callable[[Task], None]], object]
"""Puts a task that was started among the answers to be written: at once, or once it is done."""


def as_ready(task: Task, put: Callable[[Task], None]) -> None:
    """Has answers written as they are ready."""
    task.add_done_callback(put)


def in_order(task: Task, put: Callable[[Task], None]) -> None:
    """Has answers written in the order of their requests."""
    put(task)


class Item(Exchange[bytes], Protocol):
    """One item of a stream; `turnout.rpc.exchange.ItemExchange` is what they have in common."""

    @property
    def key(self) -> str:
        """Names it among those under way; "" if it has no name. Known once it is parsed."""
        ...

    @property
    def cancels(self) -> str | None:
        """Key of the item that this one cancels, being no request itself; None for a request."""
        ...


class Multiplexer:
    """Serves one stream from its opening to its end."""

    def __init__(
        self, plane: DataPlane, stream: Stream, item: Callable[[bytes], Item], ordering: Ordering, max_items: int
    ) -> None:
        """Prepares.

        Args:
            plane: Answers requests.
            stream: That they come by.
            item: Makes an exchange of a serialised item.
            ordering: `as_ready` or `in_order`.
            max_items: Most requests that are unanswered.
        """
        self._plane = plane
        self._stream = stream
        self._item = item
        self._ordering = ordering
        self._max_items = max_items
        self._unanswered = 0
        self._tasks: set[Task] = set()
        self._by_key: dict[str, Task] = {}
        self._answers: deque[bytes | Task] = deque()
        self._wake_writer = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True

    async def run(self) -> None:
        """Reads until the client half-closes or the server drains, then finishes what is under way.

        A broken stream cancels all that is under way. A drained one ends with UNAVAILABLE, which sends its client to
        open another, elsewhere.
        """
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        draining = asyncio.create_task(self._plane.draining.wait())
        try:
            await asyncio.wait([reader, writer, draining], return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            if writer.done():
                writer.result()
            if drained := not reader.done():
                reader.cancel()  # what was begun is answered, and nothing is begun any more
                await asyncio.wait((reader,))
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._reading = False
            self._wake_writer.set()
            await writer
            if drained:
                raise Draining("the server is stopping", retry_after=1.0)
        finally:
            for task in (*self._tasks, reader, writer, draining):
                task.cancel()
            await asyncio.gather(reader, writer, draining, return_exceptions=True)

    async def _read(self) -> None:
        while (data := await self._stream.read()) is not None:
            item = self._item(data)
            del data
            if (refusal := await self._plane.parse(item)) is not None:
                self._put(refusal)
            elif item.cancels is None:
                self._begin(item)
            elif (task := self._by_key.get(item.cancels)) is not None:
                task.cancel()
            del item
            while self._unanswered >= self._max_items:
                self._room.clear()
                await self._room.wait()

    def _begin(self, item: Item) -> None:
        """Answers at once if that is possible; else starts a task that will."""
        key = item.key
        if key and key in self._by_key:
            repeated = f"{key[:_SHOWN_KEY]!r} is under way on this stream"
            self._put(self._plane.refuse(item, InvalidRequest.at("request.request_id", repeated)))
            return
        try:
            quota = self._entered()
        except Exhausted as error:
            self._put(self._plane.refuse(item, error))
            return
        done = self._plane.begin(item)
        if not isinstance(done, Pending):
            if quota is not None:
                quota.leave()
            self._put(done)
            return
        task = asyncio.create_task(done.finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if quota is not None:
            task.add_done_callback(lambda _: quota.leave())
        if key:
            self._by_key[key] = task
            task.add_done_callback(lambda _: self._by_key.pop(key))
        self._unanswered += 1
        self._ordering(task, self._enter)

    def _entered(self) -> Quota | None:
        """Counts one more request of the caller. Raises Exhausted if they make too many."""
        if (authority := self._plane.authority) is None or (caller := self._stream.caller) is None:
            return None
        return authority.enter(caller)

    def _put(self, answer: bytes) -> None:
        self._unanswered += 1
        self._enter(answer)

    def _enter(self, answer: bytes | Task) -> None:
        self._answers.append(answer)
        self._wake_writer.set()

    async def _write(self) -> None:
        """Writes answers in their order, one at a time; an item that was cancelled has none."""
        while self._reading or self._answers:
            if not self._answers:
                self._wake_writer.clear()
                await self._wake_writer.wait()
                continue
            answer = self._answers.popleft()
            if isinstance(answer, bytes):
                await self._stream.write(answer)
            elif not await _cancelled(answer):
                await self._stream.write(answer.result())
            self._unanswered -= 1
            self._room.set()


async def _cancelled(task: Task) -> bool:
    """Waits until a task is done, and tells whether it was cancelled."""
    if not task.done():
        await asyncio.wait((task,))
    return task.cancelled()
