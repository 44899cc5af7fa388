"""Parses durations such as `90s` and `1h30m`."""

import math
import re

from turnout.errors import InvalidRequest

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SPAN = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNITS))


def read_duration(text: str, longest_days: int = 90) -> float:
    """Returns the length of `90s`, `5m`, `1h30m`, `2d` or `90` in seconds.

    Raises:
        InvalidRequest: The text is not a duration, or the duration is longer than `longest_days`.
    """
    bare = text.strip()
    match = _SPAN.fullmatch(f"{bare}s" if re.fullmatch(_NUMBER, bare) else bare)
    if match is None or not any(match.groups()):
        raise InvalidRequest(f"expected a time such as 90s, 5m, 1h30m or 2d, got {text[:64]!r}")
    seconds = math.fsum(float(part) * unit for part, unit in zip(match.groups("0"), _UNITS.values(), strict=True))
    if seconds > longest_days * _UNITS["d"]:
        raise InvalidRequest(f"expected at most {longest_days} days, got {text[:64]!r}")
    return seconds
