"""Limits on the contents of a request, checked before the contents are processed. Pure.

Each limit is a setting in `[limits]`, which error messages name.
"""

from dataclasses import dataclass
from typing import Self

from turnout.config import Limits
from turnout.errors import InvalidTensor


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Limits on one request.

    Attributes:
        tensors: Maximum number of inputs, and of named outputs.
        name_bytes: Maximum length of the name of a model, version, input or output in bytes.
        elements: Maximum number of elements that are sent one by one, in all tensors together.
        strings: Maximum number of strings, in all tensors together.
    """

    tensors: int
    rank: int
    name_bytes: int
    elements: int
    strings: int
    json_bytes: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Creates the limits from the settings."""
        return cls(
            limits.max_tensors,
            limits.max_rank,
            limits.max_name_bytes,
            limits.max_elements,
            limits.max_strings,
            int(limits.http_max_json_bytes),
        )

    def check_tensors(self, field: str, count: int) -> None:
        """Raises InvalidTensor if there are too many inputs or outputs; `field` names them."""
        if count > self.tensors:
            raise beyond(field, self.tensors, f"{count}", "max_tensors")

    def check_name(self, field: str, name: str) -> None:
        """Raises InvalidTensor if a name is too long; encodes it only if its length is in doubt."""
        size = len(name)
        if size > self.name_bytes // 4 and (size > self.name_bytes or len(name.encode()) > self.name_bytes):
            raise beyond(field, self.name_bytes, "more", "max_name_bytes", "bytes")

    def check_rank(self, field: str, rank: int) -> None:
        """Raises InvalidTensor if a shape has too many dimensions."""
        if rank > self.rank:
            raise beyond(field, self.rank, f"{rank}", "max_rank", "dimensions")

    def check_strings(self, field: str, count: int) -> None:
        """Raises InvalidTensor if there are too many strings."""
        if count > self.strings:
            raise beyond(field, self.strings, counted(count), "max_strings", "strings")

    def check_elements(self, field: str, count: int) -> None:
        """Raises InvalidTensor if there are too many elements that are sent one by one."""
        if count > self.elements:
            raise beyond(field, self.elements, counted(count), "max_elements", "elements that are not raw")


DEFAULT_LIMITS = InputLimits.of(Limits())


def beyond(field: str, limit: int, got: str, setting: str, noun: str = "") -> InvalidTensor:
    """Returns the error for a value beyond the setting `limits.<setting>`."""
    expected = f"expected at most {limit} {noun}".rstrip()
    return InvalidTensor.at(field, f"{expected}, got {got} (limits.{setting})")


def counted(number: int) -> str:
    """Formats a number of elements or bytes for errors: products of shapes can have thousands of digits."""
    return str(number) if number < 2**63 else "more than can be counted"
