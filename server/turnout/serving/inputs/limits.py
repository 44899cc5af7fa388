"""What a request may hold, checked before anything walks through it. Pure.

Each bound is a setting in `[limits]`, which refusals name.
"""

from dataclasses import dataclass
from typing import Self

from turnout.config import Limits
from turnout.errors import InvalidTensor


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Bounds on one request.

    Attributes:
        tensors: Most inputs, and most outputs that are named.
        rank: Most dimensions of a tensor.
        name_bytes: Longest name of a model, version, input or output.
        elements: Most elements that travel one by one, of all tensors together.
        strings: Most strings, of all tensors together.
        json_bytes: Largest JSON.
    """

    tensors: int
    rank: int
    name_bytes: int
    elements: int
    strings: int
    json_bytes: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Takes the bounds out of the settings."""
        return cls(
            limits.max_tensors,
            limits.max_rank,
            limits.max_name_bytes,
            limits.max_elements,
            limits.max_strings,
            int(limits.http_max_json_bytes),
        )

    def check_tensors(self, field: str, count: int) -> None:
        """Raises InvalidTensor where `count` inputs or outputs are too many; `field` names them."""
        if count > self.tensors:
            raise beyond(field, self.tensors, f"{count}", "max_tensors")

    def check_name(self, field: str, name: str) -> None:
        """Raises InvalidTensor if a name is too long; one that cannot be is not encoded to find that out."""
        size = len(name)
        if size > self.name_bytes // 4 and (size > self.name_bytes or len(name.encode()) > self.name_bytes):
            raise beyond(field, self.name_bytes, "more", "max_name_bytes", "bytes")

    def check_rank(self, field: str, rank: int) -> None:
        """Raises InvalidTensor if a shape has too many dimensions."""
        if rank > self.rank:
            raise beyond(field, self.rank, f"{rank}", "max_rank", "dimensions")

    def check_strings(self, field: str, count: int) -> None:
        """Raises InvalidTensor where strings are too many."""
        if count > self.strings:
            raise beyond(field, self.strings, counted(count), "max_strings", "strings")

    def check_elements(self, field: str, count: int) -> None:
        """Raises InvalidTensor where elements that travel one by one are too many."""
        if count > self.elements:
            raise beyond(field, self.elements, counted(count), "max_elements", "elements that are not raw")


DEFAULT_LIMITS = InputLimits.of(Limits())


def beyond(field: str, limit: int, got: str, setting: str, noun: str = "") -> InvalidTensor:
    """Makes the error for what is beyond the setting `limits.<setting>`."""
    expected = f"expected at most {limit} {noun}".rstrip()
    return InvalidTensor.at(field, f"{expected}, got {got} (limits.{setting})")


def counted(number: int) -> str:
    """Returns a number of elements or bytes as errors tell it: products of shapes can have thousands of digits."""
    return str(number) if number < 2**63 else "more than can be counted"
