"""Metrics of the requests that a server admits, and of those that it refuses before reading them."""

from collections.abc import Iterator

from turnout.admission import Admission, ReceiveBudget
from turnout.telemetry.families import Family


def admission_families(admission: Admission, budget: ReceiveBudget) -> Iterator[Family]:
    """Returns the families of one scrape."""
    yield Family(
        "turnout_requests_under_way", "gauge", "Requests under way, gRPC and HTTP; a stream is one.",
        [({}, float(admission.under_way))],
    )  # fmt: skip
    yield Family(
        "turnout_requests_refused_total", "counter",
        "Requests refused before anything of them was read: the server was full, or drained; or what they sent of a "
        "message was too much for the limit of unfinished requests.",
        [
            ({"reason": "full"}, float(admission.refused_full)),
            ({"reason": "draining"}, float(admission.refused_draining)),
            ({"reason": "unfinished"}, float(budget.refused)),
        ],
    )  # fmt: skip
    yield Family(
        "turnout_unfinished_bytes", "gauge", "Bytes of requests that have come in part.", [({}, float(budget.held))]
    )  # fmt: skip
