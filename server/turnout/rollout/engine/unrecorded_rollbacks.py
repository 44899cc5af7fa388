"""Rollbacks that are in force but not recorded yet, kept in memory, and in a file so that they survive a restart.

A store that is locked or unavailable delays the record of a rollback, but never the rollback itself. Each diversion is
a small file in the repository, which every server and worker that shares the repository and the state store reads at
startup and twice a second. So a rollback reaches them even if the store does not respond. The file is deleted at once
if the rollback was overridden. When the rollback is recorded, the file says so and is kept for some minutes, for
servers that are cut off from the store and do not know the record yet.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.registry.storage.files import replace_file, sync_directory
from turnout.rollout.changes.model_snapshot import RollbackOrigin
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.machine.attempt import RolloutState
from turnout.threads import Threads

_DIRECTORY = Path(".turnout", "diverted")

_RECORDED_SECONDS, _RECORDED_UNSEEN_SECONDS = 600.0, 5.0


@dataclass(frozen=True, slots=True)
class Diversion(JsonForm):
    """A rollback that is in force but not recorded yet.

    Attributes:
        to: Version that answers all requests that the policy would decide on.
        since: State that the rollback was based on. A later change of it by an operator overrides the rollback.
        attempt: Rollout that is rolled back; 0 for a rollback by hand.
        actor: Who requested it; "" for the rollout itself.
        withdrawn: Versions that count as not released.
        keep_released: As in a rollback by hand.
        recorded: Epoch of the policy when the rollback was found to be recorded; None if it is not recorded yet.
        cause: For a rollout: what rolled the candidate back, as in `Rollout`.
        end: For a rollout: its final state.
    """

    model: str
    to: Version
    since: RollbackOrigin
    attempt: int
    actor: str
    reason: str
    began: datetime
    withdrawn: tuple[Version, ...] = ()
    keep_released: bool = False
    recorded: int | None = None
    cause: str = ""
    end: RolloutState = RolloutState.ROLLED_BACK

    ADDED = ("withdrawn", "recorded", "cause", "end")

    @property
    def sentence(self) -> str:
        """Description of the rollback for display."""
        by = f"by {self.actor}" if self.actor else f"of attempt {self.attempt}"
        return (
            f"{self.to} answers everything since {self.began:%H:%M:%S} UTC: a rollback {by} is in force but not "
            f"recorded yet ({self.reason})"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which its file contains it: the origin's fields, and `since` for when it began."""
        body = fields_to_json(self)
        origin, began = body.pop("since"), body.pop("began")
        return {**body, **origin, "since": began}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Parses the output of `to_json`.

        Raises:
            ValueError: The document is not in that form.
        """
        try:
            return fields_from_json(cls, {**body, "began": body["since"], "since": body})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a diversion: {type(error).__name__} {error}") from error


class DiversionFiles:
    """The files of diversions in the repository, one for each model. Blocking."""

    def __init__(self, root: Path, state: str, log: FilteringBoundLogger) -> None:
        """Creates the object without reading anything.

        `state` is the URL of the state store: servers with another store do not share rollbacks.
        """
        self._directory = root / _DIRECTORY / hashlib.sha256(state.encode()).hexdigest()[:16]
        self._log = log
        self._unreadable: set[str] = set()

    def read(self) -> Sequence[Diversion]:
        """Returns the diversions in the files, and deletes those that were recorded long enough ago."""
        found: list[Diversion] = []
        try:
            names = sorted(entry.name for entry in os.scandir(self._directory) if entry.name.endswith(".json"))
        except FileNotFoundError:
            return found
        for name in names:
            try:
                with (self._directory / name).open("rb") as file:
                    age, body = time.time() - os.fstat(file.fileno()).st_mtime, json.load(file)
                if not isinstance(body, dict):
                    raise ValueError("not a JSON object")
                diversion = Diversion.from_json(body)
                if diversion.recorded is not None and age > _kept_seconds(diversion):
                    self.remove(diversion.model)
                    continue
            except FileNotFoundError:
                continue
            except ValueError as error:
                if name not in self._unreadable:
                    self._unreadable.add(name)
                    self._log.error("an unrecorded rollback cannot be read", file=name, reason=str(error))
                continue
            found.append(diversion)
        return found

    def write(self, diversion: Diversion) -> None:
        """Writes the file of a diversion, which replaces an earlier one of the model."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._directory / f"{diversion.model}.json", json.dumps(diversion.to_json()).encode())
        sync_directory(self._directory)

    def remove(self, model: str) -> None:
        """Deletes the file of a model's diversion."""
        with contextlib.suppress(FileNotFoundError):
            (self._directory / f"{model}.json").unlink()
            sync_directory(self._directory)


