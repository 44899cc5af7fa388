"""Tables that people wrote, read value by value; what is wrong is said with its place. Pure."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from turnout.errors import InvalidRequest

MAX_DEPTH = 16
"""How deep free values may be nested."""

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exact."""


def check_keys(table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Checks that a table holds known keys only.

    Raises:
        InvalidRequest: It does not; the error names the nearest known.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0)
            raise InvalidRequest.at(f"{prefix}{key[:64]}", f"unknown; the nearest known is {prefix}{near[0]}")


def read_table(value: object, where: str) -> dict[str, Any]:
    """Reads a table.

    Raises:
        InvalidRequest: It is not a table.
    """
    if not isinstance(value, dict):
        raise InvalidRequest.at(where, "expected a table")
    return value


def read_list(value: object, where: str, what: str = "values") -> list[Any]:
    """Reads a list of anything.

    Raises:
        InvalidRequest: It is not a list.
    """
    if not isinstance(value, list):
        raise InvalidRequest.at(where, f"expected a list of {what}")
    return value


def read_text(value: object, where: str) -> str:
    """Reads text.

    Raises:
        InvalidRequest: It is not text.
    """
    if not isinstance(value, str):
        raise InvalidRequest.at(where, "expected a string")
    check_json(value, where)
    return value


def read_flag(value: object, where: str) -> bool:
    """Reads true or false.

    Raises:
        InvalidRequest: It is neither true nor false.
    """
    if not isinstance(value, bool):
        raise InvalidRequest.at(where, "expected true or false")
    return value


def read_integer(value: object, where: str) -> int:
    """Reads an integer.

    Raises:
        InvalidRequest: It is not an integer, or beyond `MAX_INTEGER`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise InvalidRequest.at(where, "expected an integer")
    return value


def read_number(value: object, where: str) -> float:
    """Reads a finite number.

    Raises:
        InvalidRequest: It is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest.at(where, "expected a number")
    check_json(value, where)
    return float(value)


def check_json(value: object, where: str, depth: int = 0) -> None:
    """Checks free values.

    Raises:
        InvalidRequest: The canonical form of RFC 8785 has no room for one.
    """
    if depth > MAX_DEPTH:
        raise InvalidRequest.at(where, f"is nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool():
            return
        case str():
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise InvalidRequest.at(where, "holds half of a surrogate pair, which is not Unicode text")
        case int():
            if abs(value) > MAX_INTEGER:
                raise InvalidRequest.at(where, "is an integer beyond 2**53, which JSON readers round; write it as text")
        case float():
            if not math.isfinite(value):
                raise InvalidRequest.at(where, "is a float that is not finite, which JSON has no form for")
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
            raise InvalidRequest.at(where, f"is of type {type(value).__name__}, which JSON has no form for; quote it")
