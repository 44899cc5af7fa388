"""Responds to HTTP requests that the server itself cancels."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def serve_or_refuse(
    application: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    refusal: Callable[[], Coroutine[Any, Any, None] | None],
) -> None:
    """Serves a request. If it is cancelled before it has a response, sends one in place of the cancellation.

    `refusal` returns what sends it; None if another party cancelled the request.

    Raises:
        asyncio.CancelledError: Another party cancelled the request, or its response has already begun.
    """
    answered = False

    async def noted(event: Message) -> None:
        nonlocal answered
        answered = True
        await send(event)

    try:
        await application(scope, receive, noted)
    except asyncio.CancelledError:
        task, refused = asyncio.current_task(), None if answered else refusal()
        if refused is None:
            raise
        assert task is not None, "only a task is cancelled"
        task.uncancel()
        await refused
