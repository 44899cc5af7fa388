"""Serves one stream of requests: many in flight, answered as they become ready or in order of arrival.

    reader: read -> answer at once, or start a task      writer: answers of tasks -> stream

Requests of quick versions are answered in the reader without a task of their own: all that has arrived is read at once,
then answered, and the answers leave in one event; that is what makes a stream cost half of unary calls. Reading pauses
while as many requests as allowed are unanswered, and while there is no room for answers, so a client that does not read
these stops itself and nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from turnout.auth.authority import Authority
from turnout.auth.policy.quotas import Quota
from turnout.errors import Draining, Exhausted, InvalidRequest
from turnout.rpc.transport.asgi.eager_tasks import begun_in_task
from turnout.rpc.transport.port import Stream
from turnout.serving.data_plane.data_plane import DataPlane, Pending
from turnout.serving.data_plane.inference import InferenceExchange

_SHOWN_KEY = 128
"""Most characters of a key that a refusal repeats."""

_TOGETHER = 8
"""Items that are answered before the first of their answers is written. With 16, a client that has so many in flight
waits until all are answered, and the server then waits for it."""

_TURN = 64
"""Items after which others on the event loop have their turn, however many have arrived."""

Task: TypeAlias = asyncio.Task[bytes]

Ordering: TypeAlias = Callable[[Task, Callable[[Task], None]], object]
"""Queues a started task for writing its answer: at once, or once it is done."""


def as_ready(task: Task, put: Callable[[Task], None]) -> None:
    """Writes answers as they become ready."""
    task.add_done_callback(put)


def in_order(task: Task, put: Callable[[Task], None]) -> None:
    """Writes answers in the order of their requests."""
    put(task)


class Item(InferenceExchange[bytes], Protocol):
    """One item of a stream; `turnout.rpc.exchange.ItemExchange` is the common part."""

    @property
    def key(self) -> str:
        """Its name among those in flight; "" if it has none. Known once it is parsed."""
        ...

    @property
    def cancels(self) -> str | None:
        """If it is a cancellation, the key of the item that it cancels; None for a request."""
        ...


class Multiplexer:
    """Serves one stream from its opening to its end."""

    def __init__(
        self, plane: DataPlane, stream: Stream, item: Callable[[bytes], Item], ordering: Ordering, max_items: int
    ) -> None:
        """Prepares.

        Args:
            plane: Answers requests.
            stream: The stream of the requests.
            item: Returns the exchange of a serialised item.
            ordering: `as_ready` or `in_order`.
            max_items: Most unanswered requests.
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
        self._enter: Callable[[bytes | Task], None] = self._answers.append
        self._wake_writer = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True
        self._drained = False
        self._writing = False
        self._reader_writes = False

    async def run(self) -> None:
        """Reads until the client half-closes or the server drains, then finishes the requests in flight.

        A broken stream cancels all requests in flight. A drained one ends with UNAVAILABLE, so that its client opens
        another stream elsewhere.
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
                self._drained = True  # requests in flight are answered, and no new ones are started
                if not self._reader_writes:
                    reader.cancel()
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
        """Reads, and writes what is answered at once: all that has come together is answered together."""
        stream, plane, since_turn = self._stream, self._plane, 0
        while not self._drained:
            came = list(await stream.read_some(min(self._max_items - self._unanswered, _TOGETHER)))
            if not came:
                return
            since_turn += len(came)
            came.reverse()
            while came:
                item = self._item(came.pop())  # which lets go of a large one once it is parsed
                if item.heavy:
                    await self._flush(by_reader=True)  # nothing waits while a large one is parsed
                    refusal = await plane.parse(item)
                else:
                    refusal = plane.parse_now(item)
                if refusal is not None:
                    self._unanswered += 1
                    self._enter(refusal)
                elif item.cancels is None:
                    self._begin(item)
                elif (task := self._by_key.get(item.cancels)) is not None:
                    task.cancel()
                del item
            await self._flush(by_reader=True)
            if since_turn >= _TURN:
                since_turn = 0
                await asyncio.sleep(0)
            while self._unanswered >= self._max_items and not self._drained:
                self._room.clear()
                await self._room.wait()

    def _begin(self, item: Item) -> None:
        """Answers at once if that is possible; else starts a task that will."""
        self._unanswered += 1
        key = item.key
        if key and key in self._by_key:
            repeated = f"{key[:_SHOWN_KEY]!r} is under way on this stream"
            self._enter(self._plane.refuse(item, InvalidRequest.at("request.request_id", repeated)))
            return
        quota: Quota | None = None
        if self._plane.authority is not None:
            try:
                quota = self._entered(self._plane.authority)
            except Exhausted as error:
                self._enter(self._plane.refuse(item, error))
                return
        done = self._plane.begin(item)
        if isinstance(done, Pending):
            rest = begun_in_task(done.finish())
            if isinstance(rest, asyncio.Task):
                self._watch(rest, key, quota)
                return
            (done,) = rest
        if quota is not None:
            quota.leave()
        self._enter(done)

    def _watch(self, task: Task, key: str, quota: Quota | None) -> None:
        """Has the answer of a task written."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if quota is not None:
            task.add_done_callback(lambda _: quota.leave())
        if key:
            self._by_key[key] = task
            task.add_done_callback(lambda _: self._by_key.pop(key))
        self._ordering(task, self._enter)
        task.add_done_callback(self._wake)

    def _entered(self, authority: Authority) -> Quota | None:
        """Counts one more request of the caller. Raises Exhausted if they make too many."""
        caller = self._stream.caller
        return None if caller is None else authority.enter(caller)

    def _wake(self, _: Task) -> None:
        self._wake_writer.set()

    async def _write(self) -> None:
        """Writes the answers of tasks."""
        while self._reading or self._answers:
            self._wake_writer.clear()
            await self._flush()
            if self._reading or self._answers:
                await self._wake_writer.wait()

    async def _flush(self, *, by_reader: bool = False) -> None:
        """Writes the answers that are ready, in their order, unless another task is already writing them.

        An item that was cancelled has no answer. The reader is not cancelled while an answer is half written.
        """
        if self._writing:
            return
        self._writing, self._reader_writes = True, by_reader
        try:
            while self._answers:
                taken, ready = self._ready()
                if not taken:
                    return
                if ready:
                    await self._stream.write_all(ready)
                self._unanswered -= taken
                self._room.set()
        finally:
            self._writing = self._reader_writes = False

    def _ready(self) -> tuple[int, list[bytes]]:
        """Takes the answers that can be written now, and returns the number of their items, too."""
        answers = self._answers
        ready: list[bytes] = []
        taken = 0
        while answers:
            answer = answers[0]
            if isinstance(answer, bytes):
                ready.append(answer)
            elif not answer.done():
                break
            elif not answer.cancelled():
                ready.append(answer.result())
            answers.popleft()
            taken += 1
        return taken, ready
