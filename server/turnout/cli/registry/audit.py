"""Audits the log for `turnout verify`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rich.text import Text

from turnout.cli.workspace import Workspace
from turnout.errors import ConfigError, UnavailableError
from turnout.registry.storage.listing import Listing, Published
from turnout.releases.adoption import adopt, unrecorded
from turnout.state.audit import Audit
from turnout.state.event_log.chain import Head
from turnout.state.store import StateStore
from turnout.text.quantities import count_text


@dataclass(frozen=True, slots=True)
class LogAudit:
    """The result of auditing the log.

    Attributes:
        audit: Audit of the state store; None if there is no store.
        recorded: Versions that had no event and were recorded by this audit.
        unrecorded: Versions that have no event and could not be recorded.
        gone: Versions that were published and never yanked, but are missing from the repository.
    """

    audit: Audit | None
    recorded: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @classmethod
    def of(cls, workspace: Workspace, listing: Listing, kept: Head | None, actor: str) -> Self:
        """Reads the log, and records versions that are missing from it.

        Raises:
            ConfigError, UnavailableError: The state store cannot be used.
        """
        if not workspace.has_store():
            if kept is not None:
                raise ConfigError(f"there is no state store at {workspace.state_url}, so no log to check")
            return cls(None)
        with workspace.store() as store:
            before = store.audit(kept)
            recorded: tuple[str, ...] = ()
            left: tuple[str, ...] = ()
            if not before.chain.faults:  # a broken chain is evidence; nothing is added to it
                recorded, left = _record(workspace, store, actor)
            audit = store.audit(kept) if recorded else before
            release_state = store.release_state()
        there = {(p.manifest.model, str(p.manifest.version)) for p in listing.published}
        there |= {(problem.model, problem.version) for problem in listing.problems}
        yanked = {(model, str(version)) for model, its in release_state.models.items() for version in its.yanked}
        gone = sorted(
            f"{model} {version}"
            for model, version in audit.published.keys() - there
            if (model, version.partition("+")[0]) not in yanked
        )
        return cls(audit, recorded, left, tuple(gone))

    @property
    def published(self) -> Mapping[tuple[str, str], str]:
        """Digests in the log, by model and version."""
        return {} if self.audit is None else self.audit.published

    @property
    def ok(self) -> bool:
        """Whether the log is intact, and the other tables of the store and the repository agree with it."""
        return self.audit is None or not (self.audit.chain.faults or self.audit.differences or self.gone)

    def to_json(self) -> dict[str, Any] | None:
        """Returns the JSON form; None if there is no store."""
        if self.audit is None:
            return None
        chain = self.audit.chain
        return {
            "ok": self.ok,
            "events": chain.events,
            "head": {"revision": chain.head.revision, "hash": chain.head.hash},
            "faults": [{"event": fault.event, "what": fault.what} for fault in chain.faults],
            "differences": list(self.audit.differences),
            "gone": list(self.gone),
            "recorded": list(self.recorded),
            "unrecorded": list(self.unrecorded),
        }

    def lines(self) -> list[Text]:
        """Returns the lines to print, one for each finding."""
        if self.audit is None:
            return [Text("\nno log: there is no state store")]
        chain = self.audit.chain
        broken = Text("broken", "bold red") if not self.ok else Text("ok", "green")
        lines = [Text.assemble("\nlog   ", broken, f"   {count_text(chain.events, 'event')}, head {chain.head}")]
        lines += [Text(f"  event {fault.event} {fault.what}") for fault in chain.faults]
        lines += [Text(f"  {difference}") for difference in self.audit.differences]
        lines += [Text(f"  {version} was published, but is not in the repository") for version in self.gone]
        lines += [Text(f"  {version} was not recorded by its publisher; it is now") for version in self.recorded]
        lines += [Text(f"  {version} is not recorded, and could not be now") for version in self.unrecorded]
        return lines


def _record(workspace: Workspace, store: StateStore, actor: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        return tuple(_name(found) for found in adopt(workspace.repository, store, actor=actor)), ()
    except (OSError, UnavailableError):  # a read-only repository or store
        return (), tuple(_name(found) for found in unrecorded(workspace.repository, store))


def _name(found: Published) -> str:
    return f"{found.manifest.model} {found.manifest.version}"
