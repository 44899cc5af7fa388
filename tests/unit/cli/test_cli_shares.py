"""How people write shares of traffic, and how they read them."""

import pytest

from turnout.errors import InvalidRequest
from turnout.text.shares import read_part, read_share, share_text


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), ("0.01%", 0.0001), ("100%", 1.0), ("0%", 0.0), ("33.33%", 0.3333), ("0.05", 0.05), (".5", 0.5),
     ("1", 1.0), ("0", 0.0), ("1.0", 1.0), (" 5 % ", 0.05)],
)  # fmt: skip
def test_a_share_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    assert read_share(text) == share


@pytest.mark.parametrize("text", ["", "5", "%", "-5%", "5 %%", "five", "0.05x", "1e-2", "nan", "5,5%", "1000%"])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"expected a share such as 5%, 0\.01% or 0\.05"):
        read_share(text)


@pytest.mark.parametrize("text", ["100.01%", "1.5", "150%"])
def test_more_than_everything_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="at most 100%"):
        read_share(text)


@pytest.mark.parametrize("text", ["0.001%", "0.00001", "33.333%"])
def test_a_share_finer_than_a_step_is_refused_and_not_rounded(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"steps of 0\.01%"):
        read_share(text)


def test_a_part_is_a_version_and_a_share() -> None:
    assert read_part("3.3.0-rc.1=5%", "--canary") == ("3.3.0-rc.1", 0.05)
    for text in ("3.3.0", "=5%", "5%"):
        with pytest.raises(InvalidRequest, match=r"--canary: expected VERSION=SHARE, such as 3\.3\.0=5%"):
            read_part(text, "--canary")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.05, "5%"), (0.0001, "0.01%"), (1.0, "100%"), (0.0, "0%"), (1 / 3, "33.33%"), (6554 / 65536, "10%"),
        (3277 / 65536, "5%"), (66 / 65536, "0.1%"), (7 / 65536, "0.01%"), (1 / 65536, "0.0015%"), (0.99997, "99.997%"),
    ],
)  # fmt: skip
def test_a_share_is_shown_without_needless_digits(share: float, text: str) -> None:
    assert share_text(share) == text
