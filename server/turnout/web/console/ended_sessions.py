"""The sessions of visitors who signed out, whose cookies may have been copied. Shared by the workers of a server."""

import json
import time

from turnout.workers.peers import Peers

_MOST = 10_000
"""Maximum number of sessions. Beyond it, the oldest are valid again until they expire."""
_TOPIC = "sign-outs"
_Sessions = dict[str, int]
"""When sessions expire, in seconds since 1970, by their id."""


class EndedSessions:
    """Sessions that ended before they expired. Used on the event loop only."""

    def __init__(self, peers: Peers | None = None) -> None:
        """Creates an empty set. `peers` are the other workers, which are told of each sign-out."""
        self._expiry: _Sessions = {}
        self._peers = peers
        if peers is not None:
            peers.answers(_TOPIC, self._on_message)

    def __contains__(self, session: str) -> bool:
        return session in self._expiry

    async def add(self, session: str, expires: int) -> None:
        """Ends a session in all workers.

        Raises:
            UnavailableError: Another worker did not confirm it. In this one, the session has ended.
        """
        self._add({session: expires})
        if self._peers is not None:
            await self._peers.broadcast(_TOPIC, json.dumps({session: expires}).encode())

    async def catch_up(self) -> None:
        """Copies the sessions from workers that were started earlier."""
        if self._peers is not None:
            for reply in (await self._peers.ask(_TOPIC, b"{}")).values():
                self._add(json.loads(reply))

    async def _on_message(self, body: bytes) -> bytes:
        """Adds another worker's sessions, and returns those that are known here."""
        self._add(json.loads(body))
        return json.dumps(self._expiry).encode()

    def _add(self, sessions: _Sessions) -> None:
        now = time.time()
        kept = [item for item in (self._expiry | sessions).items() if item[1] > now]
        self._expiry = dict(kept[-_MOST:])
