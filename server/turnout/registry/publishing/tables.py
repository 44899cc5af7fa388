"""Reads values of tables written by people. Errors name the place of the value. Without side effects."""

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from turnout.errors import InvalidRequest

T = TypeVar("T")

MAX_DEPTH = 16
"""Maximum nesting depth of free values."""

MAX_INTEGER = 2**53 - 1
"""Largest integer that all JSON readers represent exactly."""


def check_keys(table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Checks that a table has only known keys.

    Raises:
        InvalidRequest: A key is unknown; the error names the most similar known key.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0)
            raise InvalidRequest.at(f"{prefix}{key[:64]}", f"unknown; the nearest known is {prefix}{near[0]}")


Reader = Callable[[object, str], T]
"""Reads a value, given its place. Raises InvalidRequest if it is invalid."""


def _reader(kind: type[T], expected: str) -> Reader[T]:
    def read(value: object, where: str) -> T:
        if not isinstance(value, kind):
            raise InvalidRequest.at(where, f"expected {expected}")
        if isinstance(value, str):
            check_json(value, where)
        return value

    return read


read_table: Reader[dict[str, Any]] = _reader(dict, "a table")
read_text = _reader(str, "a string")
read_flag = _reader(bool, "true or false")


def read_integer(value: object, where: str) -> int:
    """Reads an integer. Raises InvalidRequest if the value is not an integer, or is beyond `MAX_INTEGER`."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise InvalidRequest.at(where, "expected an integer")
    return value


def read_number(value: object, where: str) -> float:
    """Reads a finite number. Raises InvalidRequest if the value is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest.at(where, "expected a number")
    check_json(value, where)
    return float(value)


def read_list(value: object, where: str, item: Reader[T], what: str) -> tuple[T, ...]:
    """Reads a list. Raises InvalidRequest if the value is not a list of `what`."""
    if not isinstance(value, list):
        raise InvalidRequest.at(where, f"expected a list of {what}")
    return tuple(item(one, f"{where}[{index}]") for index, one in enumerate(value))


def read_entries(value: object, where: str, entry: Reader[T]) -> dict[str, T]:
    """Reads a table whose values are all read by `entry`.

    Raises:
        InvalidRequest: The value is not a table, or one of its values is invalid.
    """
    return {name: entry(one, f"{where}.{name}") for name, one in read_table(value, where).items()}


def check_json(value: object, where: str, depth: int = 0) -> None:
    """Checks a free value. Raises InvalidRequest if it cannot be represented in the canonical form of RFC 8785."""
    if depth > MAX_DEPTH:
        raise InvalidRequest.at(where, f"is nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool():
            return
        case str():
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise InvalidRequest.at(where, "contains half of a surrogate pair, which is not Unicode text")
        case int():
            if abs(value) > MAX_INTEGER:
                raise InvalidRequest.at(where, "is an integer beyond 2**53, which JSON readers round; write it as text")
        case float():
            if not math.isfinite(value):
                raise InvalidRequest.at(where, "is a float that is not finite, which JSON cannot represent")
        case list():
            for index, item in enumerate(value):
                check_json(item, f"{where}[{index}]", depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidRequest.at(where, "has a key that is not a string")
                check_json(key, where, depth)
                check_json(item, f"{where}.{key}", depth + 1)
        case _:
            raise InvalidRequest.at(where, f"is of type {type(value).__name__}, which JSON cannot represent; quote it")
