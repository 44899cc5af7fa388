"""Runs the registry service's blocking work in its own threads, at a lower priority than requests."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from turnout.cancellation import Cancellation, WorkCancelled
from turnout.errors import RequestCancelled, TurnoutError

P = ParamSpec("P")
T = TypeVar("T")


class CancellableThreads:
    """Runs blocking calls; cancels those whose caller is gone, and all of them once the server stops."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._working: set[Cancellation] = set()
        self._stopped: TurnoutError | None = None

    def stop(self, cause: TurnoutError) -> None:
        """Ends running work, and refuses new work: callers that wait get the cause."""
        self._stopped = cause
        for cancellation in self._working:
            cancellation.cancel(cause)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call in a thread, and returns its result.

        Raises:
            TurnoutError: As the call does, or what the threads were stopped with.
        """
        if self._stopped is not None:
            raise self._stopped
        cancellation = Cancellation()

        def work() -> T:
            with cancellation.applies():
                return call(*args, **kwargs)

        context = contextvars.copy_context()  # it says which models the caller may see
        future = asyncio.get_running_loop().run_in_executor(self._executor, context.run, work)
        self._working.add(cancellation)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancellation.cancel(RequestCancelled("whoever asked for it is gone"))
            # It ends at its next step: what it uses stays reserved until then, and what it published is published.
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # retrieved, since nobody else will
            raise
        except WorkCancelled as error:
            raise error.cause from None
        finally:
            self._working.discard(cancellation)
            del future  # it holds the error, whose traceback leads here
