"""Turns validation errors of a configuration into messages with the key, the expected and the received value."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from turnout.config.auth import JwtIssuer
from turnout.config.rendering import WEBHOOKS, without_passwords
from turnout.config.rollouts import Probe
from turnout.config.settings import MODEL_KEY, ModelOverrides, Settings

_EXPECTED = {
    "bool": "true or false",
    "byte": 'a size in bytes, such as 1048576 or "64MiB"',
    "dict": "a table",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "mapping": "a table",
    "model": "a table",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
}
"""Descriptions of expected values, by the first word of pydantic's error type."""

_BY_NAME: Mapping[str, type[BaseModel]] = {"model": ModelOverrides, "probe": Probe}
"""Tables whose keys are chosen by the user, as in `[model.NAME]`."""


def validation_errors(error: ValidationError, origins: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the dotted key and a message for each error. `origins` as in `turnout.config.sources.LoadedSettings`."""
    for one in error.errors(include_url=False):
        path = [str(part) for part in one["loc"] if isinstance(part, str) and part != "[key]"]
        key = ".".join(path)
        origin = _origin(key, origins)
        place = origin or key if origin.startswith(("--", "TURNOUT_")) or not origin else f"{key} in {origin}"
        if one["type"] == "extra_forbidden":
            dotted = len(path) == 3 and path[0] == "model" and isinstance(one["input"], Mapping)
            hint = f'; a name with dots stands in quotes: [model."{path[1]}.{path[2]}"]' if dotted else ""
            yield key, _unknown(path, origin) + hint
        elif one["type"] == "missing":
            yield key, f"{key}: missing; it has to be set"
        elif one["loc"][-1] == "[key]" and path[:2] == ["auth", "jwt"]:
            yield key, f"{place}: expected a name of a-z, 0-9, _ and -, got {path[-1]!r}"
        elif one["loc"][-1] == "[key]" and path[0] != "model":
            yield key, f"{place}: expected {_expected(one)}, got {path[-1]!r}"
        elif one["loc"][-1] == "[key]":
            yield key, f"{place}: {path[-1]!r} names no model, expected {MODEL_KEY}"
        else:
            # An error about a combination of keys is reported for their table, whose value is not worth printing.
            together = one["type"] == "value_error" and isinstance(one["input"], Mapping)
            got = "" if together else f", got {_preview(path, one['input'])}"
            yield key, f"{place}: expected {_expected(one)}{got}"


def _preview(path: Sequence[str], value: Any) -> str:
    """Returns an invalid value as text, shortened and without passwords. Secrets are replaced with `***`."""
    if isinstance(value, Mapping):
        return "a table"
    if _holds_secret(Settings, path) or path[-1] in WEBHOOKS:  # one that is mistyped has its path wherever
        return "***"
    text = repr(without_passwords(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _holds_secret(kind: Any, path: Sequence[str]) -> bool:
    """Returns whether the value at `path` in the type `kind`, or any value nested in it, is a secret."""
    if isinstance(kind, type) and issubclass(kind, SecretStr):
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        below = [fields[path[0]].annotation] if path and path[0] in fields else [f.annotation for f in fields.values()]
        return any(_holds_secret(annotation, path[1:]) for annotation in below)
    if get_origin(kind) is Mapping:
        return _holds_secret(get_args(kind)[1], path[1:])
    return any(_holds_secret(argument, path) for argument in get_args(kind))


def unknown_variable(name: str) -> str | None:
    """Returns an error message if the environment variable `name` is not a setting; None if it is."""
    path = name.removeprefix("TURNOUT_").lower().split("__")
    if (path[0] in _BY_NAME and len(path) < 3) or ".".join(path) in _known(path):
        return None
    return _unknown(path, name)


def _origin(key: str, origins: Mapping[str, str]) -> str:
    if key in origins:
        return origins[key]
    return next((origin for held, origin in origins.items() if held.startswith(f"{key}.")), "")


def _expected(one: Any) -> str:
    kind, context = one["type"], one.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]).removeprefix("expected ")
    if kind == "greater_than_equal":
        return f"{context['ge']} or more"
    if kind == "less_than_equal":
        return f"{context['le']} or less"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "too_short":
        return "at least one item"
    return _EXPECTED.get(kind.split("_")[0], str(one["msg"]))


def _unknown(path: list[str], origin: str) -> str:
    near = _nearest(path)
    if origin.startswith("TURNOUT_"):
        near = ["TURNOUT_" + key.upper().replace(".", "__") for key in near]
        return f"no setting goes by the environment variable {origin}; nearest: {', '.join(near)}"
    return f"{origin or 'the configuration'} has an unknown key {'.'.join(path)!r}; nearest: {', '.join(near)}"


def _nearest(path: list[str]) -> list[str]:
    """Returns suggestions for `path`: similar keys in its table, the same key in other tables, or similar paths."""
    known = _known(path)
    table = "".join(f"{part}." for part in path[:-1])
    beside = [key for key in known if key.startswith(table) and "." not in key[len(table) :]]
    names = [key[len(table) :] for key in beside]
    return (
        [table + name for name in get_close_matches(path[-1], names, n=1, cutoff=0.7)]
        or [key for key in known if key.split(".")[-1] == path[-1]][:3]
        or get_close_matches(".".join(path), known, n=3, cutoff=0.5)
        or beside[:5]
        or known[:5]
    )


def _known(path: list[str]) -> list[str]:
    """Returns all dotted keys, including those of the model, probe or issuer in `path`."""
    known = list(_keys(Settings, ""))
    if path[:2] == ["auth", "jwt"] and len(path) > 2:
        return [*known, *_keys(JwtIssuer, f"auth.jwt.{path[2]}.")]
    if path[0] in _BY_NAME and len(path) > 1:
        return [*known, *_keys(_BY_NAME[path[0]], f"{path[0]}.{path[1]}.")]
    return known


def _keys(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
