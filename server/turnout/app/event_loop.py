"""Which event loop a server runs on: libuv's where that is known to serve, which is a tenth of a small unary call."""

import asyncio
from collections.abc import Callable

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(*, gpu: bool) -> LoopFactory:
    """Returns what makes the event loop of a server.

    Args:
        gpu: Whether it may use one. Then it is asyncio's own loop (docs/decisions/0035-servers-run-on-libuv.md).
    """
    if gpu:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for PyPy
        return asyncio.new_event_loop
    return uvloop.new_event_loop
