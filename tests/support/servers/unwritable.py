"""Streams that cannot be written, as a log on a full disk, or one that is no longer read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO


@contextmanager
def unwritable(kind: Literal["full disk", "reader gone", "reader stopped"]) -> Iterator[TextIO]:
    """Yields a stream on which every write fails, or blocks once the pipe is full."""
    if kind == "full disk":
        with open("/dev/full", "w") as stream:
            yield stream
        return
    read, write = os.pipe()
    if kind == "reader gone":
        os.close(read)
    stream = os.fdopen(write, "w")
    try:
        yield stream
    finally:
        if kind == "reader stopped":
            os.close(read)  # makes a blocked write fail
        stream.close()
