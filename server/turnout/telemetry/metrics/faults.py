"""Metrics of unparsable messages, unexpected errors, and lost log lines."""

from collections import defaultdict
from dataclasses import dataclass

from turnout.telemetry.families import counter


@dataclass(slots=True)
class FaultRecorder:
    """Counts of faults by service, and of lost log lines.

    A service is the full name of a gRPC service, `inference` for inference requests of any protocol, or `http` for
    other HTTP requests.
    """

    malformed: defaultdict[str, int] = counter(
        "turnout_malformed_messages_total", "Messages that could not be parsed, by service.", "service"
    )
    unexpected: defaultdict[str, int] = counter(
        "turnout_unexpected_errors_total", "Calls that failed with an unexpected error, by service.", "service"
    )
    dropped_lines: int = counter(
        "turnout_log_lines_dropped_total", "Log lines lost because their reader was slow or the disk was full."
    )

    def watch(self, service: str) -> None:
        """Starts the counts of a service at zero, so that Prometheus sees an increase at its first fault."""
        self.malformed[service] += 0
        self.unexpected[service] += 0
