"""A caller, as the server remembers it from call to call."""

from collections.abc import Callable, Sequence
from math import inf

from turnout.auth.identity import Identity
from turnout.auth.policy.policy import AccessDecision, decide
from turnout.auth.policy.quotas import Quota
from turnout.auth.roles import SERVER, AccessRole, Scope

_MOST_DECISIONS = 1024
"""Decisions that are remembered for a caller; bounded because clients choose the names of models."""


class Caller:
    """One credential that proved to be good, and what its bearer may do.

    Attributes:
        scopes: What they may do.
        own: The scopes are the credential's own, and no policy changes them.
        credential: Names the credential in the log; no secret.
        expires: When it ends, in seconds since 1970.
        ended: Why the credential is no longer valid; "" while it is valid.
        quota: How much of their limit they have used; None if they have no limit.
    """

    __slots__ = (
        "__weakref__", "_decisions", "credential", "ended", "expires", "identity", "own", "quota", "scopes",
    )  # fmt: skip

    def __init__(
        self,
        identity: Identity,
        scopes: Sequence[Scope],
        credential: str,
        expires: float = inf,
        quota: Quota | None = None,
        *,
        own: bool = False,
    ) -> None:
        self.identity = identity
        self.scopes = tuple(scopes)
        self.own = own
        self.credential = credential
        self.expires = expires
        self.ended = ""
        self.quota = quota
        self._decisions: dict[tuple[str, str], bool] = {}

    def may(self, role: AccessRole, model: str) -> bool:
        """Tells whether they may do what `role` allows with a model; decisions are remembered."""
        known = self._decisions.get((role, model))
        if known is None:
            known = decide(self.scopes, role, model).allowed
            if len(self._decisions) >= _MOST_DECISIONS:
                self._decisions.clear()
            self._decisions[role, model] = known
        return known

    def explain(self, role: AccessRole, model: str) -> AccessDecision:
        """Returns the same decision, with its reason."""
        return decide(self.scopes, role, model)

    def sees(self, model: str) -> bool:
        """Tells whether a model is shown to them in lists."""
        return self.may(AccessRole.READ, model)

    def knows(self, model: str) -> bool:
        """Tells whether they may be told a model's name: they may run it, too."""
        return self.may(AccessRole.READ, model) or self.may(AccessRole.PREDICT, model)

    @property
    def seen(self) -> Callable[[str], bool] | None:
        """Tells which models' names they may see; None for all."""
        return None if self.knows(SERVER) else self.knows

    def change(self, scopes: Sequence[Scope], quota: Quota | None) -> None:
        """Puts another policy into force."""
        self.quota = quota
        if not self.own:
            self.scopes = tuple(scopes)
        self._decisions.clear()


def actor_of(caller: Caller | None) -> str:
    """Returns who called, as logs show it; "" if `[auth]` is not enabled."""
    return "" if caller is None else caller.identity.actor
