"""Blocks work that a server does in threads, so that a test can observe the state in the meantime."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from semver import Version

from turnout.app.server import Running
from turnout.serving.loading.loader import Loader

_LIMIT_SECONDS = 200.0


@contextmanager
def held_runs(server: Running, model: str, version: str = "1.0.0") -> Iterator[threading.Event]:
    """Blocks the runs of a version until the event is set, which happens at the latest at the end of the context.

    Works only for runs in threads: with `inline_threshold_us = 0`, or for models with loops.
    """
    entry = server.services.catalog.snapshot.models[model].versions[Version.parse(version)]
    assert entry.handle is not None
    batcher: Any = entry.handle._batchers[""]
    serve, go_on = batcher._serve, threading.Event()

    def held(*args: Any) -> None:
        assert go_on.wait(_LIMIT_SECONDS)
        serve(*args)

    batcher._serve = held
    try:
        yield go_on
    finally:
        go_on.set()
        batcher._serve = serve


@contextmanager
def held_conversions(server: Running) -> Iterator[threading.Event]:
    """Has large messages be decoded once the event is set; the end of the context sets it."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(_LIMIT_SECONDS)

    server.parts.serving.conversions.submit(hold)
    assert begun.wait(_LIMIT_SECONDS)
    try:
        yield go_on
    finally:
        go_on.set()


@contextmanager
def held_loads() -> Iterator[threading.Event]:
    """Blocks loads in all servers of this process until the event is set, at the latest at the end of the context."""
    go_on, load = threading.Event(), Loader.load

    def held(*args: Any) -> Any:
        assert go_on.wait(_LIMIT_SECONDS)
        return load(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "load", held)
        try:
            yield go_on
        finally:
            go_on.set()
