"""Symbolic sizes of tensors before a run: products of a number and symbols. Pure.

Sizes are never rounded or bounded. A size that is not a product becomes a new symbol, named after its derivation, so
that two sizes derived in the same way are equal.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST_NAME = 160
"""Maximum length of a symbol's name in characters; longer names are replaced by their digest."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A number that is the same for every request of a batch and for the batch itself; `ROWS` is the only exception.

    Attributes:
        name: Derivation of the number; symbols with equal names are equal.
        size: Whether it is the size of a dimension, and so not negative.
    """

    name: str
    size: bool = True

    def __str__(self) -> str:
        return self.name


ROWS = Symbol("rows")
"""Number of rows in a run."""


@dataclass(frozen=True, slots=True)
class Size:
    """A product: `number` times all `symbols`.

    Attributes:
        number: An integer; negative only for values, not for dimensions.
        symbols: Factors sorted by name; repeated factors appear repeatedly.
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
        """Returns the size that times `other` gives this size; None if that is not a product."""
        if not other.number or self.number % other.number:
            return None
        left = Counter(self.symbols)
        left.subtract(other.symbols)
        if any(count < 0 for count in left.values()):
            return None
        return _product(self.number // other.number, left.elements())

    @property
    def constant(self) -> int | None:
        """Value of the size; None if it has symbols."""
        return None if self.symbols else self.number

    @property
    def rows(self) -> int:
        """Exponent of the number of rows."""
        return sum(symbol == ROWS for symbol in self.symbols)

    @property
    def is_size(self) -> bool:
        """Whether it cannot be negative."""
        return self.number >= 0 and all(symbol.size for symbol in self.symbols)


ONE = Size(1)
ONE_ROW = Size(1, (ROWS,))


def product(sizes: Iterable[Size]) -> Size:
    """Returns the product of sizes; 1 if there are none."""
    result = ONE
    for size in sizes:
        result *= size
    return result


def symbol(name: str, *, size: bool = True) -> Size:
    """Returns the size that consists of a single symbol of the given name."""
    if len(name) > _LONGEST_NAME:
        name = f"#{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return Size(1, (Symbol(name, size),))


def derived(operation: str, *operands: object, size: bool = True) -> Size:
    """Returns a size that `operation` derives from `operands`, which are the same for a row and for a batch."""
    return symbol(f"{operation}({','.join(map(str, operands))})", size=size)


def broadcast(one: Size, other: Size) -> Size:
    """Returns the size of two dimensions that are broadcast against each other.

    Neither may have the number of rows as a factor, unless they are equal.
    """
    if one == other or other == ONE:
        return one
    if one == ONE:
        return other
    for size in (one, other):
        if size.constant is not None:
            return size  # the other is 1 or the same, or the run fails
    return derived("broadcast", *sorted(map(str, (one, other))))


def _product(number: int, symbols: Iterable[Symbol]) -> Size:
    return Size(number, tuple(sorted(symbols, key=lambda s: (s.name, s.size))))
