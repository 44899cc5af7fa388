"""Python's cyclic garbage collector, which runs per number of new objects. A start has many, nearly all to stay."""

import gc

_USUAL = gc.get_threshold()

_SELDOM = 500_000
"""New objects from which a collection starts. A server's imports leave 250,000 behind, which take 25 MB."""


def collect_seldom() -> None:
    """Makes collections rare. Call this before the imports of a process: a seventh of their CPU went into those."""
    gc.set_threshold(_SELDOM, *_USUAL[1:])


def collect_as_usual() -> None:
    """Collects once, makes collections as frequent as Python does, and excludes all current objects from them.

    Call this when a process has started and runs an event loop, which collections of long-lived objects would stall.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL)
