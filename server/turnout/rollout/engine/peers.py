"""The servers that share the state store, as this one knows them, and the store's time."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from turnout.rollout.engine.server_ticks import ServerTick
from turnout.rollout.machine.attempt import Rollout
from turnout.state.servers import CountRecord, ServersSnapshot

_ALIVE_TICKS, _ALIVE_SECONDS = 4, 2.0
_LATE_TICKS, _LATE_SECONDS = 6, 60.0
"""What a server counted counts for so long: a request may take 10 s to settle, and a locked store as long again."""


def alive_seconds(tick_seconds: float) -> float:
    """Returns for how many seconds a server counts as alive after it reported."""
    return max(_ALIVE_TICKS * tick_seconds, _ALIVE_SECONDS)


@dataclass(frozen=True, slots=True)
class OtherServer:
    """A server, as it reported itself last.

    Attributes:
        started: When it reported first, by the state store's clock.
        silent_s: Seconds since it reported last.
        alive: It has reported within `alive_seconds`.
        versions: By model, the versions that it can answer with.
        epochs: By model, that of the policy in force there.
        diverted: By model, the version that answers in place of the policy there.
        behind: By model, how many epochs it is behind the latest that any server has; those at the latest left out.
        about: What else it said.
    """

    name: str
    started: datetime
    silent_s: float
    alive: bool
    versions: Mapping[str, Sequence[str]]
    epochs: Mapping[str, int]
    diverted: Mapping[str, str]
    behind: Mapping[str, int]
    about: Mapping[str, Any]


class OtherServers:
    """The latest reports of the other servers. Used on the event loop only."""

    def __init__(self, tick_seconds: float) -> None:
        """Knows nobody before `update`.

        Args:
            tick_seconds: Seconds of a tick.
        """
        self._tick_seconds = tick_seconds
        self._offset = 0.0
        self._known = False
        self._counts: dict[tuple[str, int], list[CountRecord]] = {}
        self._meeting = ServersSnapshot(datetime.fromtimestamp(0, UTC))

    @property
    def alive_seconds(self) -> float:
        """For how long a server counts as alive after it reported."""
        return alive_seconds(self._tick_seconds)

    def update(self, servers_snapshot: ServersSnapshot, now: float) -> None:
        """Notes what servers said.

        Args:
            servers_snapshot: That, and the store's time.
            now: By this server's monotonic clock.
        """
        self._meeting = servers_snapshot
        self._counts = {}
        for record in servers_snapshot.counts:
            self._counts.setdefault((record.model, record.attempt), []).append(record)
        self._offset = servers_snapshot.now.timestamp() - now
        self._known = True

    def tick(self, now: float) -> int:
        """Returns the number of the present tick: the store's time divided by the seconds of a tick."""
        return int((now + self._offset) / self._tick_seconds) if self._known else 0

    def oldest(self, now: float) -> int:
        """Returns the number of the oldest tick that still counts."""
        return self.tick(now) - max(_LATE_TICKS, int(_LATE_SECONDS / self._tick_seconds))

    def reported_counts(self, rollout: Rollout) -> Sequence[CountRecord]:
        """Returns what servers told of a rollout that this one drives and nobody has taken, unread."""
        return self._counts.get((rollout.model, rollout.attempt), ())

    @property
    def servers(self) -> Sequence[OtherServer]:
        """The servers, by name."""
        now, records = self._meeting.now, self._meeting.servers
        alive = [r for r in records if now - r.seen < timedelta(seconds=self.alive_seconds)]
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
                    {m: str(v) for m, v in _mapping(record.document, "diverted").items()}, behind, record.document,
                )
            )  # fmt: skip
        return found


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def read_parts(records: Sequence[CountRecord]) -> list[ServerTick]:
    """Returns what servers counted; what cannot be read is left out."""
    found = []
    for record in records:
        with contextlib.suppress(ValueError):  # a later release wrote it; a driver of that release takes it
            found.append(ServerTick.from_json(record.tick, record.server, json.loads(record.text)))
    return found
