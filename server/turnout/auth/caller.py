"""A caller, cached from call to call."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import inf

from turnout.auth.identity import Identity
from turnout.auth.policy.policy import decide
from turnout.auth.policy.quotas import Quota
from turnout.auth.roles import SERVER, AccessRole, AccessScope

_MOST_DECISIONS = 1024
_LONGEST_NAME = 128
"""Maximum number of permission checks cached for a caller, and of characters in a cached name. Both are bounded because
clients choose the names; no model has a longer one."""


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Caller:
    """A verified credential, and what its bearer may do.

    Attributes:
        scopes: Roles that the caller has, and the models on which it has them.
        own: Whether the scopes belong to the credential, so that changes of the policy do not affect them.
        credential: Name of the credential in the log; not a secret.
        expires: When the credential expires, in seconds since 1970.
        ended: Why the credential is no longer valid; "" while it is valid.
        quota: The caller's use of its limit; None if it has no limit.
    """

    identity: Identity
    scopes: Sequence[AccessScope]
    credential: str
    expires: float = inf
    quota: Quota | None = None
    _: KW_ONLY
    own: bool = False
    ended: str = field(default="", init=False)
    _decisions: dict[tuple[str, str], bool] = field(default_factory=dict, init=False)

    def may(self, role: AccessRole, model: str) -> bool:
        """Returns whether the caller may do what `role` allows with a model. Results are cached."""
        known = self._decisions.get((role, model))
        if known is None:
            known = decide(self.scopes, role, model).allowed
            if len(model) > _LONGEST_NAME:
                return known
            if len(self._decisions) >= _MOST_DECISIONS:
                self._decisions.clear()
            self._decisions[role, model] = known
        return known

    def sees(self, model: str) -> bool:
        """Returns whether lists show the model to the caller."""
        return self.may(AccessRole.READ, model)

    def knows(self, model: str) -> bool:
        """Returns whether the caller may learn that the model exists: it may read it or run it."""
        return self.may(AccessRole.READ, model) or self.may(AccessRole.PREDICT, model)

    @property
    def seen(self) -> Callable[[str], bool] | None:
        """Returns whether the caller may see the name of a model; None if it may see all."""
        return None if self.knows(SERVER) else self.knows

    def change(self, scopes: Sequence[AccessScope], quota: Quota | None) -> None:
        """Applies the scopes and quota of another policy."""
        self.quota = quota
        if not self.own:
            self.scopes = tuple(scopes)
        self._decisions.clear()


def actor_of(caller: Caller | None) -> str:
    """Returns the caller's name in logs; "" if `[auth]` is not enabled."""
    return "" if caller is None else caller.identity.actor
