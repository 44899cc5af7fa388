"""This server among those that share the state store."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnout.state.servers import CountRecord, ServerReport
from turnout.state.store import StateStore

_REFUSALS = 8
"""Refused reports after which a server with this one's name is not taken for a killed earlier process of it."""


@dataclass(slots=True)
class ServerPresence:
    """This server among those that share the state store.

    Attributes:
        name: The server's name, which no other server has at the same time.
        about: Constant part of its report about itself, as JSON values.
        rates: Returns the unpinned requests per second of each model that gets any.
        instance: Identifier of the process, which differs at every start.
    """

    store: StateStore
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    rates: Callable[[], Mapping[str, float]] = dict
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    refused: int = 0

    async def report(self, document: Mapping[str, Any], counts: Sequence[CountRecord], alive_seconds: float) -> bool:
        """Reports that this server is alive for `alive_seconds`, with a document about itself and its counts.

        Returns:
            False if another server has this one's name, in which case nothing is written.
        """
        report = ServerReport(self.name, self.instance, {**self.about, **document}, alive_seconds)
        if await self.store.in_thread(self.store.report_server, report, counts):
            return True
        self.refused += 1
        if self.refused > _REFUSALS:  # the other server still reports, so it is not an earlier process of this one
            self.name = f"{self.name}~{self.instance[:6]}"
        return False

    async def leave(self) -> None:
        """Tells the other servers that this one stops."""
        await self.store.in_thread(self.store.leave_server, self.name, self.instance)
