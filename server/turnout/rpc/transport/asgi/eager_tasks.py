"""Starts calls without a task, since most of them finish without needing one.

An ASGI server calls its application and runs the returned coroutine in a task. For a call that does not wait, this
costs 5 microseconds and two iterations of the event loop. Python 3.12 has eager tasks for this purpose, but only on
asyncio's own event loop. This module works with any Python version and event loop: the application starts the call
itself, and returns either the rest of the call, or `ENDED`, which the loop treats as a finished task. h2corn checks
immediately whether a task is done.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

Call = Coroutine[Any, Any, None]

TaskFactory = Callable[..., Any]
"""Creates a task for a coroutine on an event loop, as for `loop.set_task_factory`."""


class _Ended(Call):
    """A finished coroutine that is also its own finished task."""

    def send(self, _: Any) -> Any:
        """Raises StopIteration, as a finished coroutine would."""
        raise StopIteration

    def throw(self, *_: Any) -> Any:
        """Raises StopIteration, since there is nothing to cancel."""
        raise StopIteration

    def close(self) -> None:
        """Does nothing."""

    def __await__(self) -> Any:
        return iter(())

    def done(self) -> bool:
        return True

    def result(self) -> None:
        """Returns None."""

    def set_name(self, _: object) -> None:
        """Does nothing. Event loops set the names of the tasks that they create."""


ENDED = _Ended()


class _Begun(Call):
    """The rest of a call that was started and is now waiting. A task continues it.

    If the task is cancelled before its first step, `throw` passes the cancellation on to what the call is waiting for,
    as a task does, and to the call, so that it can clean up.
    """

    __slots__ = ("_awaited", "_call", "_enter")

    def __init__(self, call: Coroutine[Any, Any, Any], awaited: Any, enter: Callable[[], None]) -> None:
        self._call = call
        self._awaited = awaited
        self._enter: Callable[[], None] | None = enter

    def send(self, value: Any) -> Any:
        """Continues the call. The first step yields the future that the call is waiting for."""
        if self._enter is None:
            return self._call.send(value)
        self._enter()
        self._enter, awaited = None, self._awaited
        self._awaited = None
        return awaited

    def throw(self, *error: Any) -> Any:
        if self._enter is not None:
            self._enter()
            if self._awaited is not None:  # None is what `asyncio.sleep(0)` yields
                self._awaited.cancel()
            self._enter = self._awaited = None
        try:
            return self._call.throw(*error)
        finally:
            del error  # its traceback refers to this frame, and so to answers of the call

    def close(self) -> None:
        self._call.close()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __await__(self) -> Any:
        return self


def begun(call: Call, enter: Callable[[], None]) -> Call:
    """Runs a call that has not been started until it waits for something.

    Returns the rest of the call, to be continued in a task, which calls `enter` first; `ENDED` if the call has
    finished.
    """
    try:
        awaited = call.send(None)
    except StopIteration:
        return ENDED
    except Exception as error:  # noqa: BLE001 - raised in the task, as by any coroutine
        return _failed(error)
    return _Begun(call, awaited, enter)


async def _failed(error: Exception) -> None:
    raise error


def begun_in_task(call: Coroutine[Any, Any, T]) -> "tuple[T] | asyncio.Task[T]":
    """Runs a call until it waits for something.

    Returns its result, in a tuple; or a task that goes on with it. What the call has begun to count it ends, whenever
    that task is cancelled; one that was created for the call itself would never enter it if cancelled before its first
    step.
    """
    try:
        awaited = call.send(None)
    except StopIteration as end:
        return (end.value,)
    rest: Any = _Begun(call, awaited, lambda: None)
    return asyncio.create_task(rest)


def started(awaitable: Awaitable[T]) -> "tuple[T] | Awaitable[T]":
    """Starts an awaitable. Returns its result in a tuple if it need not wait, or else an awaitable for the rest."""
    steps = awaitable.__await__()
    try:
        awaited = next(steps)
    except StopIteration as end:
        return (end.value,)
    return _rest(awaited, steps)


@types.coroutine
def _rest(awaited: Any, steps: "Generator[Any, Any, T]") -> "Generator[Any, Any, T]":
    try:
        yield awaited
    except BaseException as error:
        if not hasattr(steps, "throw"):  # the iterator of a future, which is already cancelled
            raise
        yield steps.throw(error)
    return (yield from steps)


def allow_ended(loop: asyncio.AbstractEventLoop) -> None:
    """Installs a task factory that accepts `ENDED` as a finished task. Idempotent."""
    before = loop.get_task_factory()
    if not isinstance(before, _Factory):
        loop.set_task_factory(_Factory(before))


class _Factory:
    """A task factory that returns `ENDED` unchanged, and leaves all other coroutines to the previous factory."""

    def __init__(self, before: TaskFactory | None) -> None:
        self._before = before

    def __call__(
        self, loop: asyncio.AbstractEventLoop, call: Any, *, context: Context | None = None, **options: Any
    ) -> Any:
        if call is ENDED:
            return call
        if context is not None:
            options["context"] = context
        if self._before is not None:
            return self._before(loop, call, **options)
        return asyncio.Task(call, loop=loop, **options)
