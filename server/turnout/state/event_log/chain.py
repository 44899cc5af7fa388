"""The log as a hash chain, which shows tampering.

Each event holds the hash of the event before it, and its own:

    hash = "sha256:" + hex(SHA-256(JCS({
        "id": ..., "time": ..., "model": ..., "kind": ..., "subject": ...,
        "actor": ..., "reason": ..., "payload": ..., "previous": ...
    })))

JCS is the canonical JSON of RFC 8785. `id` is a number; all others are the very characters that the table holds, so
`payload` is a string whose characters are JSON. `previous` of event 1 is `sha256:` and 64 zeros.

Of events that the retention removed, only `previous` and `hash` are left (`turnout.state.event_log.retention`), which
link the others; each `removed` event holds a hash over those that it tells of, and what no such event tells of is
missing.

Whoever changes, removes, inserts or reorders events breaks the chain at that place, unless they compute it anew from
there to its end. Whoever removes the last events and sets the revision back leaves a chain that is whole. Both need the
right to drop the triggers, and both are found by comparing with a head that was kept elsewhere: `turnout log --head`
prints it, `turnout verify --head` compares.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785
from sqlalchemy import Connection, select

from turnout.errors import InvalidRequest
from turnout.state.database import schema

GENESIS = "sha256:" + "0" * 64
"""What the first event names as the hash before it."""

_FIELDS = ("id", "time", "model", "kind", "subject", "actor", "reason", "payload", "previous")
_SEARCHED = 1000
"""Numbers, up and down, that a changed event is tried under, to tell a moved one from a changed one."""
_LAST_EVENT = select(schema.events.c.id, schema.events.c.hash).order_by(schema.events.c.id.desc()).limit(1)
"""Built once: servers ask a few times a second, and to build a statement costs more than to run it."""
_TOLD = 20
"""Most faults that are told: a chain that was cut once is broken once, and a table filled with noise everywhere."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a chain, in short.

    Attributes:
        revision: Its number; 0 if there is none.
        hash: Its hash; `GENESIS` if there is none.
    """

    revision: int = 0
    hash: str = GENESIS

    def __str__(self) -> str:
        return f"{self.revision}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Reads what `str` gives.

        Raises:
            InvalidRequest: It is no such text.
        """
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdigit() and len(number) <= 18) or len(digest) != len(GENESIS):
            raise InvalidRequest.at(
                "head", f"expected REVISION:sha256:HEX as `turnout log --head` prints, got {text[:96]!r}"
            )
        return cls(int(number), digest)


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """Where the chain is broken.

    Attributes:
        event: The number of the event.
        what: What is wrong with it, to be read after its number.
    """

    event: int
    what: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What reading the whole chain showed.

    Attributes:
        head: Its last event.
        events: How many there are.
        faults: In order; at most the first twenty.
    """

    head: Head
    events: int
    faults: tuple[ChainBreak, ...]


def event_hash(row: Mapping[str, Any], previous: str) -> str:
    """Returns the hash of an event from its columns, as stored, and the hash of the previous event."""
    body = {**row, "previous": previous}
    return "sha256:" + hashlib.sha256(rfc8785.dumps({name: body[name] for name in _FIELDS})).hexdigest()


def head(connection: Connection) -> Head:
    """Reads the last event."""
    row = connection.execute(_LAST_EVENT).one_or_none()
    return Head() if row is None else Head(int(row.id), row.hash)


def check(
    connection: Connection, kept: Head | None = None, visit: Callable[[Mapping[str, Any]], None] = lambda _: None
) -> ChainReport:
    """Reads every event, in one consistent transaction, and checks each against the previous one.

    `kept` is a head recorded earlier, which must be in the chain. `visit` is called with each row, in order.
    """
    number = int(connection.execute(select(schema.revision.c.number)).scalar_one())
    query = select(schema.events).order_by(schema.events.c.id).execution_options(yield_per=1000)
    links = _Links(_removed(connection))
    for row in connection.execute(query):
        links.pass_removed(int(row.id), kept)
        links.add(row._asdict())
        visit(row._asdict())
        if kept is not None and row.id == kept.revision:
            links.kept = row.hash
    links.end(number, kept)
    return ChainReport(Head(links.last, links.previous), links.events, tuple(links.faults[:_TOLD]))


def removed_digest(rows: Iterable[tuple[int, str, str]]) -> str:
    """Returns the hash over removed events: number, hash of the one before, and hash of each, in order."""
    digest = hashlib.sha256()
    for number, previous, own in rows:
        digest.update(f"{number} {previous} {own}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _removed(connection: Connection) -> deque[tuple[int, str, str]]:
    """Reads the links that are left of removed events, in order, of those that a `removed` event vouches for."""
    table, events = schema.removed_events.c, schema.events.c
    rows = connection.execute(select(table.id, table.previous, table.hash).order_by(table.id))
    left: dict[int, tuple[int, str, str]] = {row.id: (row.id, row.previous, row.hash) for row in rows}
    vouched: set[int] = set()
    for text in connection.execute(select(events.payload).where(events.kind == "removed")).scalars():
        try:
            claim = json.loads(text)
            numbers = [int(number) for number in claim["ids"] if int(number) in left]
            if removed_digest(left[number] for number in numbers) == claim["digest"]:
                vouched.update(numbers)
        except (ValueError, KeyError, TypeError):
            continue  # it was changed, and the reading of the chain says so
    return deque(left[number] for number in sorted(vouched))


@dataclass(slots=True)
class _Links:
    """The chain as far as it was read.

    Attributes:
        removed: Links that are left of removed events, in order, as far as they were not passed yet.
        last: Number of the event that was read last; 0 for none.
        previous: Its hash.
        moved: It stands where another one belongs, so that the next one need not follow it.
        events: How many were read.
        kept: The hash at the place of the head that was kept.
        faults: What was found so far.
    """

    removed: deque[tuple[int, str, str]]
    last: int = 0
    previous: str = GENESIS
    moved: bool = False
    events: int = 0
    kept: str = GENESIS
    faults: list[ChainBreak] = field(default_factory=list)

    def pass_removed(self, before: int, kept: Head | None) -> None:
        """Follows the links of removed events up to the event `before`."""
        while self.removed and self.removed[0][0] < before:
            here, previous, own = self.removed.popleft()
            expected = self.last + 1
            if here > expected:
                self._fault(expected, "is missing" if here == expected + 1 else f"to {here - 1} are missing")
            elif previous != self.previous and not self.moved:
                self._fault(here, f"does not follow event {here - 1}: it names another hash as the one before it")
            self.last, self.previous, self.moved = here, own, False
            if kept is not None and here == kept.revision:
                self.kept = own

    def add(self, row: Mapping[str, Any]) -> None:
        here, expected = int(row["id"]), self.last + 1
        if here > expected:
            self._fault(expected, "is missing" if here == expected + 1 else f"to {here - 1} are missing")
        moved = False
        if row["hash"] != event_hash(row, row["previous"]):
            was = _place(row)
            moved = was is not None
            changed = "was changed: its hash is not that of its content"
            self._fault(here, f"is out of order: it was event {was}" if moved else changed)
        elif here == expected and row["previous"] != self.previous and not self.moved:
            self._fault(here, f"does not follow event {here - 1}: it names another hash as the one before it")
        self.last, self.previous, self.moved = here, row["hash"], moved
        self.events += 1

    def end(self, number: int, kept: Head | None) -> None:
        """Compares the end with the store's revision and with a head that was kept."""
        if self.last < number:
            which = "is missing" if number == self.last + 1 else f"to {number} are missing"
            self._fault(self.last + 1, f"{which}: the store is at revision {number}")
        elif self.last > number:
            self._fault(self.last, f"is beyond the store's revision, which is {number}")
        if kept is None:
            return
        if self.last < kept.revision:
            self._fault(kept.revision, "is missing: the log was longer when its head was kept")
        elif self.kept != kept.hash:
            self._fault(kept.revision, "is not the one that was kept: the log was written anew")

    def _fault(self, event: int, what: str) -> None:
        if len(self.faults) < _TOLD:
            self.faults.append(ChainBreak(event, what))


def _place(row: Mapping[str, Any]) -> int | None:
    """Returns the number that an event had when its hash was made; None if that is not a number near by."""
    here = int(row["id"])
    for number in range(max(here - _SEARCHED, 1), here + _SEARCHED):
        if event_hash({**row, "id": number}, row["previous"]) == row["hash"]:
            return number
    return None
