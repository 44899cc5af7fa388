"""The part of the state store for versions: publications, releases, signatures and tags."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from textwrap import shorten

from semver import Version
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.sql import ColumnElement

from turnout.errors import Conflict, InvalidRequest, TagNotFound
from turnout.registry.manifest.versions import known_version
from turnout.state import model_changes, policies, rollouts
from turnout.state.change import StateChange, check_model, check_text
from turnout.state.database import schema
from turnout.state.database.engine import Database
from turnout.state.event_log import events
from turnout.state.event_log.events import Event, EventKind
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ReleaseStatus
from turnout.state.rollouts import RolloutRecord

_ROLLOUTS = 1000
_SIGNATURES = 10_000
_REASON_QUOTED = 200
_HISTORY = 10_000
_ANSWER_KINDS = (
    EventKind.RELEASED,
    EventKind.WITHDRAWN,
    EventKind.YANKED,
    EventKind.UNYANKED,
    EventKind.POLICY_CHANGED,
)
_TAG_KINDS = (EventKind.TAG_SET, EventKind.TAG_DELETED)


@dataclass(frozen=True, slots=True)
class VersionUses:
    """What refers to a version, read in the transaction that may withdraw it.

    Attributes:
        policy: The model's policy in force; None if it never had one.
        rollouts: The model's rollouts that have not ended.
        tags: Tags that refer to the version.
    """

    policy: PolicyRecord | None
    rollouts: tuple[RolloutRecord, ...]
    tags: tuple[str, ...]


class ReleaseStore:
    """Releases, withdraws, yanks and tags versions. Base class of the store.

    A change takes the `model`, the exact `version`, the `actor` (at most 256 bytes) and the `reason` (at most 1,024
    bytes). The caller must make sure that the version was published. A method that changes nothing logs nothing. Each
    raises InvalidRequest if an argument is too long.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def record_published(
        self, model: str, version: Version, digest: str, *, actor: str, reason: str, found: bool
    ) -> bool:
        """Records that a version exists, with the digest of its manifest.

        With `found`, the publisher did not record it, and the actor is whoever found it. Returns False if the same
        digest was recorded before.
        """
        with self._change(model, actor, reason, version) as change:
            before = events.latest(change.connection, model, 1, (EventKind.PUBLISHED,), str(version))
            if before and before[0].payload["digest"] == digest:
                return False
            payload = {"version": str(version), "digest": digest}
            extra = ({"found": True} if found else {}) | ({"replaced": before[0].payload["digest"]} if before else {})
            change.record(EventKind.PUBLISHED, str(version), payload | extra)
        return True

    def record_signed(self, model: str, version: Version, digest: str, key: str, *, actor: str, reason: str) -> bool:
        """Records that a key signed a version's digest. Returns False if that was recorded before."""
        with self._change(model, actor, reason, version) as change:
            payload = {"version": str(version), "digest": digest, "key": key}
            known = events.latest(change.connection, model, _SIGNATURES, (EventKind.SIGNED,), str(version))
            if any(event.payload == payload for event in known):
                return False
            change.record(EventKind.SIGNED, str(version), payload)
        return True

    def release(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Declares a version fit for general traffic. Returns False if it was already released.

        Raises:
            InvalidRequest: The version is yanked.
        """
        with self._change(model, actor, reason, version) as change:
            if change.standing(version) is ReleaseStatus.RELEASED:
                return False
            model_changes.set_statuses(change, {version: ReleaseStatus.RELEASED})
        return True

    def withdraw(
        self,
        model: str,
        version: Version,
        *,
        actor: str,
        reason: str,
        rollout: tuple[int, int] | None = None,
    ) -> bool:
        """Makes a released version a candidate again. Returns False if it is not released.

        `rollout` is the attempt and number of the rollout that makes the change; it must not have been written since.

        Raises:
            Conflict: Another server wrote the rollout in the meantime.
        """
        with self._change(model, actor, reason) as change:
            if rollout is not None:
                change.refuse_moved_rollout(*rollout)
            if change.standing(version) is not ReleaseStatus.RELEASED:
                return False
            model_changes.set_statuses(change, {version: ReleaseStatus.CANDIDATE})
        return True

    def yank(
        self, model: str, version: Version, *, actor: str, reason: str, refuse: Callable[[VersionUses], None]
    ) -> ReleaseStatus:
        """Yanks a version and returns its previous release status.

        `refuse` raises if a use of the version forbids it; what it receives is locked until the change is made. Clients
        that pin the version see the reason.

        Raises:
            InvalidRequest: No reason was given.
        """
        with self._change(model, actor, reason, version, explained=True) as change:
            before = change.standing(version)
            if before is not ReleaseStatus.YANKED:
                refuse(uses(change.connection, model, version))
                _yank(change, version, before)
        return before

    def prune(
        self,
        model: str,
        version: Version,
        digest: str,
        size_bytes: int,
        *,
        actor: str,
        reason: str,
        refuse: Callable[[VersionUses], None],
    ) -> bool:
        """Records that a version's files are to be removed. Servers unload it, and its number is never used again.

        `refuse` as in `yank`. Returns False if that was recorded before.

        Raises:
            InvalidRequest: No reason was given.
        """
        with self._change(model, actor, reason, version, explained=True) as change:
            if events.latest(change.connection, model, 1, (EventKind.PRUNED,), str(version)):
                return False
            refuse(uses(change.connection, model, version))
            before = change.standing(version)
            if before is not ReleaseStatus.YANKED:
                _yank(change, version, before)
            payload = {"version": str(version), "digest": digest, "bytes": str(size_bytes)}
            change.record(EventKind.PRUNED, str(version), payload)
        return True

    def unyank(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Makes a yanked version a candidate, even if it was released before. Returns False if it was not yanked.

        Raises:
            InvalidRequest: No reason was given, or the version was pruned.
        """
        with self._change(model, actor, reason, version, explained=True) as change:
            if change.standing(version) is not ReleaseStatus.YANKED:
                return False
            if events.latest(change.connection, model, 1, (EventKind.PRUNED,), str(version)):
                raise InvalidRequest.at("version", f"{version} of {model} was pruned: its files are gone, or about to")
            change.set_status(version, ReleaseStatus.CANDIDATE)
            change.record(EventKind.UNYANKED, str(version), {"version": str(version)})
        return True

    def set_tag(
        self, model: str, tag: str, version: Version, *, actor: str, reason: str, expect: str | None = None
    ) -> Version | None:
        """Points a tag at a version, and returns the version that it referred to before; None if the tag is new.

        The tag has at most 63 bytes; the caller must make sure that it does not parse as a version or range. `expect`
        is the version that it must refer to before: "" if the tag must not exist, None to skip the check.

        Raises:
            Conflict: The tag does not refer to the expected version; the message says to which, who set it, and why.
            InvalidRequest: The version is yanked.
        """
        check_text("tag", tag, schema.NAME_LENGTH, least=1)
        with self._change(model, actor, reason, version) as change:
            change.refuse_yanked(version)
            previous = change.tags().get(tag)
            _refuse_unexpected(change, tag, previous, expect)
            if previous == str(version):
                return version
            if previous is None:
                change.connection.execute(insert(schema.tags).values(model=model, tag=tag, version=str(version)))
            else:
                change.connection.execute(update(schema.tags).where(*_is_tag(model, tag)).values(version=str(version)))
            change.record(EventKind.TAG_SET, tag, {"tag": tag, "version": str(version), "previous": previous})
        return None if previous is None else Version.parse(previous)

    def delete_tag(self, model: str, tag: str, *, actor: str, reason: str, expect: str | None = None) -> Version:
        """Removes a tag and returns the version that it referred to. `expect` as in `set_tag`.

        Raises:
            TagNotFound: The model has no such tag; the message suggests the nearest.
            Conflict: The tag does not refer to the expected version; the message says to which, who set it, and why.
        """
        check_text("tag", tag, schema.NAME_LENGTH, least=1)
        with self._change(model, actor, reason) as change:
            known = change.tags()
            if tag not in known:
                raise TagNotFound.of(model, tag, sorted(known))
            _refuse_unexpected(change, tag, known[tag], expect)
            change.connection.execute(delete(schema.tags).where(*_is_tag(model, tag)))
            change.record(EventKind.TAG_DELETED, tag, {"tag": tag, "previous": known[tag]})
        return Version.parse(known[tag])

    def tag_history(self, model: str, tag: str) -> list[Event]:
        """Returns the last 100 changes of a tag, newest first; empty if the tag never existed."""
        with self._database.reading() as connection:
            return events.latest(connection, model, 100, _TAG_KINDS, tag)

    def answer_history(self, model: str) -> list[Event]:
        """Returns the changes of a model that may have changed which version answers, oldest first."""
        with self._database.reading() as connection:
            return events.latest(connection, model, _HISTORY, _ANSWER_KINDS)[::-1]

    @contextmanager
    def _change(
        self, model: str, actor: str, reason: str, version: Version | None = None, *, explained: bool = False
    ) -> Iterator[StateChange]:
        """Opens a transaction that can record a change of a model or its `version`. No other change runs meanwhile.

        If it is `explained`, the reason must not be empty.
        """
        check_model(model)
        if version is not None:
            check_text("version", str(version), schema.VERSION_LENGTH)
        check_text("reason", reason.strip(), schema.REASON_LENGTH, least=1 if explained else 0)
        with self._change_of_any(model, actor, reason) as change:
            yield change

    @contextmanager
    def _change_of_any(self, model: str, actor: str, reason: str) -> Iterator[StateChange]:
        """Opens such a transaction for any change; `model` is "" if the change does not concern a model."""
        check_text("actor", actor, schema.ACTOR_LENGTH)
        check_text("reason", reason, schema.REASON_LENGTH)
        with self._database.writing() as connection:
            # SQLite has no FOR UPDATE, and SQLAlchemy leaves it out there: BEGIN IMMEDIATE has locked the database.
            number = connection.execute(select(schema.revision.c.number).with_for_update()).scalar_one()
            yield StateChange(connection, int(number), model, actor, reason, self._now)


def yank_reasons(connection: Connection) -> Mapping[tuple[str, Version], str]:
    """Returns the most recent reason for which each version was yanked, whether it is yanked now or not."""
    yanks = events.latest(connection, None, None, (EventKind.YANKED,))
    return {(event.model, known_version(event.payload["version"])): event.reason for event in reversed(yanks)}


def _yank(change: StateChange, version: Version, before: ReleaseStatus) -> None:
    change.set_status(version, ReleaseStatus.YANKED)
    change.record(EventKind.YANKED, str(version), {"version": str(version), "previous": str(before)})


def uses(connection: Connection, model: str, version: Version) -> VersionUses:
    """Returns what refers to a version."""
    in_force = policies.latest(connection, model, limit=1)
    running = rollouts.latest(connection, model, _ROLLOUTS, running=True)
    query = select(schema.tags.c.tag, schema.tags.c.version).where(schema.tags.c.model == model)
    tags = sorted(row.tag for row in connection.execute(query) if Version.parse(row.version) == version)
    return VersionUses(in_force[0] if in_force else None, tuple(running), tuple(tags))


def _refuse_unexpected(change: StateChange, tag: str, is_at: str | None, expect: str | None) -> None:
    if expect is None or expect == (is_at or ""):
        return
    if is_at is None:
        raise Conflict(f"{change.model} has no tag {tag!r} now, and it was expected to name {expect}; look again")
    last = events.latest(change.connection, change.model, 1, (EventKind.TAG_SET,), tag)
    by = (last[0].actor if last else "") or "an unnamed caller"
    why = f": {shorten(last[0].reason, _REASON_QUOTED, placeholder=' ...')}" if last and last[0].reason else ""
    expected = f", not {expect}" if expect else " already"
    raise Conflict(f"the tag {tag!r} of {change.model} names {is_at}{expected} (set by {by}{why}); look again")


def _is_tag(model: str, tag: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return schema.tags.c.model == model, schema.tags.c.tag == tag
