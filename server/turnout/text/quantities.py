"""Formats numbers, times and sizes for people, and the numbers that JSON lacks. Pure."""

import math

_DIGITS = 3
_PLAIN_UP_TO = 1e5
_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))


def json_name(value: float) -> str:
    """Returns the name of a number that JSON lacks, as protobuf writes it: `NaN`, `Infinity` or `-Infinity`."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def number_text(value: float) -> str:
    """Returns a number such as `0.0292`, `78.1`, `25,900` or `2.5e7`: only large numbers have an exponent."""
    rounded = float(f"{value:.{_DIGITS}g}")
    if abs(rounded) >= _PLAIN_UP_TO:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def seconds_text(seconds: float) -> str:
    """Returns a time of a run or a request such as `6.17 µs`, `500 ms` or `1.25 s`."""
    unit, name = next((one for one in reversed(_UNITS) if float(f"{seconds:.{_DIGITS}g}") >= one[0]), _UNITS[0])
    return f"{number_text(seconds / unit)} {name}"


def progress_text(stage: str, seconds: float) -> str:
    """Returns a stage in progress with its duration, such as `building TensorRT engines, for 2 min 10 s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{stage}, for {f'{minutes} min ' if minutes else ''}{rest} s"


def rate_text(rate: float) -> str:
    """Returns a number of requests per second, such as `0.25` or `25,900`, without an exponent from 100 on."""
    return f"{rate:,.0f}" if rate >= 100 else number_text(rate)


def count_text(count: int, noun: str) -> str:
    """Returns a count with its noun, such as `1 model` or `1,200 models`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_text(size: float) -> str:
    """Returns a number of bytes as text, such as `3.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
