"""A caller, cached from call to call."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from math import inf

from turnout.auth.identity import Identity
from turnout.auth.policy.policy import decide
from turnout.auth.policy.quotas import Quota
from turnout.auth.roles import SERVER, AccessRole, AccessScope

_MOST_DECISIONS = 65_536
_LONGEST_NAME = 128
"""Maximum number of permission checks cached for all callers, and of characters in a cached name. Both are bounded
because clients choose the names; no model has a longer one."""


class Decisions(dict[tuple[int, str, str], bool]):
    """Cached permission checks of all callers, by the caller's number, the role and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()

    def add(self, key: tuple[int, str, str], allowed: bool) -> None:
        """Adds a result. A full cache is emptied first."""
        if len(self) >= _MOST_DECISIONS:
            self.clear()
        self[key] = allowed


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
        decisions: Where results of `may` are cached.
        nbytes: Approximate memory of the caller in bytes, without those.
    """

    identity: Identity
    scopes: Sequence[AccessScope]
    credential: str
    expires: float = inf
    quota: Quota | None = None
    _: KW_ONLY
    own: bool = False
    decisions: Decisions = field(default_factory=Decisions)
    ended: str = field(default="", init=False)
    nbytes: int = field(init=False)
    _number: int = field(init=False)

    def __post_init__(self) -> None:
        self._number = next(self.decisions.numbers)
        names = (self.identity.name, *self.identity.also, self.credential)
        self.nbytes = sum(map(sys.getsizeof, (self, self.identity, self.identity.also, self.scopes, *names)))

    def may(self, role: AccessRole, model: str) -> bool:
        """Returns whether the caller may do what `role` allows with a model. Results are cached."""
        key = (self._number, role, model)
        known = self.decisions.get(key)
        if known is None:
            known = decide(self.scopes, role, model).allowed
            if len(model) <= _LONGEST_NAME:
                self.decisions.add(key, known)
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
        self._number = next(self.decisions.numbers)  # so that earlier decisions are not found again


def actor_of(caller: Caller | None) -> str:
    """Returns the caller's name in logs; "" if `[auth]` is not enabled."""
    return "" if caller is None else caller.identity.actor
