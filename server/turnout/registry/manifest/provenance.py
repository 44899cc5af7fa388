"""Where a version comes from, as its publisher states it. Pure.

It stands in the manifest, so a version's digest covers it. A version that says nothing has the same digest as before
there was anything to say.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from turnout.registry.manifest.environment import NAMES, Environment, check_range
from turnout.registry.manifest.names import MODEL_NAME

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PARENT = re.compile(rf"{MODEL_NAME.pattern}@[0-9A-Za-z.+-]{{5,128}}")

MAX_ITEMS = 1000
"""Data sets, parents, hyperparameters and metrics, of each."""


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """Something that lies elsewhere, pinned by its digest.

    Attributes:
        name: As people call it.
        digest: `sha256:` of its bytes.
    """

    name: str
    digest: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty")
        if not DIGEST.fullmatch(self.digest):
            raise ValueError(f"digest is {self.digest[:80]!r}, expected sha256: and 64 hex digits")

    def to_json(self) -> dict[str, str]:
        """Returns the JSON form."""
        return {"name": self.name, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Training:
    """How a version was trained.

    Attributes:
        datasets: On what.
        commit: Full hash of the code's commit, "" where it is not said.
        hyperparameters: By name, as JSON values.
        seed: Of the random numbers.
        metrics: By name, as the training measured them.
    """

    datasets: tuple[PinnedSource, ...] = ()
    commit: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.commit and not COMMIT.fullmatch(self.commit):
            raise ValueError(f"commit is {self.commit[:80]!r}, expected the full hash, 40 or 64 hex digits")
        names = [one.name for one in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError("datasets: a name stands twice")
        for what, count in (
            ("datasets", len(names)), ("hyperparameters", len(self.hyperparameters)), ("metrics", len(self.metrics)),
        ):  # fmt: skip
            if count > MAX_ITEMS:
                raise ValueError(f"{what}: expected at most {MAX_ITEMS}")

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form; what is not said is left out."""
        body: dict[str, Any] = {
            "datasets": [one.to_json() for one in self.datasets],
            "commit": self.commit,
            "hyperparameters": dict(self.hyperparameters),
            "metrics": dict(self.metrics),
        }
        entries = {name: value for name, value in body.items() if value}
        return entries if self.seed is None else entries | {"seed": self.seed}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version comes from.

    Attributes:
        training: How it was trained.
        lock: The lock file of what it was trained with.
        environment: What it was made to run with, as ranges.
        parents: What it was made from: `NAME@VERSION` or a digest.
    """

    training: Training = field(default_factory=Training)
    lock: PinnedSource | None = None
    environment: Environment = field(default_factory=Environment)
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in NAMES:
            if text := getattr(self.environment, name):
                check_range(text)
        if len(self.parents) > MAX_ITEMS:
            raise ValueError(f"parents: expected at most {MAX_ITEMS}")
        for parent in self.parents:
            if not _PARENT.fullmatch(parent) and not DIGEST.fullmatch(parent):
                raise ValueError(f"parent {parent[:80]!r} is neither NAME@VERSION nor sha256: and 64 hex digits")

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form, which is also how `publish --meta` takes it; what is not said is left out."""
        body: dict[str, Any] = {
            "training": self.training.to_json(),
            "dependencies": {} if self.lock is None else {"lock": self.lock.to_json()},
            "environment": self.environment.to_json(),
            "parents": list(self.parents),
        }
        return {name: value for name, value in body.items() if value}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: It did not write that.
        """
        training = body.get("training", {})
        lock = body.get("dependencies", {}).get("lock")
        return cls(
            Training(
                tuple(PinnedSource(one["name"], one["digest"]) for one in training.get("datasets", ())),
                training.get("commit", ""),
                dict(training.get("hyperparameters", {})),
                training.get("seed"),
                dict(training.get("metrics", {})),
            ),
            None if lock is None else PinnedSource(lock["name"], lock["digest"]),
            Environment.from_json(body.get("environment", {})),
            tuple(body.get("parents", ())),
        )
