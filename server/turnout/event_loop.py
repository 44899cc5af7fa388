"""Which event loop a server runs on: libuv's where it can be had, which is a tenth of a small unary call."""

import asyncio

try:
    import uvloop
except ModuleNotFoundError:  # there is none for Windows
    _uvloop = None
else:
    _uvloop = uvloop


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Makes one."""
    return asyncio.new_event_loop() if _uvloop is None else _uvloop.new_event_loop()
