"""What is shown of workers, by their parent. Pure."""

from collections.abc import Iterator, Mapping

from turnout.telemetry.families import Family

WORKER = "worker"
"""Label of a series that is one worker's: its number, from 0."""


def worker_families(ready: Mapping[int, bool], restarts: Mapping[int, int]) -> Iterator[Family]:
    """Returns the families of one scrape; they are there where a server has several workers.

    Args:
        ready: By worker, whether it takes connections and is ready.
        restarts: By worker, how often it ended and was started again.
    """
    yield Family(
        "turnout_worker_up", "gauge", "1 while the worker takes connections and is ready, 0 while it does not.",
        [({WORKER: str(index)}, float(up)) for index, up in ready.items()],
    )  # fmt: skip
    yield Family(
        "turnout_worker_restarts_total", "counter", "Times that the worker ended and was started again.",
        [({WORKER: str(index)}, float(count)) for index, count in restarts.items()],
    )  # fmt: skip
