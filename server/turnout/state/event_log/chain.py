"""The log as a hash chain, which reveals tampering.

Each event contains the hash of the event before it, and its own hash:

    hash = "sha256:" + hex(SHA-256(JCS({
        "id": ..., "time": ..., "model": ..., "kind": ..., "subject": ...,
        "actor": ..., "reason": ..., "payload": ..., "previous": ...
    })))

JCS is the canonical JSON of RFC 8785. `id` is a number; all other values are strings, exactly as in the table, so
`payload` is a string that contains JSON. `previous` of event 1 is `sha256:` and 64 zeros.

Of events that the retention removed (`turnout.state.event_log.retention`), only `previous` and `hash` are kept, to
link the others. Each `removed` event contains a hash of the links that it accounts for; a removed event that no such
event accounts for counts as missing.

Changing, removing, inserting or reordering events breaks the chain at that place, unless the chain is computed anew
from there to its end. Removing the last events and setting the revision back leaves an intact chain. Both require the
right to drop the triggers, and both are found by comparison with a head that was kept elsewhere: `turnout log --head`
prints it, and `turnout verify --head` compares.
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
"""The previous hash of the first event."""

_FIELDS = ("id", "time", "model", "kind", "subject", "actor", "reason", "payload", "previous")
_SEARCHED = 1000
"""How many numbers, up and down, are tried as an event's original number, to distinguish a moved event from a changed
one."""
_LAST_EVENT = select(schema.events.c.id, schema.events.c.hash).order_by(schema.events.c.id.desc()).limit(1)
"""Built once: servers run it several times a second, and building a statement costs more than running it."""
_TOLD = 20
"""Maximum number of faults reported: a chain that was cut once has one fault, but a table full of noise has many."""


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of a chain's last event.

    Attributes:
        revision: Number of the event; 0 if there is none.
        hash: Hash of the event; `GENESIS` if there is none.
    """

    revision: int = 0
    hash: str = GENESIS

    def __str__(self) -> str:
        return f"{self.revision}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Parses the output of `str`.

        Raises:
            InvalidRequest: The text is not in that format.
        """
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdigit() and len(number) <= 18) or len(digest) != len(GENESIS):
            raise InvalidRequest.at(
                "head", f"expected REVISION:sha256:HEX as `turnout log --head` prints, got {text[:96]!r}"
            )
        return cls(int(number), digest)


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """A place where the chain is broken.

    Attributes:
        what: What is wrong with it, to follow its number.
    """

    event: int
    what: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of reading the whole chain.

    Attributes:
        head: The last event.
        faults: Faults in order; at most the first twenty.
    """

    head: Head
    events: int
    faults: tuple[ChainBreak, ...]


def event_hash(row: Mapping[str, Any], previous: str) -> str:
    """Returns the hash of an event, given its columns as in the table and the hash of the event before it."""
    body = {**row, "previous": previous}
    return "sha256:" + hashlib.sha256(rfc8785.dumps({name: body[name] for name in _FIELDS})).hexdigest()


def head(connection: Connection) -> Head:
    """Returns the number and hash of the last event."""
    row = connection.execute(_LAST_EVENT).one_or_none()
    return Head() if row is None else Head(int(row.id), row.hash)


def check(
    connection: Connection, kept: Head | None = None, visit: Callable[[Mapping[str, Any]], None] = lambda _: None
) -> ChainReport:
    """Reads every event, and compares each with the one before it. Call it in a transaction with a consistent snapshot.

    `kept` is a head that was saved earlier, and must be in the chain. `visit` is called with each row, in order.
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
    """Returns the hash of removed events, each given by its number, the hash of the event before it, and its own."""
    digest = hashlib.sha256()
    for number, previous, own in rows:
        digest.update(f"{number} {previous} {own}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _removed(connection: Connection) -> deque[tuple[int, str, str]]:
    """Returns the links of removed events, in order, for which a `removed` event accounts."""
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
            continue  # the event was changed, which reading the chain reports
    return deque(left[number] for number in sorted(vouched))


@dataclass(slots=True)
class _Links:
    """The chain as read so far.

    Attributes:
        removed: Links of removed events that were not passed yet, in order.
        last: Number of the event read last; 0 for none.
        previous: Hash of that event.
        moved: Whether that event is out of order, so that the next one need not follow it.
        kept: Hash of the event with the number of the kept head.
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
            self._follow(here, previous)
            self.last, self.previous, self.moved = here, own, False
            if kept is not None and here == kept.revision:
                self.kept = own

    def add(self, row: Mapping[str, Any]) -> None:
        here, was = int(row["id"]), None
        if row["hash"] == event_hash(row, row["previous"]):
            self._follow(here, row["previous"])
        else:
            self._find_missing(here)
            was = _place(row)
            changed = "was changed: its hash is not that of its content"
            self._fault(here, changed if was is None else f"is out of order: it was event {was}")
        self.last, self.previous, self.moved = here, row["hash"], was is not None
        self.events += 1

    def end(self, number: int, kept: Head | None) -> None:
        """Compares the end with the store's revision and with the kept head."""
        self._find_missing(number + 1, f": the store is at revision {number}")
        if self.last > number:
            self._fault(self.last, f"is beyond the store's revision, which is {number}")
        if kept is None:
            return
        if self.last < kept.revision:
            self._fault(kept.revision, "is missing: the log was longer when its head was kept")
        elif self.kept != kept.hash:
            self._fault(kept.revision, "is not the one that was kept: the log was written anew")

    def _follow(self, here: int, previous: str) -> None:
        """Checks that an event follows the last one, unless that one is out of order."""
        if not self._find_missing(here) and previous != self.previous and not self.moved:
            self._fault(here, f"does not follow event {here - 1}: it names another hash as the one before it")

    def _find_missing(self, here: int, why: str = "") -> bool:
        """Returns whether events between the last one and the event `here` are missing, and notes it."""
        missing = here - self.last - 1
        if missing > 0:
            self._fault(self.last + 1, f"{'is missing' if missing == 1 else f'to {here - 1} are missing'}{why}")
        return missing > 0

    def _fault(self, event: int, what: str) -> None:
        if len(self.faults) < _TOLD:
            self.faults.append(ChainBreak(event, what))


def _place(row: Mapping[str, Any]) -> int | None:
    """Returns the number that an event had when its hash was made; None if no nearby number fits."""
    here = int(row["id"])
    for number in range(max(here - _SEARCHED, 1), here + _SEARCHED):
        if event_hash({**row, "id": number}, row["previous"]) == row["hash"]:
            return number
    return None
