"""Metrics of unparsable messages, unexpected errors, and lost log lines."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from turnout.telemetry.families import Family


@dataclass(slots=True)
class FaultRecorder:
    """Counts of faults by service.

    A service is the full name of a gRPC service, `inference` for inference requests of any protocol, or `http` for
    other HTTP requests.

    Attributes:
        malformed: Number of messages that could not be parsed.
        unexpected: Number of calls that failed with an unexpected error.
    """

    malformed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    unexpected: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def watch(self, service: str) -> None:
        """Starts the counts of a service at zero, so that Prometheus sees an increase at its first fault."""
        self.malformed[service] += 0
        self.unexpected[service] += 0


def fault_families(recorder: FaultRecorder, dropped_lines: int) -> Iterator[Family]:
    """Returns the families of one scrape. `dropped_lines` is the number of log lines that could not be written."""
    yield Family(
        "turnout_malformed_messages_total", "counter", "Messages that could not be parsed, by service.",
        [({"service": service}, float(count)) for service, count in recorder.malformed.items()],
    )  # fmt: skip
    yield Family(
        "turnout_unexpected_errors_total", "counter", "Calls that failed with an unexpected error, by service.",
        [({"service": service}, float(count)) for service, count in recorder.unexpected.items()],
    )  # fmt: skip
    yield Family(
        "turnout_log_lines_dropped_total", "counter",
        "Log lines lost because their reader was slow or the disk was full.",
        [({}, float(dropped_lines))],
    )  # fmt: skip
