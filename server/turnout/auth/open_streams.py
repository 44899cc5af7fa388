"""Ends open streams when their caller's credential expires or is revoked, and changes under way when it is revoked."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from turnout.auth.caller import Caller
from turnout.auth.refusals import Refusals
from turnout.errors import UnauthenticatedError
from turnout.telemetry.metrics.auth import RefusalReason

EXPIRED = "expired"
ENDED = "the token or certificate that opened this call has expired or was revoked"


class OpenStreams:
    """The tasks that serve streams and changes, with the callers that began them. Used only on the event loop."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._callers: dict[asyncio.Task[object], tuple[Caller, bool]] = {}
        self._cut: set[asyncio.Task[object]] = set()

    @contextmanager
    def opened(self, caller: Caller, *, outlasts_expiry: bool = False) -> Iterator[None]:
        """Cancels the current task when the caller's credential ends.

        If it `outlasts_expiry`, the task may go on when the credential expires, but not when it is revoked: a publish
        may take longer than a JWT is valid.

        Raises:
            UnauthenticatedError: The credential has ended, and the task was cancelled.
        """
        task = asyncio.current_task()
        assert task is not None, "a call that waits is served by a task"
        self._callers[task] = caller, outlasts_expiry
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            task.uncancel()
            raise UnauthenticatedError(ENDED) from None
        finally:
            self._callers.pop(task, None)
            self._cut.discard(task)

    def end(self, now: float) -> None:
        """Ends the streams of callers whose credentials have ended by `now`, in seconds since 1970."""
        for task, (caller, outlasts_expiry) in list(self._callers.items()):
            if not caller.ended and caller.expires <= now:
                caller.ended = EXPIRED
            over = caller.ended and not (outlasts_expiry and caller.ended == EXPIRED)
            if over and task not in self._cut:
                self._cut.add(task)
                self._refusals.record(RefusalReason.ENDED, identity=caller.identity.actor, reason=caller.ended)
                task.cancel()
