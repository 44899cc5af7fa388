"""The provenance of a version, as its publisher states it. Without side effects.

It is part of the manifest, and so covered by the version's digest. A version without provenance has the same digest as
before Turnout supported it.
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
"""Maximum number of data sets, parents, hyperparameters and metrics, each."""


@dataclass(frozen=True, slots=True)
class PinnedSource(JsonForm):
    """Something stored elsewhere, identified by its digest.

    Attributes:
        name: Name for people.
        digest: SHA-256 of its content, `sha256:...`.
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
        commit: Full hash of the code's commit; "" if not given.
        hyperparameters: Hyperparameters by name, as JSON values.
        seed: Seed of the random numbers; None if not given.
        metrics: Metrics by name, as measured by the training.
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
            raise ValueError("datasets: a name is used twice")
        for what, count in (
            ("datasets", len(names)), ("hyperparameters", len(self.hyperparameters)), ("metrics", len(self.metrics)),
        ):  # fmt: skip
            if count > MAX_ITEMS:
                raise ValueError(f"{what}: expected at most {MAX_ITEMS}")


@dataclass(frozen=True, slots=True)
class Provenance(JsonForm):
    """Where a version comes from.

    Attributes:
        lock: Lock file of the packages that it was trained with; None if not given.
        environment: Environment that it is made for, as ranges.
        parents: Versions that it was made from, as `NAME@VERSION` or digests.
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
        """Returns the JSON form, which `publish --meta` accepts too. Values that were not given are left out."""
        body = fields_to_json(self)
        if "lock" in body:
            body["dependencies"] = {"lock": body.pop("lock")}
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads the JSON form.

        Raises:
            ValueError, KeyError, TypeError: The body is not a form that `to_json` writes.
        """
        return fields_from_json(cls, {**body, **body.get("dependencies", {})})
