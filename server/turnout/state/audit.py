"""Checks the state store's tables against its event log, by replaying the log."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semver import Version
from sqlalchemy import Connection, select

from turnout.state import policies, tokens
from turnout.state.change import version_key
from turnout.state.database import schema
from turnout.state.event_log import chain
from turnout.state.event_log.chain import ChainReport, Head
from turnout.state.event_log.events import EventKind

_TOLD = 20


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of reading the whole log.

    Attributes:
        differences: Differences between the log and the other tables, as sentences; at most the first twenty.
        published: Digest of every version whose publication was recorded, by model and version.
    """

    chain: ChainReport
    differences: tuple[str, ...]
    published: Mapping[tuple[str, str], str]


@dataclass(slots=True)
class _LogReplay:
    standings: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    policies: dict[tuple[str, str], str] = field(default_factory=dict)
    published: dict[tuple[str, str], str] = field(default_factory=dict)
    rollouts: dict[tuple[str, str], str | None] = field(default_factory=dict)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def visit(self, row: Mapping[str, Any]) -> None:
        try:
            self._take(row["model"], row["kind"], json.loads(row["payload"]))
        except (ValueError, KeyError, TypeError):
            self.unread.append(f"event {row['id']} has a payload that does not fit its kind")

    def _take(self, model: str, kind: str, payload: Mapping[str, Any]) -> None:
        match kind:
            case EventKind.RELEASED | EventKind.YANKED:
                self.standings[model, version_key(Version.parse(payload["version"]))] = kind
            case EventKind.UNYANKED | EventKind.WITHDRAWN:
                self.standings.pop((model, version_key(Version.parse(payload["version"]))), None)
            case EventKind.TAG_SET:
                self.tags[model, payload["tag"]] = payload["version"]
            case EventKind.TAG_DELETED:
                self.tags.pop((model, payload["tag"]), None)
            case EventKind.POLICY_CHANGED:
                self.policies[model, str(payload["epoch"])] = policies.text(payload["document"])
            case EventKind.ROLLOUT:
                key = (model, str(payload["attempt"]))
                self.rollouts[key] = payload.get("state", self.rollouts.get(key))
            case EventKind.PUBLISHED:
                self.published[model, payload["version"]] = payload["digest"]
            case EventKind.TOKEN_CREATED:
                self.tokens[payload["name"], payload["id"]] = _token_text(payload)
            case EventKind.TOKEN_REVOKED:
                key = payload["name"], payload["id"]
                self.tokens[key] = f"revoked {self.tokens.get(key, '')}"


def read(connection: Connection, kept: Head | None) -> Audit:
    """Reads the log and the tables. Call it in a transaction with a consistent snapshot."""
    replay = _LogReplay()
    report = chain.check(connection, kept, replay.visit)
    standings, tags, epochs = schema.standings, schema.tags, schema.policies
    token_texts = {
        (one.name, one.id): f"{'revoked ' if one.revoked else ''}{_token_text(tokens.described(one))}"
        for one in tokens.read(connection)
    }
    found = list(replay.unread)
    for name, by_log, by_table in (
        ("{} {}", replay.standings, {(r.model, r.version): r.standing for r in connection.execute(select(standings))}),
        ("the tag {1} of {0}", replay.tags, {(r.model, r.tag): r.version for r in connection.execute(select(tags))}),
        (
            "epoch {1} of the policy of {0}",
            replay.policies,
            {(r.model, str(r.epoch)): r.document for r in connection.execute(select(epochs))},
        ),
        ("the token {1} of {0}", replay.tokens, token_texts),
    ):
        for key in sorted(by_log.keys() | by_table.keys()):
            logged, stored = by_log.get(key), by_table.get(key)
            if logged != stored:
                found.append(f"{name.format(*key)} is {_short(stored)} in the store, but {_short(logged)} in the log")
    found += _rollouts(connection, replay.rollouts)
    return Audit(report, tuple(found[:_TOLD]), replay.published)


def _token_text(payload: Mapping[str, Any]) -> str:
    """Returns the fields of a token on which the log and the store must agree."""
    return policies.text({key: payload[key] for key in ("roles", "models", "expires", "fingerprint")})


def _rollouts(connection: Connection, by_log: Mapping[tuple[str, str], str | None]) -> list[str]:
    """Compares attempts and their states. Events written by earlier releases have no state."""
    table = schema.rollouts.c
    rows = connection.execute(select(table.model, table.attempt, table.state))
    stored = {(row.model, str(row.attempt)): row.state for row in rows}
    found = []
    for key in sorted(by_log.keys() | stored.keys()):
        logged, is_in = by_log.get(key), stored.get(key)
        name = f"attempt {key[1]} of a rollout of {key[0]}"
        if is_in is None:
            found.append(f"{name} is missing from the store, but is in the log")
        elif logged != is_in and (logged is not None or key not in by_log):
            found.append(f"{name} is {_short(is_in)} in the store, but {_short(logged)} in the log")
    return found


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= 80 else f"{text[:77]}..."
