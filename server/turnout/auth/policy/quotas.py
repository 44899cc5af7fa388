"""Limits the requests of each identity by a token bucket and by the number in flight. Pure: time is passed in."""

from collections import OrderedDict
from itertools import islice
from weakref import WeakValueDictionary

from turnout.auth.policy.policy import Limit
from turnout.errors import Exhausted

_MOST = 10_000
"""Maximum number of identities that no cached caller has. Beyond it, the one without requests in flight whose last new
credential came longest ago is dropped."""
_SCANNED = 16
_RETRY_IN_FLIGHT = 0.1
_LEAST_RETRY = 0.001


class Quota:
    """The use that one identity has made of its limit."""

    __slots__ = ("__weakref__", "_at", "_left", "in_flight", "limit")

    def __init__(self, limit: Limit, now: float) -> None:
        self.limit = limit
        self.in_flight = 0
        self._left = limit.burst
        self._at = now

    def change(self, limit: Limit) -> None:
        """Puts another limit into force. Requests in flight stay counted."""
        self.limit = limit
        self._left = min(self._left, limit.burst)

    def take(self, now: float) -> float:
        """Counts a request against the rate and returns 0, or returns the seconds to wait without counting it."""
        limit = self.limit
        if not limit.per_second:
            return 0.0
        left = min(self._left + (now - self._at) * limit.per_second, limit.burst)
        self._at = now
        if left >= 1.0:
            self._left = left - 1.0
            return 0.0
        self._left = left
        return max((1.0 - left) / limit.per_second, _LEAST_RETRY)

    def enter(self, now: float) -> None:
        """Counts the start of a request. Call `leave` when it ends.

        Raises:
            QuotaExceeded: The request exceeds the limit.
        """
        limit = self.limit
        if limit.in_flight and self.in_flight >= limit.in_flight:
            raise QuotaExceeded(limit, "in_flight", _RETRY_IN_FLIGHT)
        if wait := self.take(now):
            raise QuotaExceeded(limit, "rate", wait)
        self.in_flight += 1

    def leave(self) -> None:
        """Counts the end of a request."""
        self.in_flight -= 1


class QuotaExceeded(Exhausted):
    """Raised when an identity makes more requests than its limit allows.

    Attributes:
        bound: The bound that was reached: `rate` or `in_flight`.
    """

    def __init__(self, limit: Limit, bound: str, retry_after: float) -> None:
        most = f"{limit.per_second:g} requests a second" if bound == "rate" else f"{limit.in_flight} requests at once"
        super().__init__(f"this identity may make {most} on this server (limit {limit.name})", retry_after=retry_after)
        self.limit = limit.name
        self.bound = bound


class Quotas:
    """The quotas of all identities, bounded in number."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._by_name: OrderedDict[str, Quota] = OrderedDict()
        self._held: WeakValueDictionary[str, Quota] = WeakValueDictionary()  # also those that only callers hold

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, name: str, limit: Limit, now: float) -> Quota:
        """Returns the quota of an identity, with `limit` in force."""
        quota = self._held.get(name)
        if quota is None:
            quota = self._held[name] = Quota(limit, now)
        elif quota.limit != limit:
            quota.change(limit)
        if name not in self._by_name and len(self._by_name) >= self._most:
            self._let_go()
        self._by_name[name] = quota
        self._by_name.move_to_end(name)
        return quota

    def _let_go(self) -> None:
        for name in islice(self._by_name, _SCANNED):
            if not self._by_name[name].in_flight:
                del self._by_name[name]
                return
        self._by_name.popitem(last=False)  # all have requests in flight
