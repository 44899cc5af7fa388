"""The environment that a version is made for, and how a machine differs from it. Without side effects.

A range consists of comparisons separated by commas, all of which must be satisfied: `>=1.22,<2`. A plain number matches
versions that begin with it: `1.31` matches 1.31.0 and 1.31.1, but not 1.310.
"""

import re
from dataclasses import dataclass, fields

from packaging.specifiers import SpecifierSet

from turnout.registry.manifest.json_form import JsonForm

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
_COMPARISON = re.compile(rf"\s*(>=|<=|==|!=|>|<)?\s*({_NUMBER.pattern})\s*")
_MAX_RANGE = 128


@dataclass(frozen=True, slots=True)
class Environment(JsonForm):
    """Software versions: ranges if declared by a publisher, exact versions if found on a machine; "" if not given.

    Attributes:
        cuda: Version of CUDA that ONNX Runtime was built for.
        driver: Version of NVIDIA's driver, for example `550.54.15`.
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
    """Checks a range, and returns it. Raises ValueError if the text is not a valid range."""
    if len(text) > _MAX_RANGE or not all(_COMPARISON.fullmatch(part) for part in text.split(",")):
        raise ValueError(f"expected a range such as >=1.22,<2 or a version such as 1.31, got {text[:64]!r}")
    return text


def holds(text: str, version: str) -> bool:
    """Returns whether a version is in a range. Anything after the version's numbers, as in 1.22.0.dev3, is ignored.

    Raises:
        ValueError: The range is invalid.
    """
    found = _NUMBER.match(version)
    parts = [part.strip() for part in check_range(text).split(",")]
    wanted = SpecifierSet(",".join(f"=={part}.*" if part[0].isdigit() else part for part in parts))
    return found is not None and found[0] in wanted


def differences(declared: Environment, seen: Environment) -> tuple[str, ...]:
    """Returns the differences between a declared environment and this machine's, one sentence each."""
    found = []
    for name in NAMES:
        wanted, here = getattr(declared, name), getattr(seen, name)
        if wanted and not (here and holds(wanted, here)):
            found.append(f"{_WORDS[name]} {wanted} is declared, {f'{here} is' if here else 'none is'} here")
    return tuple(found)
