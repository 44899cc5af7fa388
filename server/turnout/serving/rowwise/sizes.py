"""Sizes of tensors before a run: products of a number and of symbols. Pure.

A size is never rounded or bounded: what is no product is a symbol of its own, named after how it comes about, so that
two sizes that come about in the same way are the same.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST_NAME = 160
"""Characters of a symbol; a longer name is replaced by its digest."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A number that is the same for every request of a batch and for the batch; for `ROWS` alone it is not.

    Attributes:
        name: How it comes about; two symbols of one name are one number.
        size: It is the size of a dimension, and so not below 0.
    """

    name: str
    size: bool = True

    def __str__(self) -> str:
        return self.name


ROWS = Symbol("rows")
"""How many rows a run has."""


@dataclass(frozen=True, slots=True)
class Size:
    """A product: `number` times all `symbols`.

    Attributes:
        number: A whole number; a value, unlike a dimension, may be negative.
        symbols: Sorted by name; one that stands twice is squared.
    """

    number: int
    symbols: tuple[Symbol, ...] = ()

    def __str__(self) -> str:
        factors = [str(self.number)] if self.number != 1 or not self.symbols else []
        return "*".join([*factors, *map(str, self.symbols)])

    def __mul__(self, other: "Size") -> "Size":
        number = self.number * other.number
        return _product(number, [*self.symbols, *other.symbols]) if number else Size(0)

    def __truediv__(self, other: "Size") -> "Size | None":
        """Returns the size that `other` has to be multiplied with to be this; None if that is no product."""
        if not other.number or self.number % other.number:
            return None
        left = Counter(self.symbols)
        left.subtract(other.symbols)
        if any(count < 0 for count in left.values()):
            return None
        return _product(self.number // other.number, left.elements())

    @property
    def constant(self) -> int | None:
        """The number that it is; None if it has symbols."""
        return None if self.symbols else self.number

    @property
    def rows(self) -> int:
        """How often the number of rows is a factor."""
        return sum(symbol == ROWS for symbol in self.symbols)

    @property
    def is_size(self) -> bool:
        """It cannot be below 0."""
        return self.number >= 0 and all(symbol.size for symbol in self.symbols)


ONE = Size(1)
ONE_ROW = Size(1, (ROWS,))


def product(sizes: Iterable[Size]) -> Size:
    """Multiplies sizes; 1 if there are none."""
    result = ONE
    for size in sizes:
        result *= size
    return result


def symbol(name: str, *, size: bool = True) -> Size:
    """Returns the size that a symbol of that name is."""
    if len(name) > _LONGEST_NAME:
        name = f"#{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return Size(1, (Symbol(name, size),))


def derived(operation: str, *operands: object, size: bool = True) -> Size:
    """Returns a size that comes about by `operation`, of `operands` that are the same for a row and for a batch."""
    return symbol(f"{operation}({','.join(map(str, operands))})", size=size)


def fixed(numbers: Iterable[int]) -> tuple[Size, ...]:
    """Returns numbers as sizes."""
    return tuple(map(Size, numbers))


def broadcast(one: Size, other: Size) -> Size:
    """Returns the size that two dimensions get when each is stretched to the other.

    Neither may have the number of rows as a factor, unless they are the same.
    """
    if one == other or other == ONE:
        return one
    if one == ONE:
        return other
    for size in (one, other):
        if size.constant is not None:
            return size  # the other one is 1 or the same, or the run fails
    return derived("broadcast", *sorted(map(str, (one, other))))


def _product(number: int, symbols: Iterable[Symbol]) -> Size:
    return Size(number, tuple(sorted(symbols, key=lambda s: (s.name, s.size))))
