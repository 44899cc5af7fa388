"""Registers the tasks that serve requests, so that a listener that stops can wait for them or end them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def in_flight(tasks: "set[asyncio.Task[Any]]") -> Iterator[None]:
    """Keeps the current task in `tasks` for the duration of the context."""
    task = asyncio.current_task()
    assert task is not None, "requests are served by tasks"
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)
