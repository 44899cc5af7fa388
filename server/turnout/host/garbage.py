"""Python's cyclic garbage collector, which runs per number of new objects. A start has many, nearly all to stay."""

import gc

_USUAL = gc.get_threshold()

_SELDOM = 500_000
"""New objects from which a collection starts. A server's imports leave 250,000 behind, which take 25 MB."""


def collect_seldom() -> None:
    """Delays the next collection; those after it are as frequent as Python makes them.

    Call this before the imports of a process: a seventh of their CPU went into collections. A process that keeps
    running has one by itself at some time, so it needs no call that ends the delay.
    """
    gc.set_threshold(_SELDOM, *_USUAL[1:])
    gc.callbacks.append(_collect_as_usual)


def freeze_objects() -> None:
    """Collects once, and excludes all objects that remain from later collections.

    Call this when a process has started: collections of long-lived objects would stall its event loop, or write to
    memory that it shares with forked children.
    """
    gc.collect()
    gc.freeze()


def _collect_as_usual(phase: str, _: object) -> None:
    if phase == "stop":
        gc.set_threshold(*_USUAL)
        gc.callbacks.remove(_collect_as_usual)
