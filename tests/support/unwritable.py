"""Streams that cannot be written: what a log meets on a full disk, or when nobody reads it any more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO


@contextmanager
def unwritable(kind: Literal["full disk", "reader gone", "reader stopped"]) -> Iterator[TextIO]:
    """A stream on which every write fails, or blocks once the pipe is full."""
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
            os.close(read)  # wakes a writer that waits, with an error
        stream.close()
