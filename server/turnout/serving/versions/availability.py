"""Reports dependencies of the server that are unavailable: by log, metric and readiness, once for each change."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from structlog.typing import FilteringBoundLogger

from turnout.telemetry.metrics.server import ServerRecorder


class Dependency(StrEnum):
    """An external dependency of the server."""

    REPOSITORY = "model repository"
    STATE_STORE = "state store"


_MEANWHILE = {
    Dependency.REPOSITORY: "loaded versions stay loaded, and no others can be loaded",
    Dependency.STATE_STORE: "serving continues from memory, and changes are refused",
}


class Availability:
    """Tracks which dependencies are unavailable, and why. Used on the event loop only.

    Attributes:
        reasons: Reason for each unavailable dependency, as a sentence without a path.
        unserved: Why nothing is served although something should be, one sentence without a path for each version; ()
            if something is served or no version exists.
    """

    def __init__(self, recorder: ServerRecorder, log: FilteringBoundLogger) -> None:
        self._recorder = recorder
        self._log = log
        self.reasons: Mapping[Dependency, str] = {}
        self.unserved: Sequence[str] = ()
        self._notes: list[tuple[str, Callable[[], bool]]] = []
        self._loads: Callable[[], Sequence[str]] = tuple

    def report_unserved(self, reasons: Sequence[str]) -> None:
        """Records `unserved`."""
        if (unserved := tuple(reasons)) != self.unserved:
            self.unserved = unserved
            if unserved:
                self._log.error(
                    "nothing is served although something should be: the server is not ready", reasons=unserved
                )

    @property
    def notes(self) -> Sequence[str]:
        """Further information for callers that ask whether the server is ready. It names no model."""
        return [text for text, holds in self._notes if holds()]

    @property
    def loads(self) -> Sequence[str]:
        """A sentence for each load in a long stage."""
        return self._loads()

    def report_loads(self, loads: Callable[[], Sequence[str]]) -> None:
        """Registers a function that returns a sentence for each load in a long stage."""
        self._loads = loads

    def note(self, text: str, holds: Callable[[], bool]) -> None:
        """Adds a note, which is shown while `holds` returns True."""
        self._notes.append((text, holds))

    def report(self, part: Dependency, reason: str) -> None:
        """Records why `part` is unavailable; "" if it is available."""
        if part is Dependency.REPOSITORY:
            self._recorder.repository_available = not reason
        else:
            self._recorder.state_store_available = not reason
        if reason == self.reasons.get(part, ""):
            return
        if reason:
            self.reasons = {**self.reasons, part: reason}
            self._log.error(f"{part} unavailable", reason=reason, meanwhile=_MEANWHILE[part])
        else:
            self.reasons = {other: why for other, why in self.reasons.items() if other is not part}
            self._log.warning(f"{part} available again")
