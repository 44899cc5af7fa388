"""Assigns unique request ids on a prediction stream. Pure."""

import uuid
from collections.abc import Container
from dataclasses import dataclass, field

MAX_ABANDONED = 4096
"""Maximum number of abandoned ids to remember. The oldest are forgotten first; by then their answers have arrived."""


@dataclass(slots=True)
class StreamIds:
    """The request ids in use on one stream. Each request gets a unique id, by which its answer is matched to it.

    An abandoned id stays reserved until its answer arrives, so that the answer cannot reach a later request.
    """

    _prefix: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _count: int = 0
    _abandoned: dict[str, None] = field(default_factory=dict)

    def claim(self, wanted: str, pending: Container[str]) -> str:
        """Returns `wanted`, or a generated id if `wanted` is empty or in use."""
        if wanted and wanted not in pending and wanted not in self._abandoned:
            return wanted
        while True:
            self._count += 1
            made_up = f"{self._prefix}-{self._count}"
            if made_up not in pending and made_up not in self._abandoned:
                return made_up

    def abandon(self, request_id: str) -> None:
        """Marks an id whose request was given up: its answer is no longer expected, but may still arrive."""
        self._abandoned[request_id] = None
        if len(self._abandoned) > MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def free(self, request_id: str) -> None:
        """Releases an abandoned id, once its answer has arrived or can no longer arrive."""
        self._abandoned.pop(request_id, None)