def _kept_seconds(diversion: Diversion) -> float:
    """Returns how long a file is kept after its rollback is recorded: briefly if no epoch shows who knows it."""
    return _RECORDED_SECONDS if diversion.recorded != diversion.since.epoch else _RECORDED_UNSEEN_SECONDS


class Diversions:
    """The rollbacks that are in force but not recorded. Used only on the event loop."""

    def __init__(self, serving: LocalServing, journal: "DiversionFiles", log: FilteringBoundLogger) -> None:
        """Creates the object. No rollback is known before `follow`."""
        self._serving = serving
        self._journal = journal
        self._log = log
        self._threads = Threads("diversions")
        self._current: dict[str, Diversion] = {}
        self._adopted: set[str] = set()
        self._changes = 0

    @property
    def current(self) -> Sequence[Diversion]:
        """The diversions in force, one for each model that has one."""
        return list(self._current.values())

    def begin(self, diversion: Diversion) -> None:
        """Applies a diversion at once, and saves it in the background."""
        known = self._current.get(diversion.model)
        self._serving.divert(diversion.model, diversion.to, diversion.withdrawn)
        if known is not None and replace(diversion, reason=known.reason, began=known.began) == known:
            return
        self._current[diversion.model] = diversion
        self._adopted.discard(diversion.model)
        self._changes += 1
        self._log.info("a rollback is in force, but not recorded yet", model=diversion.model, what=diversion.sentence)
        self._keep(lambda: self._journal.write(diversion), diversion.model)

    def end(self, model: str, recorded: int | None = None) -> None:
        """Ends a diversion, so that the policy decides again.

        The rollback is recorded with the epoch `recorded` of the policy; None if it will never be recorded.
        """
        diversion = self._current.pop(model, None)
        if diversion is None:
            return
        self._changes += 1
        self._adopted.discard(model)
        self._serving.undivert(model)
        if recorded is None:
            self._keep(lambda: self._journal.remove(model), model)
        elif diversion.recorded is None:
            self._keep(lambda: self._journal.write(replace(diversion, recorded=recorded)), model)

    async def follow(
        self, overruled: Callable[[Diversion], bool], knows_record: Callable[[Diversion], bool]
    ) -> Sequence[Diversion]:
        """Applies diversions of other servers, or of this one before a restart.

        Those that were overruled by a later change are dropped, and those whose record this server knows are left out.

        Returns:
            Diversions of others that are recorded by now. They end when the recorded state is applied here.
        """
        changes = self._changes
        try:
            kept = {one.model: one for one in await self._threads.run(self._journal.read)}
        except OSError as error:
            self._log.warning("diversions of other servers cannot be read", reason=str(error))
            return ()
        if changes != self._changes:
            return ()  # changed in the meantime, so the files that were read are out of date
        for model, diversion in kept.items():
            if model in self._current or (diversion.recorded is not None and knows_record(diversion)):
                continue
            if overruled(diversion):
                self._log.warning(
                    "an unrecorded rollback is dropped: the version that answers was changed since",
                    model=model, what=diversion.sentence,
                )  # fmt: skip
                self._keep(partial(self._journal.remove, model), model)
                continue
            self._current[model] = diversion
            self._adopted.add(model)
            self._serving.divert(model, diversion.to, diversion.withdrawn)
            self._log.warning("an unrecorded rollback is in force here too", model=model, what=diversion.sentence)
        return [
            one for model, one in self._current.items()
            if model in self._adopted and (model not in kept or kept[model].recorded is not None)
        ]  # fmt: skip

    def close(self) -> None:
        """Waits until everything is saved."""
        self._threads.shutdown(wait=True, cancel_futures=False)

    def _keep(self, change: Callable[[], None], model: str) -> None:
        def keep() -> None:
            try:
                change()
            except OSError as error:
                self._log.error(
                    "an unrecorded rollback cannot be saved, so a restart would lose it",
                    model=model, reason=error.strerror,
                )  # fmt: skip

        self._threads.submit(keep)
