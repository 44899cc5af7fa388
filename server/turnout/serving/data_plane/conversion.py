"""Conversion of large messages, in a thread beside the event loop.

Python code gives the GIL back every 5 ms, single calls into C do not until they end; the limits on what a request may
hold keep each of those short. There is one thread: more would only take turns on the GIL, and the event loop would have
to wait for each of them in turn.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from turnout.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class ConversionThread:
    """Runs conversions one after the other, in the order they came."""

    def __init__(self) -> None:
        self._thread = Threads("conversion")

    async def run(self, convert: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `convert` returns. A caller that gives up before its turn costs nothing."""
        return await self._thread.run(convert, *args, **kwargs)

    def close(self) -> None:
        """Ends the thread; waiting work is dropped, and running work does not delay the process's end."""
        self._thread.shutdown()
