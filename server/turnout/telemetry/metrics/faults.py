"""Metrics of unparsable messages, unexpected errors, and lost log lines."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from turnout.telemetry.families import Family


@dataclass(slots=True)
class FaultRecorder:
    """Counts faults by full name of a gRPC service, `inference` for requests of any protocol, or `http` for other HTTP.

    Attributes:
        malformed: Messages that could not be parsed.
        unexpected: Calls that failed with an unexpected error.
    """

    malformed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    unexpected: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def watch(self, service: str) -> None:
        """Starts a service at zero: otherwise Prometheus would see no increase at its first fault."""
        self.malformed[service] += 0
        self.unexpected[service] += 0


def fault_families(recorder: FaultRecorder, dropped_lines: int) -> Iterator[Family]:
    """Returns the families of one scrape.

    Args:
        recorder: The counts.
        dropped_lines: Lines of the log that could not be written.
    """
    yield Family(
        "turnout_malformed_messages_total", "counter", "Messages that could not be parsed, by service.",
        [({"service": service}, float(count)) for service, count in recorder.malformed.items()],
    )  # fmt: skip
    yield Family(
        "turnout_unexpected_errors_total", "counter", "Calls that failed by an error nobody foresaw, by service.",
        [({"service": service}, float(count)) for service, count in recorder.unexpected.items()],
    )  # fmt: skip
    yield Family(
        "turnout_log_lines_dropped_total", "counter", "Log lines lost, where their reader was slow or the disk full.",
        [({}, float(dropped_lines))],
    )  # fmt: skip
