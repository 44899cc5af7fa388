"""Numbers and times for people have three digits, and an exponent only if they are large."""

import pytest

from turnout.text.quantities import count_text, number_text, seconds_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0292, "0.0292"), (1.5, "1.5"), (78.14, "78.1"), (100, "100"), (999.6, "1,000"), (1590, "1,590"),
        (25_912, "25,900"), (99_949, "99,900"), (99_999, "1.0e5"), (159_000, "1.6e5"), (2.5e7, "2.5e7"),
        (1e300, "1.0e300"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_a_number(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"), (2e-8, "0.02 µs"), (6.17e-6, "6.17 µs"), (0.000126, "126 µs"), (0.0009996, "1 ms"),
        (0.0281, "28.1 ms"), (0.5, "500 ms"), (0.9999, "1 s"), (1.254, "1.25 s"), (30, "30 s"), (7200, "7,200 s"),
    ],
)  # fmt: skip
def test_a_time(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 models"), (1, "1 model"), (2, "2 models"), (1200, "1,200 models")])
def test_a_count(count: int, text: str) -> None:
    assert count_text(count, "model") == text
