"""Metrics of workers, from their parent. Pure."""

from collections.abc import Iterator, Mapping

from turnout.telemetry.families import Family

WORKER = "worker"
"""The label of a series of one worker: its number, from 0."""


def worker_families(ready: Mapping[int, bool], restarts: Mapping[int, int]) -> Iterator[Family]:
    """Returns the families of one scrape; only a server with several workers has them.

    Args:
        ready: By worker, whether it accepts connections and is ready.
        restarts: By worker, the number of restarts.
    """
    yield Family(
        "turnout_worker_up", "gauge", "1 while the worker takes connections and is ready, 0 while it does not.",
        [({WORKER: str(index)}, float(up)) for index, up in ready.items()],
    )  # fmt: skip
    yield Family(
        "turnout_worker_restarts_total", "counter", "Times that the worker ended and was started again.",
        [({WORKER: str(index)}, float(count)) for index, count in restarts.items()],
    )  # fmt: skip
