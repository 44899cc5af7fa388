"""Serves a stream of concurrent requests, with responses sent as they become ready or in order of arrival.

    reader: read -> answer at once, or start a task      writer: answers of tasks -> stream

The reader answers requests to fast versions itself, without a task: it reads all requests that have arrived, answers
them, and sends the responses in one event. This makes a stream half as expensive as unary calls. Reading pauses while
the maximum number of requests is unanswered, while the transport has no room for the reader's responses, and while
large responses wait to be written, so a client that does not read its responses blocks only itself. If the client's
connection has used up half of what it may in the budget of unsent answers, a stream whose responses are large answers
one request at a time.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from turnout.admission.unread import LARGE_BYTES, UnsentBudget
from turnout.auth.policy.quotas import Quota
from turnout.chunks import Serialized
from turnout.errors import Draining, Exhausted, InvalidRequest
from turnout.rpc.transport.asgi.eager_tasks import begun_in_task
from turnout.rpc.transport.port import Stream
from turnout.serving.data_plane.data_plane import DataPlane, Pending
from turnout.serving.data_plane.inference import InferenceExchange

_SHOWN_KEY = 128
"""Number of characters of a key that an error message shows."""

_TOGETHER = 8
"""Maximum number of items that are answered before their responses are written. With 16, a client with 16 requests in
flight would wait until all of them are answered, and the server would then wait for the client."""

_TURN = 64
"""Number of items after which the reader yields to the event loop, even if more have arrived."""

_MOST_UNWRITTEN = 4 << 20
"""Size in bytes of finished responses above which the reader pauses until they are written. Otherwise a slow client
whose small requests have large answers would always have as many answers in memory as it may have requests."""

Task: TypeAlias = asyncio.Task[bytes]

Ordering: TypeAlias = Callable[[Task, Callable[[Task], None]], object]
"""Queues a started task so that its response is written: immediately, or when the task is done."""


def as_ready(task: Task, put: Callable[[Task], None]) -> None:
    """Queues responses as they become ready."""
    task.add_done_callback(put)


def in_order(task: Task, put: Callable[[Task], None]) -> None:
    """Queues responses in the order of their requests."""
    put(task)


class Item(InferenceExchange[bytes], Protocol):
    """An item of a stream. `turnout.rpc.exchange.ItemExchange` is the common base class."""

    @property
    def key(self) -> str:
        """The key that identifies the item among those in flight; "" if it has none. Set once the item is parsed."""
        ...

    @property
    def cancels(self) -> str | None:
        """If the item is a cancellation, the key of the item that it cancels; None for a request."""
        ...


class Multiplexer:
    """Serves one stream from its start to its end."""

    def __init__(
        self,
        plane: DataPlane,
        stream: Stream,
        item: Callable[[Serialized], Item],
        ordering: Ordering,
        max_items: int,
        unsent: UnsentBudget,
    ) -> None:
        """Initializes the multiplexer.

        `item` returns the exchange for a serialized item, `ordering` is `as_ready` or `in_order`, and at most
        `max_items` requests are unanswered. Responses are in the budget `unsent`.
        """
        self._plane = plane
        self._stream = stream
        self._item = item
        self._ordering = ordering
        self._max_items = max_items
        self._unsent = unsent
        self._unanswered = 0
        self._unwritten = 0  # size of the finished responses, in bytes
        self._large = False  # whether the last responses were
        self._tasks: set[Task] = set()
        self._by_key: dict[str, Task] = {}
        self._answers: deque[bytes | Task] = deque()
        self._enter: Callable[[bytes | Task], None] = self._answers.append
        self._wake_writer = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = True
        self._drained = False
        self._writing = False
        self._reader_waits = False

    async def run(self) -> None:
        """Serves requests until the client half-closes or the server drains, then finishes the requests in flight.

        If the stream breaks, all requests in flight are cancelled. If the server drains, the stream ends with
        UNAVAILABLE, so that the client opens a stream to another server.
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
                self._drained = True  # requests in flight are answered, but no new ones are started
                if self._reader_waits:
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
            # The errors of the tasks refer to this frame, and to answers, which would stay until garbage is collected.
            del task, reader, writer, draining

    async def _read(self) -> None:
        """Reads items, and writes the responses that need no task. Items that arrive together are answered together."""
        stream, plane, since_turn = self._stream, self._plane, 0
        while not self._drained:
            self._reader_waits = True  # `run` does not cancel the reader while it has items
            most = min(self._max_items - self._unanswered, _TOGETHER)
            came = list(await stream.read_some(1 if self._large and self._crowded() else most))
            self._reader_waits = False
            if not came:
                return
            since_turn += len(came)
            came.reverse()
            while came:
                item = self._item(came.pop())  # the item drops a large message once it is parsed
                if item.heavy:
                    await self._flush()  # no response waits while a large message is parsed
                    refusal = await plane.parse(item)
                else:
                    refusal = plane.parse_now(item)
                if refusal is not None:
                    self._unanswered += 1
                    self._enter_finished(refusal)
                elif item.cancels is None:
                    self._begin(item)
                elif (task := self._by_key.get(item.cancels)) is not None:
                    task.cancel()
                del item
            await self._flush()
            if since_turn >= _TURN:
                since_turn = 0
                await asyncio.sleep(0)
            self._reader_waits = True
            while not self._drained and (
                self._unanswered >= self._max_items
                or self._unwritten > _MOST_UNWRITTEN
                or (self._large and self._unanswered and self._crowded())
            ):
                self._room.clear()
                await self._room.wait()

    def _crowded(self) -> bool:
        return self._unsent.crowded(self._stream.connection)

    def _begin(self, item: Item) -> None:
        """Answers an item immediately if possible; otherwise starts a task that answers it."""
        self._unanswered += 1
        key = item.key
        if key and key in self._by_key:
            repeated = f"{key[:_SHOWN_KEY]!r} is under way on this stream"
            self._enter_finished(self._plane.refuse(item, InvalidRequest.at("request.request_id", repeated)))
            return
        quota: Quota | None = None
        if (authority := self._plane.authority) is not None and (caller := self._stream.caller) is not None:
            try:
                quota = authority.enter(caller)
            except Exhausted as error:
                self._enter_finished(self._plane.refuse(item, error))
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
        self._enter_finished(done)

    def _enter_finished(self, response: bytes) -> None:
        self._unwritten += len(response)
        self._enter(response)

    def _watch(self, task: Task, key: str, quota: Quota | None) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if quota is not None:
            task.add_done_callback(lambda _: quota.leave())
        if key:
            self._by_key[key] = task
            task.add_done_callback(lambda _: self._by_key.pop(key))
        self._ordering(task, self._enter)
        task.add_done_callback(self._finished)

    def _finished(self, task: Task) -> None:
        if not task.cancelled() and task.exception() is None:
            self._unwritten += len(task.result())
        self._wake_writer.set()

    async def _write(self) -> None:
        while self._reading or self._answers:
            self._wake_writer.clear()
            await self._flush()
            if self._reading or self._answers:
                await self._wake_writer.wait()

    async def _flush(self) -> None:
        """Writes the responses that are ready, in order, unless another task is already writing them.

        A cancelled item has no response.
        """
        if self._writing:
            return
        self._writing = True
        try:
            while self._answers:
                taken, ready = self._ready()
                if not taken:
                    return
                if ready:
                    size = sum(map(len, ready))
                    self._large = size > LARGE_BYTES * len(ready)
                    await self._stream.write_all(ready)
                    self._unwritten -= size
                self._unanswered -= taken
                self._room.set()
        finally:
            self._writing = False

    def _ready(self) -> tuple[int, list[bytes]]:
        """Removes the items that are done from the queue; returns their number and the responses to write."""
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
