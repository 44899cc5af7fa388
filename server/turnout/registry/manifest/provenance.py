"""Where a version comes from, as its publisher states it. Pure.

It stands in the manifest, so a version's digest covers it. A version that says nothing has the same digest as before
there was anything to say.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from turnout.registry.manifest.environment import NAMES, Environment, check_range
from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.registry.manifest.names import MODEL_NAME

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PARENT = re.compile(rf"{MODEL_NAME.pattern}@[0-9A-Za-z.+-]{{5,128}}")

MAX_ITEMS = 1000
"""Data sets, parents, hyperparameters and metrics, of each."""


@dataclass(frozen=True, slots=True)
class PinnedSource(JsonForm):
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


@dataclass(frozen=True, slots=True)
class Training(JsonForm):
    """How a version was trained.

    Attributes:
        commit: Full hash of the code's commit, "" if it is not said.
        hyperparameters: By name, as JSON values.
        seed: Of the random numbers.
        metrics: By name, as the training measured them.
    """

    datasets: tuple[PinnedSource, ...] = ()
    commit: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    OMIT_DEFAULTS = True

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


@dataclass(frozen=True, slots=True)
class Provenance(JsonForm):
    """Where a version comes from.

    Attributes:
        lock: The lock file of what it was trained with.
        environment: What it was made to run with, as ranges.
        parents: What it was made from: `NAME@VERSION` or a digest.
    """

    training: Training = field(default_factory=Training)
    lock: PinnedSource | None = None
    environment: Environment = field(default_factory=Environment)
    parents: tuple[str, ...] = ()

    OMIT_DEFAULTS = True

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
        body = fields_to_json(self)
        if "lock" in body:
            body["dependencies"] = {"lock": body.pop("lock")}
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: It did not write that.
        """
        return fields_from_json(cls, {**body, **body.get("dependencies", {})})
