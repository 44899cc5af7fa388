"""Starts calls without a task; most end without one.

A server of ASGI calls its application and makes a task of what that returns: five microseconds, and two turns of the
event loop, for a call that waits for nothing. Python 3.12 has eager tasks for that, on asyncio's own loop alone. Here
it is for every Python and every loop: the application begins the call itself, and returns the rest of it, or `ENDED`,
which the loop takes for a task that is done. h2corn looks at once whether a task is.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

Call = Coroutine[Any, Any, None]

TaskFactory = Callable[..., Any]
"""Creates the task of a coroutine on a loop, as for `loop.set_task_factory`."""


class _Ended(Call):
    """A coroutine that has ended, and its task in one."""

    def send(self, _: Any) -> Any:
        """Ends."""
        raise StopIteration

    def throw(self, *_: Any) -> Any:
        """Ends: nothing is left to be cancelled."""
        raise StopIteration

    def close(self) -> None:
        """Does nothing."""

    def __await__(self) -> Any:
        return iter(())

    def done(self) -> bool:
        """Returns True, as a finished task does."""
        return True

    def result(self) -> None:
        """Returns None."""

    def set_name(self, _: object) -> None:
        """Does nothing; loops name the tasks that they make."""


ENDED = _Ended()


class _Begun(Call):
    """The rest of a call that was begun and waits for something; a task goes on with it.

    A task that is cancelled before its first step throws into it, so that the call can tell that it ended.
    """

    __slots__ = ("_awaited", "_call", "_enter")

    def __init__(self, call: Coroutine[Any, Any, Any], awaited: Any, enter: Callable[[], None]) -> None:
        self._call = call
        self._awaited = awaited
        self._enter: Callable[[], None] | None = enter

    def send(self, value: Any) -> Any:
        """Goes on; the first step is to wait for what the call waits for."""
        if self._enter is None:
            return self._call.send(value)
        self._enter()
        self._enter, awaited = None, self._awaited
        self._awaited = None
        return awaited

    def throw(self, *error: Any) -> Any:
        """Raises an error at the point where the call waits."""
        if self._enter is not None:
            self._enter()
            self._enter = self._awaited = None
        return self._call.throw(*error)

    def close(self) -> None:
        """Ends it."""
        self._call.close()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __await__(self) -> Any:
        return self


def begun(call: Call, enter: Callable[[], None]) -> Call:
    """Runs a call until it waits for something.

    Args:
        call: Not begun.
        enter: Called once it runs in a task, if it has to.

    Returns:
        The rest of it, for a task to go on with; `ENDED` if nothing is left.
    """
    try:
        awaited = call.send(None)
    except StopIteration:
        return ENDED
    except Exception as error:  # noqa: BLE001 - whoever made the call a task hears of it as of any task
        return _failed(error)
    return _Begun(call, awaited, enter)


async def _failed(error: Exception) -> None:
    raise error


def begun_in_task(call: Coroutine[Any, Any, T]) -> "tuple[T] | asyncio.Task[T]":
    """Runs a call until it waits for something.

    Returns:
        Its result, in a tuple; or a task that goes on with it. What the call has begun to count it ends, whenever that
        task is cancelled; one that was created for the call itself would never enter it if cancelled before its first
        step.
    """
    try:
        awaited = call.send(None)
    except StopIteration as end:
        return (end.value,)
    rest: Any = _Begun(call, awaited, lambda: None)
    return asyncio.create_task(rest)


def started(awaitable: Awaitable[T]) -> "tuple[T] | Awaitable[T]":
    """Returns what is awaited, in a tuple, if it is there; else what is to be awaited for it."""
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
        if not hasattr(steps, "throw"):  # a future, which knows by now
            raise
        yield steps.throw(error)
    return (yield from steps)


def allow_ended(loop: asyncio.AbstractEventLoop) -> None:
    """Has a loop make no task of `ENDED`. May be called again."""
    before = loop.get_task_factory()
    if not isinstance(before, _Factory):
        loop.set_task_factory(_Factory(before))


class _Factory:
    """Makes the tasks of a loop: as before, but none of what has ended."""

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
