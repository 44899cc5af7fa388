"""Rollbacks that are in force and not on record yet: held in memory, and in a file so that a restart keeps them.

A store that is locked or away delays the record of a rollback, never the rollback. Each diversion is a small file in
the repository, read at the start and twice a second by every server and worker that shares the repository and the
state store; so a rollback reaches them although the store does not answer. The file goes at once if somebody has
decided otherwise since. Once the rollback is on record it says so and stays for some minutes: a server that is cut off
from the store has not heard of that record.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.rollout.changes.model_snapshot import RollbackOrigin
from turnout.rollout.engine.ports import LiveState
from turnout.rollout.machine.attempt import RolloutState
from turnout.threads import Threads

_DIRECTORY = Path(".turnout", "diverted")

_RECORDED_SECONDS, _RECORDED_UNSEEN_SECONDS = 600.0, 5.0


@dataclass(frozen=True, slots=True)
class Diversion:
    """A rollback that is in force and not on record yet.

    Attributes:
        to: The version that answers everything that is left to the policy.
        since: Who answered before; somebody else's decision since then ends it.
        attempt: The rollout that is rolled back; 0 for a rollback by hand.
        actor: Who asked; "" for the rollout itself.
        reason: Why.
        began: Since when.
        withdrawn: Versions that count as not released.
        keep_released: As of a rollback by hand.
        recorded: Epoch of the policy with which it was on record; None: it is not yet.
        cause: Of a rollout's: what took the candidate back, as in `Rollout`.
        end: Of a rollout's: what it ends as.
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

    @property
    def sentence(self) -> str:
        """What it does, for people."""
        by = f"by {self.actor}" if self.actor else f"of attempt {self.attempt}"
        return (
            f"{self.to} answers everything since {self.began:%H:%M:%S} UTC: a rollback {by} is in force and not on "
            f"record yet ({self.reason})"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the form that its file holds."""
        return {
            "model": self.model, "to": str(self.to), "epoch": self.since.epoch, "attempt": self.attempt,
            "actor": self.actor, "reason": self.reason, "since": self.began.isoformat(),
            "answering": None if self.since.answering is None else str(self.since.answering),
            "withdrawn": [str(version) for version in self.withdrawn], "keep_released": self.keep_released,
            "recorded": self.recorded, "cause": self.cause, "end": str(self.end),
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It did not write that.
        """
        try:
            answering = body.get("answering")  # an earlier release wrote none of what `get` reads
            since = RollbackOrigin(int(body["epoch"]), None if answering is None else Version.parse(answering))
            return cls(
                str(body["model"]), Version.parse(body["to"]), since, int(body["attempt"]), str(body["actor"]),
                str(body["reason"]), datetime.fromisoformat(body["since"]),
                tuple(map(Version.parse, body.get("withdrawn", ()))), bool(body["keep_released"]),
                None if body.get("recorded") is None else int(body["recorded"]),
                str(body.get("cause", "")), RolloutState(body.get("end", RolloutState.ROLLED_BACK)),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a diversion: {type(error).__name__} {error}") from error


class DiversionFiles:
    """A file for each model, in the repository; blocking."""

    def __init__(self, root: Path, state: str, log: FilteringBoundLogger) -> None:
        """Reads nothing yet.

        Args:
            root: Of the repository.
            state: URL of the state store: servers with another one have nothing to do with this one's rollbacks.
            log: Where a file that cannot be read is reported.
        """
        self._directory = root / _DIRECTORY / hashlib.sha256(state.encode()).hexdigest()[:16]
        self._log = log
        self._own = secrets.token_hex(8)  # servers in containers all have the same process id
        self._unreadable: set[str] = set()

    def read(self) -> Sequence[Diversion]:
        """Returns those that are in force."""
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
                    self._log.error("a rollback that is not on record cannot be read", file=name, reason=str(error))
                continue
            found.append(diversion)
        return found

    def write(self, diversion: Diversion) -> None:
        """Keeps one, in place of the model's earlier one."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._directory / f"{diversion.model}.{self._own}.partial"
        with partial.open("w") as file:
            json.dump(diversion.to_json(), file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._directory / f"{diversion.model}.json")
        self._sync()

    def remove(self, model: str) -> None:
        """Forgets the model's."""
        with contextlib.suppress(FileNotFoundError):
            (self._directory / f"{model}.json").unlink()
            self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _kept_seconds(diversion: Diversion) -> float:
    """Returns for how long a file stays once its rollback is on record: short, if no epoch tells who knows of it."""
    return _RECORDED_SECONDS if diversion.recorded != diversion.since.epoch else _RECORDED_UNSEEN_SECONDS


class Diversions:
    """The rollbacks in force that are not on record. Used on the event loop only."""

    def __init__(self, serving: LiveState, journal: "DiversionFiles", log: FilteringBoundLogger) -> None:
        """Knows of none before `follow`.

        Args:
            serving: Has them in force.
            journal: Keeps them.
            log: Where they are reported.
        """
        self._serving = serving
        self._journal = journal
        self._log = log
        self._threads = Threads("diversions")
        self._current: dict[str, Diversion] = {}
        self._adopted: set[str] = set()
        self._changes = 0

    @property
    def current(self) -> Sequence[Diversion]:
        """Those in force, by model."""
        return list(self._current.values())

    def of(self, model: str) -> Diversion | None:
        """Returns the model's; None if its policy holds."""
        return self._current.get(model)

    def begin(self, diversion: Diversion) -> None:
        """Applies one at once, and saves it soon."""
        known = self._current.get(diversion.model)
        self._serving.divert(diversion.model, diversion.to, diversion.withdrawn)
        if known is not None and replace(diversion, reason=known.reason, began=known.began) == known:
            return
        self._current[diversion.model] = diversion
        self._adopted.discard(diversion.model)
        self._changes += 1
        self._log.info("a rollback is in force before it is on record", model=diversion.model, what=diversion.sentence)
        self._keep(lambda: self._journal.write(diversion), diversion.model)

    def end(self, model: str, recorded: int | None = None) -> None:
        """Lets the policy decide again.

        Args:
            model: Its model.
            recorded: Epoch of the policy with which the rollback was on record; None: it never will be.
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
        self, overruled: Callable[[Diversion], bool], heard: Callable[[Diversion], bool]
    ) -> Sequence[Diversion]:
        """Takes up what other servers, or this one before a restart, have diverted.

        Args:
            overruled: Tells whether somebody has decided otherwise since.
            heard: Tells whether it is known here that it is on record.

        Returns:
            Diversions that others began and that are on record by now: they end once that was followed here.
        """
        changes = self._changes
        try:
            kept = {one.model: one for one in await self._threads.run(self._journal.read)}
        except OSError as error:
            self._log.warning("diversions of other servers cannot be read", reason=str(error))
            return ()
        if changes != self._changes:
            return ()  # it changed meanwhile: what was read is old
        for model, diversion in kept.items():
            if model in self._current or (diversion.recorded is not None and heard(diversion)):
                continue
            if overruled(diversion):
                self._log.warning(
                    "a rollback that was not on record is dropped: somebody has changed who answers since",
                    model=model, what=diversion.sentence,
                )  # fmt: skip
                self._keep(partial(self._journal.remove, model), model)
                continue
            self._current[model] = diversion
            self._adopted.add(model)
            self._serving.divert(model, diversion.to, diversion.withdrawn)
            self._log.warning("a rollback that is not on record holds here too", model=model, what=diversion.sentence)
        return [
            one for model, one in self._current.items()
            if model in self._adopted and (model not in kept or kept[model].recorded is not None)
        ]  # fmt: skip

    def close(self) -> None:
        """Waits until all is kept."""
        self._threads.shutdown(wait=True, cancel_futures=False)

    def _keep(self, change: Callable[[], None], model: str) -> None:
        def keep() -> None:
            try:
                change()
            except OSError as error:
                self._log.error(
                    "a rollback that is not on record would be forgotten by a restart: it cannot be kept",
                    model=model, reason=error.strerror,
                )  # fmt: skip

        self._threads.submit(keep)
