"""Converts frozen dataclasses to JSON values and back, based on the types of their fields. Without side effects.

A class that derives from `JsonForm` gets `to_json` and `from_json`, which use an object with its fields by name. Fields
may be text, numbers, booleans, None, JSON values (`Any`), versions, enums of text, bytes (as hex digits), times (ISO
8601), classes with a JSON form, and tuples, mappings and unions of these.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from semver import Version

from turnout.registry.manifest.versions import known_version

T = TypeVar("T", bound="JsonForm")

_Read = Callable[[Any], Any]

_FROM_TEXT: Mapping[type, _Read] = {
    Version: known_version, bytes: bytes.fromhex, datetime: datetime.fromisoformat,
}  # fmt: skip


_AS_THEY_ARE = frozenset({str, int, float, bool, NoneType})
"""Types that JSON supports directly. They are the most common, and so are checked first."""


class JsonForm:
    """Base class of dataclasses with a JSON form.

    Attributes:
        OMIT_DEFAULTS: Whether fields with their default value are left out, so that values that a publisher does not
            give do not affect digests.
        AS_LIST: Whether the form is a list of the field values instead of an object.
        ADDED: Fields that earlier releases did not write. If one is missing, it gets its default.
    """

    __slots__ = ()

    OMIT_DEFAULTS: ClassVar[bool] = False
    AS_LIST: ClassVar[bool] = False
    ADDED: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> Any:
        """Returns the JSON form."""
        body = fields_to_json(self)
        return list(body.values()) if self.AS_LIST else body

    @classmethod
    def from_json(cls, body: Any) -> Self:
        """Reads the JSON form. Unknown keys are ignored.

        Raises:
            KeyError, TypeError, ValueError: The body is not a form that `to_json` writes.
        """
        if cls.AS_LIST:
            names = (field.name for field in fields(cast(Any, cls)))
            body = dict(zip(names, _checked(body, list, tuple), strict=True))
        return fields_from_json(cls, body)


def fields_to_json(value: JsonForm) -> dict[str, Any]:
    """Returns the fields as JSON values. Used by classes with their own `to_json`."""
    items = ((field, getattr(value, field.name)) for field in fields(cast(Any, value)))
    omit = value.OMIT_DEFAULTS
    return {field.name: _to_json(item) for field, item in items if not (omit and item == _default(field))}


def fields_from_json(kind: type[T], body: Mapping[str, Any]) -> T:
    """Reads what `fields_to_json` wrote. Used by classes with their own `from_json`.

    Raises:
        KeyError, TypeError, ValueError: The body is not a form that `fields_to_json` writes.
    """
    readers = _field_readers(cast(Any, kind))
    _checked(body, Mapping)
    return kind(**{name: read(body[name]) for name, (read, needed) in readers.items() if needed or name in body})


def _to_json(value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, JsonForm):
        return value.to_json()
    if isinstance(value, str | Version):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _field_readers(kind: Any) -> Mapping[str, tuple[_Read, bool]]:
    """Returns, for each field of a dataclass, a function that reads it, and whether the field is required."""
    hints = get_type_hints(kind)
    optional = {f.name for f in fields(kind) if _default(f) is not MISSING} if kind.OMIT_DEFAULTS else kind.ADDED
    return {field.name: (_reader(hints[field.name]), field.name not in optional) for field in fields(kind)}


@cache
def _reader(kind: Any) -> _Read:
    """Returns a function that reads values of a type."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin in (Union, UnionType):
        return _first_that_reads([_reader(arg) for arg in sorted(args, key=lambda arg: arg is not NoneType)])
    if origin is tuple:
        return _tuple_reader(args)
    if origin is not None and issubclass(origin, Mapping):
        read = _reader(args[1])
        return lambda value: {key: read(item) for key, item in _checked(value, Mapping).items()}
    if issubclass(kind, JsonForm):
        return cast(_Read, kind.from_json)
    if issubclass(kind, Enum):
        return cast(_Read, kind)
    if kind in _FROM_TEXT:
        return lambda value: _FROM_TEXT[kind](_checked(value, str))
    kinds = (int, float) if kind is float else (kind,)
    return lambda value: _checked(value, *kinds)


def _checked(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or (type(value) is bool and bool not in kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"expected {names}, got {str(value)[:80]!r}")
    return value


def _first_that_reads(readers: list[_Read]) -> _Read:
    def read(value: Any) -> Any:
        for reader in readers[:-1]:
            try:
                return reader(value)
            except (KeyError, TypeError, ValueError):
                continue
        return readers[-1](value)  # raises the last reader's error

    return read


def _tuple_reader(kinds: tuple[Any, ...]) -> _Read:
    readers = [_reader(kind) for kind in kinds if kind is not ...]

    def read(value: Any) -> tuple[Any, ...]:
        items = _checked(value, list, tuple)
        if ... in kinds:
            return tuple(map(readers[0], items))
        return tuple(reader(item) for reader, item in zip(readers, items, strict=True))

    return read
