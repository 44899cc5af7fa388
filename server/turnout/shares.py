"""Shares of traffic, as people write and read them. Pure."""

import re
from decimal import Decimal

from turnout.errors import InvalidRequest

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?) ?%")
_FRACTION = re.compile(r"[01]|0?\.[0-9]+|[01]\.[0-9]+")
_STEPS = 10_000


def read_share(text: str) -> float:
    """Returns the share that `5%`, `0.01%` or `0.05` says, 0 to 1.

    Raises:
        InvalidRequest: It says none, or one finer than 0.01 %.
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
    """Returns the version and the share that `3.3.0=5%` says.

    Raises:
        InvalidRequest: It is not of that form.
    """
    version, equals, share = text.rpartition("=")
    if not equals or not version:
        raise InvalidRequest(f"{option}: expected VERSION=SHARE, such as 3.3.0=5%, got {text!r}")
    return version, read_share(share)


def share_text(share: float) -> str:
    """Returns a share for people: `5%`, `0.01%`, `33.3%`.

    Shares are set in steps of 0.01 %, and slots come that near: 10 % of 65,536 of them are 10.0006 %. What is finer is
    shown where nothing, or everything, would be wrong.
    """
    text = f"{share * 100:.2f}"
    if text in ("0.00", "100.00"):
        text = f"{share * 100:.4f}"
    return text.rstrip("0").rstrip(".") + "%"
