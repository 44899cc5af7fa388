"""The page of the settings, from the settings themselves: their docstrings, types and defaults."""

import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ByteSize, SecretStr
from pydantic.fields import FieldInfo

from markdown_text import code, page, prose, table
from turnout.config.auth import JwtIssuer
from turnout.config.rendering import value_text
from turnout.config.repository_url import RepositoryUrl
from turnout.config.rollouts import Probe
from turnout.config.runtime import DimensionSizes
from turnout.config.sections import OutputTolerance
from turnout.config.settings import ModelOverrides, Settings
from turnout.config.values import Address, LoadAll

_INTRODUCTION = """\
Every key of `turnout.toml`, with its default. [Configuration](../configuration.md) says where settings come from and
how they are written in the environment. Durations end in `_s`, `_ms` or `_us`; sizes are numbers of bytes, or text
such as `"64MiB"`.
"""

_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")


def settings_page() -> str:
    """Returns the page's text."""
    by_name = ("model", "probe")
    top = [name for name, field in Settings.model_fields.items() if not _is_section(field) and name not in by_name]
    blocks = ["## At the top\n", _table_of(Settings, top)]
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            blocks += _section(f"[{name}]", _model_of(field))
    blocks += _section("[probe.NAME]", Probe)
    own = [name for name, field in ModelOverrides.model_fields.items() if not _is_section(field)]
    sections = [f"[model.NAME.{name}]" for name, field in ModelOverrides.model_fields.items() if _is_section(field)]
    blocks += [
        f"## [model.NAME]\n\n{prose(_summary(ModelOverrides))}\n",
        _table_of(ModelOverrides, own),
        f"Its tables {', '.join(f'`{name}`' for name in sections)} have the keys of the tables of the same name above, "
        "`limits` those of queues only.",
        *_section("Sizes of a dimension", DimensionSizes),
        *_section("Tolerances of an output", OutputTolerance),
        *_section("[auth.jwt.NAME]", JwtIssuer),
    ]
    return page("Settings", "`server/turnout/config/settings.py`", _INTRODUCTION, *blocks)


def _section(title: str, model: type[BaseModel]) -> list[str]:
    inner = {name: _model_of(field) for name, field in model.model_fields.items() if _is_section(field)}
    own = [name for name in model.model_fields if name not in inner]
    blocks = [f"## {title}\n\n{prose(_summary(model))}\n", _table_of(model, own)]
    for one in dict.fromkeys(inner.values()):
        tables = ", ".join(f"`{title[:-1]}.{name}]`" for name, kind in inner.items() if kind is one)
        keys = ", ".join(f"`{name}`" for name in one.model_fields)
        blocks.append(f"{tables}: {prose(_summary(one))} They are {keys}.")
    return blocks


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _model_of(field: FieldInfo) -> type[BaseModel]:
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
        raise TypeError(f"{field.annotation} is no table")
    return field.annotation


def _table_of(model: type[BaseModel], names: list[str]) -> str:
    reported = _attributes(model)
    rows = []
    for name in names:
        field = model.model_fields[name]
        if name not in reported:
            raise ValueError(f"{model.__name__}.{name}: its class's docstring says nothing of it")
        default = "required" if field.is_required() else "none" if field.default is None else code(_default(field))
        rows.append((f"`{name}`", default, prose(_takes(field)), prose(reported[name])))
    return table(("key", "default", "takes", ""), rows)


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").split("\n\n")[0]


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Returns what the docstrings of `model` and its bases say of each attribute."""
    reported: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, listed = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        names: list[str] = []
        for line in listed.split("\n\n")[0].splitlines():
            if match := _ATTRIBUTE.match(line):
                names = match[1].split(", ")
                reported |= dict.fromkeys(names, match[2])
            else:
                reported |= {name: f"{reported[name]} {line.strip()}" for name in names}
    return reported


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, ByteSize):
        return _size(default)
    if isinstance(default, SecretStr):
        return '""'
    if isinstance(default, dict):
        return "{}" if not default else str(default)
    plain = list(default) if isinstance(default, tuple) else default
    return value_text(plain if isinstance(plain, str | bool | int | float | list) else str(plain))


def _size(size: int) -> str:
    for unit, bytes_ in _SIZES:
        if size and size % bytes_ == 0:
            return f'"{size // bytes_}{unit}"'
    return str(int(size))


def _takes(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind is Address:
        return "`HOST:PORT`"
    if LoadAll in get_args(kind):
        return "`all`, `latest:N`, `on_demand`, or a list of selectors"
    if providers := [arg for part in get_args(kind) for arg in _enums(part)]:
        return f"`auto`, or a list of {', '.join(f'`{name}`' for name in providers)}"
    words = {int: "whole number", float: "number", ByteSize: "size", str: "text", SecretStr: "text"}
    if kind in words:
        return words[kind] + _bounds(field)
    if type(None) in get_args(kind):
        return "number"
    if get_origin(kind) is tuple:
        return "list"
    if RepositoryUrl in get_args(kind):
        return "path or URL"
    return "table" if get_origin(kind) is not None else "path"


def _enums(kind: Any) -> Iterator[str]:
    for argument in get_args(kind):
        if isinstance(argument, type) and issubclass(argument, StrEnum):
            yield from argument


def _bounds(field: FieldInfo) -> str:
    above = [limit.gt for limit in field.metadata if isinstance(limit, Gt)]
    least = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
    most = [limit.le for limit in field.metadata if isinstance(limit, Le)]
    lower = f" above {above[-1]}" if above else f" from {max(least)}" if least else ""  # type: ignore[type-var]  # numbers, to annotated-types anything that compares
    return lower + (f" to {min(most)}" if most else "")  # type: ignore[type-var]  # as above
