"""What `gates.toml` may ask of the gates: one for the whole repository at its root, one in a model's directory.

A model's plan holds over the repository's, key by key, and both over the defaults, under which a plain `publish` with
neither metadata nor golden cases passes.

    [metadata]
    required = ["description", "licence"]

    [golden]
    top1_min = 0.98

    [latency]
    on_failure = "refuse"
    p50_ratio_max = 1.2
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from turnout.errors import ConfigError
from turnout.registry.storage.files import explain, read_small

PLAN_FILE = "gates.toml"
MAX_PLAN_BYTES = 1 << 16


class OnFailure(StrEnum):
    """What happens to a candidate that fails a gate."""

    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"
    """The gate does not run."""


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """Of the gate `metadata`.

    Attributes:
        required: Names of what a publisher has to state: description, authors, licence, notes, labels, preprocessing,
            batching, tolerances, scores, golden, or any name among the free metadata.
    """

    on_failure: OnFailure = OnFailure.REFUSE
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BumpOptions:
    """Of the gate `bump`."""

    on_failure: OnFailure = OnFailure.REFUSE


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Of the gate `load`.

    Attributes:
        seconds_max: Longest that loading may take; 0.0 for no bound but the sandbox's own.
    """

    on_failure: OnFailure = OnFailure.REFUSE
    seconds_max: float = 0.0


@dataclass(frozen=True, slots=True)
class DeterminismOptions:
    """Of the gate `determinism`: it warns by default, since a model may be meant to draw random numbers."""

    on_failure: OnFailure = OnFailure.WARN


@dataclass(frozen=True, slots=True)
class BatchabilityOptions:
    """Of the gate `batchability`: it warns by default, since a server serves such a version unbatched, and refuses a
    version whose publisher declares that it can be batched all the same.

    Attributes:
        required: A version that cannot be batched, for whatever reason, does not pass.
    """

    on_failure: OnFailure = OnFailure.WARN
    required: bool = False


@dataclass(frozen=True, slots=True)
class GoldenOptions:
    """Of the gate `golden`.

    Attributes:
        cases_min: Fewest golden cases that a version has to come with.
        top1_min: Least part of the labelled rows, 0 to 1, whose highest score is that of the right class.
        top1_worse_by_max: How much less than its parent's that part may be on the same cases.
    """

    on_failure: OnFailure = OnFailure.REFUSE
    cases_min: int = 0
    top1_min: float = 0.0
    top1_worse_by_max: float = 0.01


@dataclass(frozen=True, slots=True)
class LatencyOptions:
    """Of the gate `latency`: both versions run in turns, in one process.

    Attributes:
        p50_ratio_max: Most that the median may be, as a multiple of the parent's.
        p99_ratio_max: The same of the 99th percentile; it is the noisier.
        p50_ms_max: Most that the median may be by itself, in milliseconds; 0.0 for no bound.
    """

    on_failure: OnFailure = OnFailure.WARN
    p50_ratio_max: float = 1.25
    p99_ratio_max: float = 2.0
    p50_ms_max: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """Of the gate `memory`: the most that loading and running took, each version in a process of its own.

    Attributes:
        ratio_max: Most that it may be, as a multiple of the parent's.
        slack_mib: Difference in MiB that never counts against a version: allocators round up.
        mib_max: Most that it may be by itself, in MiB; 0.0 for no bound.
    """

    on_failure: OnFailure = OnFailure.WARN
    ratio_max: float = 1.5
    slack_mib: float = 16.0
    mib_max: float = 0.0


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What is asked of every gate that a plan has a say in; the gates say what the sections mean."""

    metadata: MetadataOptions = field(default_factory=MetadataOptions)
    bump: BumpOptions = field(default_factory=BumpOptions)
    load: LoadOptions = field(default_factory=LoadOptions)
    determinism: DeterminismOptions = field(default_factory=DeterminismOptions)
    batchability: BatchabilityOptions = field(default_factory=BatchabilityOptions)
    golden: GoldenOptions = field(default_factory=GoldenOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)


def read_plan(root: Path, model: str) -> GatePlan:
    """Reads the plan that holds for `model` in the repository at `root`.

    Raises:
        ConfigError: A plan cannot be read, has an unknown key, or a value that is not valid for its key.
    """
    plan = GatePlan()
    for path, name in ((root / PLAN_FILE, PLAN_FILE), (root / model / PLAN_FILE, f"{model}/{PLAN_FILE}")):
        try:
            data = read_small(path, MAX_PLAN_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{name} {explain(error)}") from error
        if len(data) > MAX_PLAN_BYTES:
            raise ConfigError(f"{name} is larger than {MAX_PLAN_BYTES} bytes")
        try:
            body = tomllib.loads(data.decode())
        except ValueError as error:
            raise ConfigError(f"{name} is not TOML: {error}") from error
        plan = over(plan, body, name)
    return plan


def over(plan: GatePlan, body: Mapping[str, Any], name: str) -> GatePlan:
    """Returns `plan` with what the TOML document `body` says; `name` is the document's, for errors.

    Raises:
        ConfigError: A key is unknown, or a value is not valid for its key.
    """
    sections = [section.name for section in fields(GatePlan)]
    for key, table in body.items():
        _check_key(key, sections, "", name)
        if not isinstance(table, dict):
            raise ConfigError(f"{key} in {name}: expected a table")
        section = getattr(plan, key)
        known = [one.name for one in fields(section)]
        changed = {}
        for inner, value in table.items():
            _check_key(inner, known, f"{key}.", name)
            changed[inner] = _value(getattr(section, inner), value, f"{key}.{inner} in {name}")
        plan = replace(plan, **{key: replace(section, **changed)})
    return plan


def _check_key(key: str, known: Sequence[str], prefix: str, name: str) -> None:
    if key not in known:
        near = get_close_matches(key, known, n=1, cutoff=0)[0]
        raise ConfigError(f"{name} has an unknown key {prefix + key[:64]!r}; nearest: {prefix}{near}")


def _value(now: object, value: object, where: str) -> object:
    """Returns `value` in the type that the value of that key has now."""
    match now:
        case OnFailure():
            if not isinstance(value, str) or value not in list(OnFailure):
                raise ConfigError(f"{where}: expected one of {', '.join(OnFailure)}, got {str(value)[:64]!r}")
            return OnFailure(value)
        case bool():
            if not isinstance(value, bool):
                raise ConfigError(f"{where}: expected true or false, got {str(value)[:64]!r}")
            return value
        case tuple():
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{where}: expected a list of strings")
            return tuple(value)
        case _:
            kinds = (int,) if isinstance(now, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < float("inf"):
                noun = "an integer" if isinstance(now, int) else "a number"
                raise ConfigError(f"{where}: expected {noun} of 0 or more, got {str(value)[:64]!r}")
            return type(now)(value)  # type: ignore[call-arg]  # an int or a float, as is `now`
