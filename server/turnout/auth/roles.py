"""The five roles, and the models on which they are granted. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class AccessRole(StrEnum):
    """A permission on a model. Grants assign roles, and calls require them."""

    PREDICT = "predict"
    """Run the model, and read its inputs and outputs."""
    READ = "read"
    """See the model in lists and the console, describe and fetch its versions; on `*`, also read `/metrics`."""
    PUBLISH = "publish"
    """Upload and sign versions, which stay candidates."""
    OPERATE = "operate"
    """Load, release, yank and tag versions, change traffic, and control rollouts."""
    ADMIN = "admin"
    """Everything above, and inspect the server itself."""


IMPLIED: dict[AccessRole, frozenset[AccessRole]] = {
    AccessRole.PREDICT: frozenset({AccessRole.PREDICT}),
    AccessRole.READ: frozenset({AccessRole.READ}),
    AccessRole.PUBLISH: frozenset({AccessRole.PUBLISH, AccessRole.READ}),
    AccessRole.OPERATE: frozenset({AccessRole.OPERATE, AccessRole.READ}),
    AccessRole.ADMIN: frozenset(AccessRole),
}
"""The roles that each role includes."""

SERVER = ""
"""The server as a whole, in place of a model's name. Only `*` matches it."""


@lru_cache(maxsize=4096)
def _pieces(text: str) -> Sequence[str]:
    return text.split("*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name in which each `*` stands for any number of characters, including none. No other character is special."""

    text: str

    def matches(self, name: str) -> bool:
        """Returns whether the pattern matches the whole of `name`."""
        first, *others = _pieces(self.text)
        if not others:
            return name == first
        *middle, last = others
        at, end = len(first), len(name) - len(last)
        if at > end or not name.startswith(first) or not name.endswith(last):
            return False
        # Taking the first match of each piece leaves the most room for the next ones, so no backtracking is needed. A
        # regular expression with several stars would take minutes on a JWT subject that nearly matches.
        for piece in middle:
            if (found := name.find(piece, at, end)) < 0:
                return False
            at = found + len(piece)
        return True

    def __str__(self) -> str:
        return self.text


def patterns(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Returns a pattern for each text."""
    return tuple(map(Pattern, texts))


@dataclass(frozen=True, slots=True)
class AccessScope:
    """Roles on models.

    Attributes:
        roles: Roles granted, without the roles that they include.
        models: Patterns of model names.
        rule: Origin of the grant, for display: `grant 2, line 9`, `token ci (1f2e3d4c)`.
    """

    roles: frozenset[AccessRole]
    models: tuple[Pattern, ...]
    rule: str

    def covers(self, role: AccessRole, model: str) -> bool:
        """Returns whether the scope includes `role` on a model."""
        return any(role in IMPLIED[given] for given in self.roles) and any(p.matches(model) for p in self.models)


EVERYTHING = patterns(("*",))
