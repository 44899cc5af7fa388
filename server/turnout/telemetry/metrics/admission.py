"""Metrics of admission: connections, requests that the server accepts, and requests that it refuses unread."""

from collections.abc import Iterator, Mapping

from turnout.admission import Admission, ReceiveBudget
from turnout.telemetry.families import Family


def admission_families(admission: Admission, budget: ReceiveBudget) -> Iterator[Family]:
    """Returns the families of one scrape."""
    yield Family(
        "turnout_requests_under_way", "gauge", "Requests in progress, gRPC and HTTP. A stream counts as one.",
        [({}, float(admission.under_way))],
    )  # fmt: skip
    yield Family(
        "turnout_requests_refused_total", "counter",
        "Requests refused before they were read completely: the server was full or draining, or partially received "
        "requests together exceeded their limit.",
        [
            ({"reason": "full"}, float(admission.refused_full)),
            ({"reason": "draining"}, float(admission.refused_draining)),
            ({"reason": "unfinished"}, float(budget.refused)),
        ],
    )  # fmt: skip
    yield Family(
        "turnout_unfinished_bytes", "gauge", "Size of all partially received requests.", [({}, float(budget.held))]
    )  # fmt: skip


def connection_families(connections: Mapping[str, int], limits: Mapping[str, int]) -> Iterator[Family]:
    """Returns the families of one scrape, of the open connections and their maximum number by listener."""
    yield Family(
        "turnout_connections", "gauge", "Open connections of a listener.",
        [({"listener": listener}, float(count)) for listener, count in connections.items()],
    )  # fmt: skip
    yield Family(
        "turnout_connections_limit", "gauge",
        "Maximum number of connections of a listener. At the limit, further connections wait.",
        [({"listener": listener}, float(limit)) for listener, limit in limits.items()],
    )  # fmt: skip
