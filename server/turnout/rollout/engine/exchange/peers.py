"""What this server knows about the servers that share the state store, and about the store's time."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from turnout.rollout.engine.exchange.server_ticks import ServerTick
from turnout.rollout.machine.attempt import Rollout
from turnout.state.servers import CountRecord, ServersSnapshot

_ALIVE_TICKS, _ALIVE_SECONDS = 4, 2.0
_LATE_TICKS, _LATE_SECONDS = 6, 60.0
"""How long a server's counts are accepted: a request may take 10 s to settle, and a locked store as long again."""


def alive_seconds(tick_seconds: float) -> float:
    """Returns the number of seconds for which a server counts as alive after its last report."""
    return max(_ALIVE_TICKS * tick_seconds, _ALIVE_SECONDS)


@dataclass(frozen=True, slots=True)
class OtherServer:
    """The last report of a server.

    Attributes:
        started: When it first reported, by the state store's clock.
        silent_s: Seconds since its last report.
        alive: Whether it has reported within `alive_seconds`.
        versions: Versions that are ready, by model.
        epochs: Epoch of the policy in force, by model.
        diverted: Version that answers in place of the policy, by model.
        rates: Unpinned requests per second, by model; models without requests are left out.
        behind: Number of epochs behind the latest of any server, by model; models that are up to date are left out.
        about: The whole report.
    """

    name: str
    started: datetime
    silent_s: float
    alive: bool
    versions: Mapping[str, Sequence[str]]
    epochs: Mapping[str, int]
    diverted: Mapping[str, str]
    rates: Mapping[str, float]
    behind: Mapping[str, int]
    about: Mapping[str, Any]


class OtherServers:
    """The latest reports of the servers. Used only on the event loop."""

    def __init__(self, tick_seconds: float) -> None:
        """Creates the object. No server is known before `update`."""
        self._tick_seconds = tick_seconds
        self._offset = 0.0
        self._known = False
        self._counts: dict[tuple[str, int], list[CountRecord]] = {}
        self._snapshot = ServersSnapshot(datetime.fromtimestamp(0, UTC))

    @property
    def alive_seconds(self) -> float:
        """Seconds for which a server counts as alive after its last report."""
        return alive_seconds(self._tick_seconds)

    def update(self, servers_snapshot: ServersSnapshot, now: float) -> None:
        """Updates the reports. `now` is the time of this server's monotonic clock."""
        self._snapshot = servers_snapshot
        self._counts = {}
        for record in servers_snapshot.counts:
            self._counts.setdefault((record.model, record.attempt), []).append(record)
        self._offset = servers_snapshot.now.timestamp() - now
        self._known = True

    def tick(self, now: float) -> int:
        """Returns the number of the present tick: the store's time divided by the length of a tick."""
        return int((now + self._offset) / self._tick_seconds) if self._known else 0

    def oldest(self, now: float) -> int:
        """Returns the number of the oldest tick whose counts are accepted."""
        return self.tick(now) - max(_LATE_TICKS, int(_LATE_SECONDS / self._tick_seconds))

    def reported_counts(self, rollout: Rollout) -> Sequence[CountRecord]:
        """Returns other servers' unused counts of a rollout that this server drives, not parsed."""
        return self._counts.get((rollout.model, rollout.attempt), ())

    @property
    def servers(self) -> Sequence[OtherServer]:
        """The servers, by name."""
        now, records = self._snapshot.now, self._snapshot.servers
        alive = [r for r in records if r.alive(now, self.alive_seconds)]
        latest: dict[str, int] = {}
        for record in alive:
            for model, epoch in _mapping(record.document, "epochs").items():
                latest[model] = max(latest.get(model, 0), int(epoch))
        found = []
        for record in records:
            epochs = {model: int(epoch) for model, epoch in _mapping(record.document, "epochs").items()}
            behind = {m: latest[m] - e for m, e in epochs.items() if latest.get(m, 0) > e}
            silent = max((now - record.seen).total_seconds(), 0.0)
            found.append(
                OtherServer(
                    record.name, record.started, silent, record in alive,
                    {m: list(v) for m, v in _mapping(record.document, "versions").items()}, epochs,
                    {m: str(v) for m, v in _mapping(record.document, "diverted").items()},
                    {m: float(v) for m, v in _mapping(record.document, "rates").items()}, behind, record.document,
                )
            )  # fmt: skip
        return found


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def read_parts(records: Sequence[CountRecord]) -> list[ServerTick]:
    """Parses the counts of servers. Records that cannot be parsed are left out."""
    found = []
    for record in records:
        with contextlib.suppress(ValueError):  # written by a later release; a driver of that release uses it
            found.append(ServerTick.from_json(record.tick, record.server, json.loads(record.text)))
    return found
