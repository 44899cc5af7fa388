"""The policy in force: who may do what, and how much. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.auth.identity import CONSOLE, LOCAL, Identity
from turnout.auth.roles import EVERYTHING, AccessRole, Pattern, Scope

_BUILT_IN = {
    LOCAL.name: Scope(frozenset({AccessRole.ADMIN}), EVERYTHING, "auth.loopback"),
    CONSOLE.name: Scope(frozenset({AccessRole.OPERATE}), EVERYTHING, "console.token"),
}
"""The scope of callers that a setting lets in."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A table `[[grant]]`.

    Attributes:
        identities: Patterns of the identities that it is for.
        scope: What it allows.
    """

    identities: tuple[Pattern, ...]
    scope: Scope


@dataclass(frozen=True, slots=True)
class Limit:
    """A table `[[limit]]`; it applies to each identity separately.

    Attributes:
        name: Its label in metrics.
        identities: Patterns of the identities that it is for.
        per_second: Requests a second, in the long run; 0 for no bound.
        burst: Requests that may come at once after a pause.
        in_flight: Requests under way at once; 0 for no bound.
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
        allowed: Whether it is.
        rule: The rule that allows it; otherwise the reason for the refusal, in a few words.
    """

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What the policy file says.

    Attributes:
        grants: In the file's order; they add up.
        limits: In the file's order; the first that matches somebody applies.
    """

    grants: tuple[Grant, ...] = ()
    limits: tuple[Limit, ...] = ()

    def scopes_of(self, identity: Identity) -> tuple[Scope, ...]:
        """Returns what an identity may do that has no scopes of its own."""
        built_in = _BUILT_IN.get(identity.name)
        found = [grant.scope for grant in self.grants if any(map(identity.goes_by, grant.identities))]
        return (*([built_in] if built_in is not None else []), *found)

    def limit_of(self, identity: Identity) -> Limit | None:
        """Returns the limit that applies to an identity; None if there is none."""
        return next((one for one in self.limits if any(map(identity.goes_by, one.identities))), None)


def decide(scopes: Sequence[Scope], role: AccessRole, model: str) -> AccessDecision:
    """Tells whether these scopes allow what `role` names, with a model of this name."""
    for scope in scopes:
        if scope.covers(role, model):
            return AccessDecision(True, scope.rule)
    if not scopes:
        return AccessDecision(False, "no grant names this identity")
    held = sorted({str(given) for scope in scopes for given in scope.roles if scope.covers(given, model)})
    what = f"{', '.join(held)} on it" if held else "nothing on it"
    return AccessDecision(False, f"it is granted {what}")
