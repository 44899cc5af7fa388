"""Fills placeholders in PromQL, and reads the responses of Prometheus. Pure.

A placeholder inside a string is replaced by its value, escaped for that string; a placeholder in place of a string
becomes one. After `=~` or `!~`, the value is escaped as a literal of a regular expression: `2.0.0+cpu` matches only
itself.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`)
  | \{(?P<bare>[A-Za-z_]\w*)\}
  | (?P<operator>=~|!~)
  | (?P<space>\s+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BRACED = re.compile(r"\{([A-Za-z_]\w*)\}")
_REGEX_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")  # the same as Go's regexp.QuoteMeta
_SAMPLE = re.compile(r"[+-]?Inf|NaN|[+-]?\d+(\.\d*)?(e[+-]?\d+)?")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def filled(query: str, values: Mapping[str, str]) -> str:
    """Replaces placeholders in PromQL by their values. Other names in braces are not changed."""
    parts, regex = [], False
    for token in _TOKEN.finditer(query):
        text = token[0]
        if (string := token["string"]) is not None:
            parts.append(_string(string, values, regex=regex))
        elif (name := token["bare"]) is not None and name in values:
            value = _literal(values[name]) if regex else values[name]
            parts.append(f'"{_escaped(value)}"')
        else:
            parts.append(text)
        if token["space"] is None and token["comment"] is None:
            regex = token["operator"] is not None
    return "".join(parts)


def filled_url(url: str, values: Mapping[str, str]) -> str:
    """Replaces the placeholders in a URL by their values, percent-encoded."""
    return _BRACED.sub(lambda match: quote(values[match[1]], safe="") if match[1] in values else match[0], url)


def _string(string: str, values: Mapping[str, str], *, regex: bool) -> str:
    """Replaces the placeholders in a string literal, which includes its quotes."""
    found = [name for name in _BRACED.findall(string) if name in values]
    if string[0] == "`" and any("`" in values[name] for name in found):
        # A raw string has no escapes, so it becomes a quoted one.
        string = f'"{_escaped(string[1:-1])}"'
    raw = string[0] == "`"

    def put(match: re.Match[str]) -> str:
        if match[1] not in values:
            return match[0]
        value = _literal(values[match[1]]) if regex else values[match[1]]
        return value if raw else _escaped(value)

    return _BRACED.sub(put, string)


def _literal(value: str) -> str:
    return _REGEX_SPECIAL.sub(r"\\\1", value)


def _escaped(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


def number_in(answer: Any) -> float:
    """Returns the one number in Prometheus's response to an instant query, given as JSON values.

    Raises:
        LookupError: The response contains no number, or more than one; the message says so.
    """
    if not isinstance(answer, dict) or answer.get("status") != "success":
        error = answer.get("error") if isinstance(answer, dict) else None
        raise LookupError(
            f"Prometheus refused: {error}"
            if isinstance(error, str)
            else "its answer is not in the format of Prometheus"
        )
    data = answer.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if kind == "scalar":
        return _sample(result)
    if kind != "vector" or not isinstance(result, list):
        raise LookupError(f"expected one number, got a {kind if isinstance(kind, str) else 'malformed result'}")
    if not result:
        raise LookupError("there is no data")
    if len(result) > 1:
        raise LookupError(f"expected one series, got {len(result)}: aggregate them")
    return _sample(result[0].get("value") if isinstance(result[0], dict) else None)


def _sample(pair: Any) -> float:
    try:
        _, number = pair
        return float(number) if _SAMPLE.fullmatch(number) else _no_sample()
    except (TypeError, ValueError):
        return _no_sample()


def _no_sample() -> NoReturn:
    raise LookupError("expected a sample, got something else")
