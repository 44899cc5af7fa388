"""How people write times, and how they read them."""

import math

import pytest

from turnout.cli.durations import read_duration
from turnout.errors import InvalidRequest
from turnout.web.report.formatting import duration_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("0.6s", 0.6), (" 1.5h ", 5400), ("0", 0)],
)
def test_a_time_is_read_in_any_of_its_forms(text: str, seconds: float) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-5m", "5m1h", "1e3", "5x", "inf", "91d", "\u0665m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"such as 90s|at most 90 days"):
        read_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.6, "0.6s"), (9.96, "10.0s"), (42.4, "42s"), (300, "5m"), (5400, "1h30m"), (5430, "1h30m"),
     (3599.7, "1h"), (100_800, "1d4h"), (86_400, "1d"), (math.inf, "never")],
)  # fmt: skip
def test_a_time_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
