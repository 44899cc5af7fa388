"""Reads the options of the gates from `gates.toml`: one file at the root of the repository, one in a model's directory.

A model's file overrides the repository's, key by key, and both override the defaults, with which a plain `publish`
without metadata and golden cases passes.

    [metadata]
    required = ["description", "licence"]

    [golden]
    top1_min = 0.98

    [latency]
    on_failure = "refuse"
    p50_ratio_max = 1.2
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from turnout.errors import ConfigError
from turnout.registry.manifest.names import PLAN_FILE
from turnout.registry.storage.files import explain, read_small
from turnout.text.toml import parse_toml

MAX_PLAN_BYTES = 1 << 16


class OnFailure(StrEnum):
    """Effect of failing a gate."""

    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"
    """The gate does not run."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """Options of a gate.

    Attributes:
        on_failure: Effect of failing the gate.
    """

    on_failure: OnFailure = OnFailure.REFUSE


@dataclass(frozen=True, slots=True)
class MetadataOptions(GateOptions):
    """Options of the gate `metadata`.

    Attributes:
        required: Names of fields that a publisher must state: description, authors, licence, notes, labels,
            preprocessing, batching, tolerances, scores, golden, or any name in the free metadata.
    """

    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BumpOptions(GateOptions):
    """Options of the gate `bump`."""


@dataclass(frozen=True, slots=True)
class LoadOptions(GateOptions):
    """Options of the gate `load`.

    Attributes:
        seconds_max: Maximum load time in seconds; 0.0 for no limit but the sandbox's.
    """

    seconds_max: float = 0.0


@dataclass(frozen=True, slots=True)
class DeterminismOptions(GateOptions):
    """Options of the gate `determinism`. It warns by default, since a model may draw random numbers on purpose."""

    on_failure: OnFailure = OnFailure.WARN


@dataclass(frozen=True, slots=True)
class BatchabilityOptions(GateOptions):
    """Options of the gate `batchability`. By default, a version that cannot be batched gets a warning, since a server
    serves it unbatched. But if its publisher declares that it can be batched, it is refused.

    Attributes:
        required: Whether a version that cannot be batched, for any reason, fails.
    """

    on_failure: OnFailure = OnFailure.WARN
    required: bool = False


@dataclass(frozen=True, slots=True)
class GoldenOptions(GateOptions):
    """Options of the gate `golden`.

    Attributes:
        cases_min: Minimum number of golden cases.
        top1_min: Minimum accuracy, 0 to 1: the share of labelled rows in which the right class has the highest score.
        top1_worse_by_max: Maximum by which the accuracy may be lower than the parent's on the same cases.
    """

    cases_min: int = 0
    top1_min: float = 0.0
    top1_worse_by_max: float = 0.01


@dataclass(frozen=True, slots=True)
class LatencyOptions(GateOptions):
    """Options of the gate `latency`. Both versions run alternately, in one process.

    Attributes:
        p50_ratio_max: Maximum of the median, as a multiple of the parent's.
        p99_ratio_max: Maximum of the 99th percentile, as a multiple of the parent's. It is noisier than the median.
        p50_ms_max: Absolute maximum of the median, in milliseconds; 0.0 for no limit.
    """

    on_failure: OnFailure = OnFailure.WARN
    p50_ratio_max: float = 1.25
    p99_ratio_max: float = 2.0
    p50_ms_max: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryOptions(GateOptions):
    """Options of the gate `memory`. It measures peak memory of loading and running, each version in its own process.

    Attributes:
        ratio_max: Maximum peak memory, as a multiple of the parent's.
        slack_mib: Difference in MiB that is always accepted, because allocators round up.
        mib_max: Absolute maximum of the peak memory, in MiB; 0.0 for no limit.
    """

    on_failure: OnFailure = OnFailure.WARN
    ratio_max: float = 1.5
    slack_mib: float = 16.0
    mib_max: float = 0.0


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Options of all gates that can be configured."""

    metadata: MetadataOptions = field(default_factory=MetadataOptions)
    bump: BumpOptions = field(default_factory=BumpOptions)
    load: LoadOptions = field(default_factory=LoadOptions)
    determinism: DeterminismOptions = field(default_factory=DeterminismOptions)
    batchability: BatchabilityOptions = field(default_factory=BatchabilityOptions)
    golden: GoldenOptions = field(default_factory=GoldenOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)


def read_plan(root: Path, model: str) -> GatePlan:
    """Reads the plan that applies to `model` in the repository at `root`.

    Raises:
        ConfigError: A plan cannot be read, has an unknown key, or an invalid value.
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
            body = parse_toml(data.decode())
        except ValueError as error:
            raise ConfigError(f"{name} is not TOML: {error}") from error
        plan = over(plan, body, name)
    return plan


def over(plan: GatePlan, body: Mapping[str, Any], name: str) -> GatePlan:
    """Returns `plan` with the values of a TOML document called `name`.

    Raises:
        ConfigError: A key is unknown, or a value is invalid.
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
    """Returns `value` converted to the type of the current value."""
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
