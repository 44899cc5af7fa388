"""The five roles, and the models that they are granted on. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class AccessRole(StrEnum):
    """What somebody may do with a model; also what a call requires."""

    PREDICT = "predict"
    """Run it, and read its inputs and outputs."""
    READ = "read"
    """See it in lists and the console, describe and fetch its versions; if granted on `*`, also read `/metrics`."""
    PUBLISH = "publish"
    """Upload and sign versions; they stay candidates."""
    OPERATE = "operate"
    """Load, release, yank and tag versions, change traffic, drive rollouts."""
    ADMIN = "admin"
    """All of the above, and inspect the server itself."""


IMPLIED: dict[AccessRole, frozenset[AccessRole]] = {
    AccessRole.PREDICT: frozenset({AccessRole.PREDICT}),
    AccessRole.READ: frozenset({AccessRole.READ}),
    AccessRole.PUBLISH: frozenset({AccessRole.PUBLISH, AccessRole.READ}),
    AccessRole.OPERATE: frozenset({AccessRole.OPERATE, AccessRole.READ}),
    AccessRole.ADMIN: frozenset(AccessRole),
}
"""The roles that each role includes."""

SERVER = ""
"""In place of a model's name: the server as a whole. Only `*` matches it."""


@lru_cache(maxsize=4096)
def _pieces(text: str) -> Sequence[str]:
    return text.split("*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name in which each `*` stands for any number of characters, even none; nothing else is special.

    Attributes:
        text: As it was written.
    """

    text: str

    def matches(self, name: str) -> bool:
        """Tells whether the pattern matches the whole of `name`."""
        first, *others = _pieces(self.text)
        if not others:
            return name == first
        *middle, last = others
        at, end = len(first), len(name) - len(last)
        if at > end or not name.startswith(first) or not name.endswith(last):
            return False
        # The first place of each piece leaves the most to those after it, so nothing is tried twice: a regular
        # expression with several stars takes minutes for a subject of a JWT that nearly matches.
        for piece in middle:
            if (found := name.find(piece, at, end)) < 0:
                return False
            at = found + len(piece)
        return True

    def __str__(self) -> str:
        return self.text


def patterns(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Returns patterns of these texts."""
    return tuple(map(Pattern, texts))


@dataclass(frozen=True, slots=True)
class Scope:
    """Roles on models.

    Attributes:
        roles: As they were given, without what they include.
        models: Patterns of names.
        rule: Where it was granted, for people: `grant 2, line 9`, `token ci (1f2e3d4c)`.
    """

    roles: frozenset[AccessRole]
    models: tuple[Pattern, ...]
    rule: str

    def covers(self, role: AccessRole, model: str) -> bool:
        """Tells whether it allows what `role` names with a model."""
        return any(role in IMPLIED[given] for given in self.roles) and any(p.matches(model) for p in self.models)


EVERYTHING = patterns(("*",))
