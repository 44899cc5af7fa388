"""Which request ids are taken on one prediction stream. Pure."""

import uuid
from collections.abc import Container
from dataclasses import dataclass, field

MAX_ABANDONED = 4096
"""Abandoned ids that are kept, the oldest forgotten first: an answer that is under way is no older than so many."""


@dataclass(slots=True)
class StreamIds:
    """Gives each request an id that no other request of the stream bears, so that its answer finds it.

    An id that was given up stays taken until its answer comes, since that answer must reach no later request.
    """

    _prefix: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _count: int = 0
    _abandoned: dict[str, None] = field(default_factory=dict)

    def claim(self, wanted: str, pending: Container[str]) -> str:
        """Returns `wanted`, or a generated id if it is empty or taken."""
        if wanted and wanted not in pending and wanted not in self._abandoned:
            return wanted
        while True:
            self._count += 1
            made_up = f"{self._prefix}-{self._count}"
            if made_up not in pending and made_up not in self._abandoned:
                return made_up

    def abandon(self, request_id: str) -> None:
        """Notes that nobody waits for this id's answer any more, though it may come."""
        self._abandoned[request_id] = None
        if len(self._abandoned) > MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def free(self, request_id: str) -> None:
        """Notes that no answer will come to this id any more."""
        self._abandoned.pop(request_id, None)
