"""What a version was made to run with, and how a machine differs from that. Pure.

A range is comparisons separated by commas, all of which must hold: `>=1.22,<2`. A plain number holds for what begins
with it: `1.31` for 1.31.0 and 1.31.1, and not for 1.310.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import eq, ge, gt, le, lt, ne

from turnout.registry.manifest.json_form import JsonForm

_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9}){0,3}")
_COMPARISON = re.compile(rf"\s*(>=|<=|==|!=|>|<)?\s*({_NUMBER.pattern})\s*")
_OPERATORS: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt,
}  # fmt: skip
_PARTS = 4
_MAX_RANGE = 128


@dataclass(frozen=True, slots=True)
class Environment(JsonForm):
    """Ranges, if a publisher declares it; exact versions, if a machine was looked at; "" for nothing.

    Attributes:
        cuda: CUDA that ONNX Runtime was built for.
        driver: NVIDIA's driver, for example `550.54.15`.
    """

    onnxruntime: str = ""
    cuda: str = ""
    cudnn: str = ""
    driver: str = ""
    python: str = ""

    OMIT_DEFAULTS = True


NAMES = tuple(one.name for one in fields(Environment))

_WORDS = {
    "onnxruntime": "ONNX Runtime",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "driver": "NVIDIA driver",
    "python": "Python",
}


def check_range(text: str) -> str:
    """Returns `text`, a range.

    Raises:
        ValueError: It is not a range.
    """
    if len(text) > _MAX_RANGE or not all(_COMPARISON.fullmatch(part) for part in text.split(",")):
        raise ValueError(f"expected a range such as >=1.22,<2 or a version such as 1.31, got {text[:64]!r}")
    return text


def holds(text: str, version: str) -> bool:
    """Says whether a version is in a range. What follows a version's numbers, as in 1.22.0.dev3, is not looked at.

    Raises:
        ValueError: The range is not valid.
    """
    found = _NUMBER.match(version)
    if found is None:
        return False
    for part in check_range(text).split(","):
        comparison = _COMPARISON.fullmatch(part)
        assert comparison is not None, "the range was checked"
        wanted = [int(number) for number in comparison[2].split(".")]
        have = [int(number) for number in found[0].split(".")]
        if comparison[1] is None:
            if (have + [0] * _PARTS)[: len(wanted)] != wanted:
                return False
        elif not _OPERATORS[comparison[1]](_padded(have), _padded(wanted)):
            return False
    return True


def differences(declared: Environment, seen: Environment) -> tuple[str, ...]:
    """Returns, in words, what is declared and not so here."""
    found = []
    for name in NAMES:
        wanted, here = getattr(declared, name), getattr(seen, name)
        if wanted and not (here and holds(wanted, here)):
            found.append(f"{_WORDS[name]} {wanted} is declared, {f'{here} is' if here else 'none is'} here")
    return tuple(found)


def _padded(numbers: list[int]) -> tuple[int, ...]:
    return tuple(numbers + [0] * (_PARTS - len(numbers)))
