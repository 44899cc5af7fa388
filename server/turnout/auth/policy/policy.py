"""The access policy: what each identity may do, and how much. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnout.auth.identity import CONSOLE, LOCAL, Identity
from turnout.auth.policy.pattern_index import PatternIndex
from turnout.auth.roles import EVERYTHING, AccessRole, AccessScope, Pattern

_BUILT_IN = {
    LOCAL.name: AccessScope(frozenset({AccessRole.ADMIN}), EVERYTHING, "auth.loopback"),
    CONSOLE.name: AccessScope(frozenset({AccessRole.OPERATE}), EVERYTHING, "console.token"),
}
"""Scopes of identities that settings other than the policy file allow."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A `[[grant]]` table.

    Attributes:
        identities: Patterns of the identities that it applies to.
        scope: Roles that it grants, and on which models.
    """

    identities: tuple[Pattern, ...]
    scope: AccessScope


@dataclass(frozen=True, slots=True)
class Limit:
    """A `[[limit]]` table. It applies to each identity separately.

    Attributes:
        name: Label of the limit in metrics.
        identities: Patterns of the identities that it applies to.
        per_second: Requests per second in the long run; 0 for no bound.
        burst: Number of requests that may arrive at once after a pause.
        in_flight: Maximum number of requests in flight; 0 for no bound.
    """

    name: str
    identities: tuple[Pattern, ...]
    per_second: float
    burst: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Whether something is allowed, and why.

    Attributes:
        rule: The rule that allows it, or a short reason for the refusal.
    """

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The contents of the policy file.

    Attributes:
        grants: Grants in the order of the file. They add up.
        limits: Limits in the order of the file. The first that matches an identity applies.
    """

    grants: tuple[Grant, ...] = ()
    limits: tuple[Limit, ...] = ()
    _grants_of: PatternIndex = field(init=False, repr=False, compare=False)
    _limits_of: PatternIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_grants_of", PatternIndex(one.identities for one in self.grants))
        object.__setattr__(self, "_limits_of", PatternIndex(one.identities for one in self.limits))

    def scopes_of(self, identity: Identity) -> tuple[AccessScope, ...]:
        """Returns the scopes of an identity whose credential has none of its own."""
        built_in = _BUILT_IN.get(identity.name)
        found = [self.grants[number].scope for number in self._grants_of.matching(identity)]
        return (*([built_in] if built_in is not None else []), *found)

    def limit_of(self, identity: Identity) -> Limit | None:
        """Returns the limit that applies to an identity; None if no limit does."""
        return next((self.limits[number] for number in self._limits_of.matching(identity)), None)


def decide(scopes: Sequence[AccessScope], role: AccessRole, model: str) -> AccessDecision:
    """Decides whether `scopes` include `role` on a model."""
    for scope in scopes:
        if scope.covers(role, model):
            return AccessDecision(True, scope.rule)
    if not scopes:
        return AccessDecision(False, "no grant names this identity")
    held = sorted({str(given) for scope in scopes for given in scope.roles if scope.covers(given, model)})
    what = f"{', '.join(held)} on it" if held else "nothing on it"
    return AccessDecision(False, f"it is granted {what}")
