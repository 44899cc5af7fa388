"""SIGHUP and Ctrl-C: signals that may reach a server before its event loop handles them, which can take seconds."""

import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio  # takes 30 ms, and every command imports this module before anything else


def hold_hangups() -> None:
    """Makes SIGHUP wait until `accept_hangups`, and lets Ctrl-C end the process. Call this first, in the main thread.

    SIGHUP would otherwise end the process. Python's KeyboardInterrupt would print a traceback, or be lost if it is
    raised where exceptions are ignored, as in some imports.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may have been ignored by a shell
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def accept_hangups() -> None:
    """Delivers SIGHUP from now on, and one that has arrived. Call this when there is a handler."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


async def on_each_hangup(hung_up: "asyncio.Event", reload: Callable[[], Awaitable[None]]) -> None:
    """Calls `reload` after each SIGHUP, whose handler sets `hung_up`, once for those that arrive during a call. Runs
    until it is cancelled.
    """
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reload()
