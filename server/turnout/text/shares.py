"""Parses and formats shares of traffic. Pure."""

import re
from decimal import Decimal

from turnout.errors import InvalidRequest

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?) ?%")
_FRACTION = re.compile(r"[01]|0?\.[0-9]+|[01]\.[0-9]+")
_STEPS = 10_000


def read_share(text: str) -> float:
    """Parses a share such as `5%`, `0.01%` or `0.05`, and returns it as a number from 0 to 1.

    Raises:
        InvalidRequest: The text is not a share, or not a multiple of 0.01%.
    """
    if match := _PERCENT.fullmatch(text.strip()):
        share = Decimal(match[1]) / 100
    elif _FRACTION.fullmatch(text.strip()):
        share = Decimal(text.strip())
    else:
        raise InvalidRequest(f"expected a share such as 5%, 0.01% or 0.05, got {text!r}")
    if share > 1:
        raise InvalidRequest(f"expected a share of at most 100%, got {text!r}")
    if share * _STEPS != int(share * _STEPS):
        raise InvalidRequest(f"expected a share in steps of 0.01%, got {text!r}")
    return float(share)


def read_part(text: str, option: str) -> tuple[str, float]:
    """Parses a version and a share such as `3.3.0=5%`.

    Raises:
        InvalidRequest: The text does not have that form. The error names `option`.
    """
    version, equals, share = text.rpartition("=")
    if not equals or not version:
        raise InvalidRequest(f"{option}: expected VERSION=SHARE, such as 3.3.0=5%, got {text!r}")
    return version, read_share(share)


def share_text(share: float) -> str:
    """Formats a share such as `5%`, `0.01%` or `33.3%`.

    Shares are set in steps of 0.01%, and slots approximate them to that precision: 10% of 65,536 slots are 10.0006%.
    More digits are shown if the share would otherwise be shown as 0% or 100% incorrectly.
    """
    text = f"{share * 100:.2f}"
    if text in ("0.00", "100.00"):
        text = f"{share * 100:.4f}"
    return text.rstrip("0").rstrip(".") + "%"
