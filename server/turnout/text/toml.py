"""Parses TOML, with a single kind of error. Pure."""

import tomllib
from typing import Any

_MAX_DEPTH = 100
"""Maximum depth of a document. The code that reads its tables is recursive, and Python limits recursion."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parses a TOML document.

    Raises:
        ValueError: The text is not valid TOML, has a number of too many digits, or is nested too deeply. The exceptions
            of `tomllib` for the latter two are not TOMLDecodeError.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError:
        document = None
    if document is None or _is_deep(document):
        raise ValueError(f"expected at most {_MAX_DEPTH} arrays and tables within each other")
    return document


def _is_deep(document: dict[str, Any]) -> bool:
    """Returns whether a document is nested too deeply. Not recursive."""
    level: list[Any] = [document]
    for _ in range(_MAX_DEPTH):
        parts = (part for one in level for part in (one.values() if isinstance(one, dict) else one))
        level = [part for part in parts if isinstance(part, dict | list)]
    return bool(level)
