"""Runs the registry service's blocking work in dedicated threads, at a lower priority than requests."""

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
    """Runs blocking calls in threads. Cancels a call if its caller disconnects, and all calls when the server stops."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._working: set[Cancellation] = set()
        self._stopped: TurnoutError | None = None

    def stop(self, cause: TurnoutError) -> None:
        """Cancels running work and rejects new work. Waiting callers get `cause` as their error."""
        self._stopped = cause
        for cancellation in self._working:
            cancellation.cancel(cause)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call in a thread and returns its result.

        Raises:
            TurnoutError: The call raised it, or it was passed to `stop`.
        """
        if self._stopped is not None:
            raise self._stopped
        cancellation = Cancellation()

        def work() -> T:
            with cancellation.applies():
                return call(*args, **kwargs)

        context = contextvars.copy_context()  # contains the models that the caller may see
        future = asyncio.get_running_loop().run_in_executor(self._executor, context.run, work)
        self._working.add(cancellation)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancellation.cancel(RequestCancelled("the caller has disconnected"))
            # The call ends at its next cancellation point. Until then, keep its resources reserved.
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # marks the exception as retrieved
            raise
        except WorkCancelled as error:
            raise error.cause from None
        finally:
            self._working.discard(cancellation)
            del future  # breaks the cycle of future, error, traceback and this frame
