"""Reads values in JSON by the subset of JSONPath that names one value: `$.data.results[0]["error rate"]`. Pure."""

import re
from typing import Any

_SEGMENT = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"\]]+)"\]""")


def value_at(document: Any, path: str) -> Any:
    """Returns the value at a path, which is in the format of the settings.

    Raises:
        LookupError: The document has no such value. The message says which part of the path is missing.
    """
    here = "$"
    for match in _SEGMENT.finditer(path):
        key = match[1] or match[3]
        if key is not None and not (isinstance(document, dict) and key in document):
            raise LookupError(f"{here} has no {key!r}")
        if key is None and not (isinstance(document, list) and int(match[2]) < len(document)):
            raise LookupError(f"{here} has no item {match[2]}")
        document = document[key if key is not None else int(match[2])]
        here += match[0]
    return document
