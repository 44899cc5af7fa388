"""Reads a rollout's plan from a file and from command line options."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from turnout.cli.durations import read_duration
from turnout.cli.output import ServerRefused
from turnout.errors import ConfigError, FieldViolation, InvalidRequest
from turnout.registry.storage.files import read_named
from turnout.rollout.guards.circuit_breaker import Breaker
from turnout.rollout.guards.guards import Guards
from turnout.rollout.plan import PlanStep, ShadowStage
from turnout.text.shares import read_share
from turnout.text.toml import parse_toml

_UNKNOWN = "unknown; there are "


def read_plan_file(path: Path) -> dict[str, Any]:
    """Reads a plan file.

    Raises:
        ConfigError: The file does not exist, or is not TOML.
        InvalidRequest: A step or the shadow stage has an unknown key: `gates` for `gate` would let everything through.
    """
    content = read_named(path, "plan")
    try:
        body = parse_toml(content.decode())
    except ValueError as error:
        raise ConfigError(f"the plan {path} is not TOML: {error}") from None
    steps = body.get("steps")
    for number, step in enumerate(steps if isinstance(steps, list) else ()):
        _check_keys(f"steps[{number}]", step, PlanStep)
        _check_keys(f"steps[{number}].guards", step.get("guards") if isinstance(step, Mapping) else None, Guards)
    for place, kind in (("shadow", ShadowStage), ("guards", Guards), ("breaker", Breaker)):
        _check_keys(place, body.get(place), kind)
    return body


def read_guard(text: str) -> tuple[str, float]:
    """Parses a limit such as `error_share=1%` or `p99_ms=250`.

    Returns:
        The name of the limit, and its value: a share between 0 and 1, or milliseconds.

    Raises:
        InvalidRequest: The text does not have this form, or the limit is unknown.
    """
    name, equals, limit = text.partition("=")
    names = [field.name for field in fields(Guards)]
    if not equals or name not in names:
        raise InvalidRequest(f"--guard: expected NAME=LIMIT with one of {', '.join(names)}, got {text!r}")
    if name.endswith("_share"):
        return name, read_share(limit)
    try:
        return name, float(limit)
    except ValueError:
        raise InvalidRequest(f"--guard: expected milliseconds such as {name}=250, got {text!r}") from None


def read_steps(text: str) -> list[dict[str, Any]]:
    """Parses steps such as `1%:5m,5%:10m,25%:15m:gate`. Raises InvalidRequest if the text does not have this form."""
    steps = []
    for part in text.split(","):
        match part.strip().split(":"):
            case [share, soak]:
                steps.append({"weight": read_share(share), "soak_s": read_duration(soak)})
            case [share, soak, "gate"]:
                steps.append({"weight": read_share(share), "soak_s": read_duration(soak), "gate": True})
            case _:
                raise InvalidRequest(f"--steps: expected SHARE:TIME or SHARE:TIME:gate, such as 5%:10m, got {part!r}")
    return steps


@contextmanager
def named_fields() -> Iterator[None]:
    """Adds to an error the name of each invalid field, and to an unknown one the most similar known name.

    Raises:
        ServerRefused: The server refuses the call in the block.
    """
    try:
        yield
    except ServerRefused as error:
        if not error.violations:
            raise
        violations = [FieldViolation(v.field, f"{v.field}: {_nearest(v)}") for v in error.violations]
        message = "; ".join(v.description for v in violations)
        raise ServerRefused(error.kind, message, violations=violations) from None


def _check_keys(place: str, table: object, kind: type[PlanStep | ShadowStage | Guards | Breaker]) -> None:
    known = [field.name for field in fields(kind)]
    for key in table if isinstance(table, Mapping) else ():
        if key not in known:
            unknown = FieldViolation(str(key), f"{_UNKNOWN}{', '.join(known)}")
            raise InvalidRequest.at(f"{place}.{key}", _nearest(unknown))


def _nearest(violation: FieldViolation) -> str:
    """Returns the error of one field. If the field does not exist, adds the most similar name that does."""
    _, unknown, known = violation.description.rpartition(_UNKNOWN)
    near = get_close_matches(violation.field, known.split(", "), n=1, cutoff=0.6) if unknown else ()
    return f"unknown, did you mean {near[0]}? There are {known}" if near else violation.description


def read_shadow(text: str, known: object) -> dict[str, Any] | None:
    """Parses a shadow stage such as `10%:10m`, or `off`. It overrides that of a plan file, `known`."""
    if text == "off":
        return None
    rate, colon, duration = text.partition(":")
    if not colon:
        raise InvalidRequest(f"--shadow: expected SHARE:TIME, such as 10%:10m, or off, got {text!r}")
    given = dict(known) if isinstance(known, Mapping) else {}
    return given | {"rate": read_share(rate), "duration_s": read_duration(duration)}
