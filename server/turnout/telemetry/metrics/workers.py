"""Metrics of worker processes, recorded by their parent process. Pure."""

from collections.abc import Iterator, Mapping

from turnout.telemetry.families import Family

WORKER = "worker"
"""The label with the number of a worker, starting at 0."""


def worker_families(ready: Mapping[int, bool], restarts: Mapping[int, int]) -> Iterator[Family]:
    """Returns the families of one scrape, by worker number. Only servers with several workers have them.

    `ready`: the worker accepts connections, is ready and answers the supervisor.
    """
    yield Family(
        "turnout_worker_up", "gauge",
        "1 while the worker accepts connections, is ready, and answers its parent, else 0.",
        [({WORKER: str(index)}, float(up)) for index, up in ready.items()],
    )  # fmt: skip
    yield Family(
        "turnout_worker_restarts_total", "counter", "Times that the worker exited and was restarted.",
        [({WORKER: str(index)}, float(count)) for index, count in restarts.items()],
    )  # fmt: skip
