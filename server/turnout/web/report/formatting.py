"""Formats times, durations and commands as readable text."""

import math
from datetime import UTC, datetime

from markupsafe import Markup, escape

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def duration_text(seconds: float) -> str:
    """Returns a duration as text with at most two units: `0.6s`, `42s`, `5m`, `1h30m`, `2d4h`; `never` for infinity."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 10 and seconds != round(seconds):
        return f"{seconds:.1f}s"
    left = round(seconds)
    if left >= 3600:  # round to minutes, or to hours from a day
        unit = 3600 if left >= 86_400 else 60
        left = round(left / unit) * unit
    parts = []
    for name, unit in _UNITS:
        count, left = divmod(left, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts[:2]) or "0s"


def time_text(when: datetime) -> str:
    """Returns a time in UTC as text, to the second. A time without a zone is in UTC already."""
    return f"{when if when.tzinfo is None else when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ticked(text: str) -> Markup:
    """Returns a sentence as HTML in which text in backticks is formatted as code."""
    parts = text.split("`")
    return Markup().join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))
