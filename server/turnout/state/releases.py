"""The part of the state store for versions: publications, releases, signatures and tags."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from semver import Version
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.sql import ColumnElement

from turnout.errors import Conflict, InvalidRequest, TagNotFound
from turnout.registry.manifest.versions import known_version
from turnout.state import policies, rollouts
from turnout.state.change import StateChange, Transactions, check_text, set_by
from turnout.state.database import schema
from turnout.state.event_log import events
from turnout.state.event_log.events import Event, EventKind
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ModelReleaseState, ReleaseState, ReleaseStatus
from turnout.state.rollouts import RolloutRecord

_ROLLOUTS = 1000
_SIGNATURES = 10_000
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
    """

    policy: PolicyRecord | None
    rollouts: tuple[RolloutRecord, ...]
    tags: tuple[str, ...]


class ReleaseStore(Transactions):
    """Publications, releases, yanks, prunes, signatures and tags of versions.

    A change takes the `model`, the exact `version`, the `actor` (at most 256 bytes) and the `reason` (at most 1,024
    bytes). The caller must make sure that the version was published. A method that changes nothing logs nothing. Each
    raises InvalidRequest if an argument is too long; `yank`, `unyank` and `prune` also without a reason.
    """

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
            change.set_statuses({version: ReleaseStatus.RELEASED})
        return True

    def withdraw(
        self, model: str, version: Version, *, actor: str, reason: str, rollout: tuple[int, int] | None = None
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
            change.set_statuses({version: ReleaseStatus.CANDIDATE})
        return True

    def yank(
        self, model: str, version: Version, *, actor: str, reason: str, refuse: Callable[[VersionUses], None]
    ) -> ReleaseStatus:
        """Yanks a version and returns its previous release status.

        `refuse` raises if a use of the version forbids it; what it receives is locked until the change is made. Clients
        that pin the version see the reason.
        """
        with self._change(model, actor, reason, version, explained=True) as change:
            before = change.standing(version)
            if before is not ReleaseStatus.YANKED:
                refuse(_uses(change.connection, model, version))
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
        """
        with self._change(model, actor, reason, version, explained=True) as change:
            if events.latest(change.connection, model, 1, (EventKind.PRUNED,), str(version)):
                return False
            refuse(_uses(change.connection, model, version))
            before = change.standing(version)
            if before is not ReleaseStatus.YANKED:
                _yank(change, version, before)
            payload = {"version": str(version), "digest": digest, "bytes": str(size_bytes)}
            change.record(EventKind.PRUNED, str(version), payload)
        return True

    def unyank(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Makes a yanked version a candidate, even if it was released before. Returns False if it was not yanked.

        Raises:
            InvalidRequest: The version was pruned.
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

    def release_state(self) -> ReleaseState:
        """Returns the release status and tags of all models, as of one revision."""
        statuses: defaultdict[str, dict[Version, ReleaseStatus]] = defaultdict(dict)
        tags: defaultdict[str, dict[str, Version]] = defaultdict(dict)
        reasons: defaultdict[str, dict[Version, str]] = defaultdict(dict)
        digests: defaultdict[str, dict[Version, str]] = defaultdict(dict)
        pruned: defaultdict[str, set[Version]] = defaultdict(set)
        with self._database.reading() as connection:
            number = int(connection.execute(select(schema.revision.c.number)).scalar_one())
            for row in connection.execute(select(schema.standings)):
                statuses[row.model][known_version(row.version)] = ReleaseStatus(row.standing)
            for row in connection.execute(select(schema.tags)):
                tags[row.model][row.tag] = known_version(row.version)
            for event in reversed(events.latest(connection, None, None, (EventKind.YANKED, EventKind.PRUNED))):
                version = known_version(event.payload["version"])
                if event.kind == EventKind.PRUNED:
                    pruned[event.model].add(version)
                elif statuses.get(event.model, {}).get(version) is ReleaseStatus.YANKED:
                    reasons[event.model][version] = event.reason  # the most recent yank's
            for (model, text), digest in _published(connection).items():
                digests[model][known_version(text)] = digest
        models = {
            model: ModelReleaseState(
                statuses[model], tags[model], reasons[model], digests[model], frozenset(pruned[model])
            )
            for model in statuses.keys() | tags.keys() | digests.keys()
        }
        return ReleaseState(number, models)

    def published(self) -> Mapping[tuple[str, str], str]:
        """Returns the digest of every version whose publication was recorded, by model and version."""
        with self._database.reading() as connection:
            return _published(connection)

    def publish_times(self) -> Mapping[tuple[str, str], datetime]:
        """Returns when the publication of each version was last recorded, in UTC, by model and version."""
        columns = schema.events.c
        query = select(columns.model, columns.subject, func.max(columns.time).label("time"))
        query = query.where(columns.kind == str(EventKind.PUBLISHED)).group_by(columns.model, columns.subject)
        with self._database.reading() as connection:
            return {(row.model, row.subject): datetime.fromisoformat(row.time) for row in connection.execute(query)}

    def uses(self, model: str, version: Version) -> VersionUses:
        """Returns what refers to a version."""
        with self._database.reading() as connection:
            return _uses(connection, model, version)


def _published(connection: Connection) -> Mapping[tuple[str, str], str]:
    columns = schema.events.c
    query = select(columns.model, columns.payload).where(columns.kind == str(EventKind.PUBLISHED)).order_by(columns.id)
    payloads = [(row.model, json.loads(row.payload)) for row in connection.execute(query)]
    return {(model, payload["version"]): payload["digest"] for model, payload in payloads}


def _yank(change: StateChange, version: Version, before: ReleaseStatus) -> None:
    change.set_status(version, ReleaseStatus.YANKED)
    change.record(EventKind.YANKED, str(version), {"version": str(version), "previous": str(before)})


def _uses(connection: Connection, model: str, version: Version) -> VersionUses:
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
    by = set_by(last[0].actor, last[0].reason) if last else set_by("", "")
    expected = f", not {expect}" if expect else " already"
    raise Conflict(f"the tag {tag!r} of {change.model} names {is_at}{expected} ({by}); look again")


def _is_tag(model: str, tag: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return schema.tags.c.model == model, schema.tags.c.tag == tag
