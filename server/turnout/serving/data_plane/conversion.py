"""Converts large messages in a thread, off the event loop.

Python code releases the GIL every 5 ms, but a single call into C holds it until it returns; the limits on the contents
of a request keep each such call short. There is only one thread: several would just compete for the GIL, and the event
loop would have to wait for each of them.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from turnout.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class ConversionThread:
    """Runs conversions one after another, in order of arrival."""

    def __init__(self) -> None:
        self._thread = Threads("conversion")

    async def run(self, convert: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the result of `convert`. Cancelled callers cost nothing if their turn has not come."""
        return await self._thread.run(convert, *args, **kwargs)

    def close(self) -> None:
        """Ends the thread. Drops waiting work; work in progress does not delay the exit of the process."""
        self._thread.shutdown()
