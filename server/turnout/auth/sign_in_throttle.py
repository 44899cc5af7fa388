"""Slows down repeated sign-in failures, for each peer and overall. Pure: time is passed in."""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

_FREE = 5
"""Number of failures at which a peer has to wait: people mistype."""
_FIRST = 1.0
_LONGEST = 900.0
"""Wait after that failure, and the longest wait, in seconds. Each further failure doubles the wait."""
_FORGET = 3600.0
_MOST_PEERS = 4096
_BURST = 100.0
_PER_SECOND = 2.0
"""Failures of all peers together that are accepted: at once after a quiet time, and per second in the long run."""


@dataclass(slots=True)
class _Peer:
    failures: int
    until: float
    last: float


class SignInThrottle:
    """Determines how long a peer has to wait before its next attempt."""

    def __init__(self, share: int = 1) -> None:
        """Creates a throttle without failures. Those of all peers together are divided among `share` processes."""
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._burst = max(_BURST / share, 1.0)
        self._per_second = _PER_SECOND / share
        self._left = self._burst
        self._at = 0.0

    def wait(self, host: str, now: float) -> float:
        """Returns how many seconds a peer has to wait; 0 if it may try now."""
        self._refill(now)
        peer = self._peers.get(_network(host))
        if peer is not None and peer.until > now:
            return peer.until - now
        return 0.0 if self._left >= 1.0 else (1.0 - self._left) / self._per_second

    def failed(self, host: str, now: float) -> None:
        """Counts a failed attempt."""
        self._refill(now)
        self._left = max(self._left - 1.0, 0.0)
        key = _network(host)
        peer = self._peers.pop(key, None)
        if peer is None or now - peer.last > _FORGET:
            peer = _Peer(0, 0.0, now)
        peer.failures += 1
        peer.last = now
        if peer.failures >= _FREE:
            peer.until = now + min(_FIRST * 2.0 ** min(peer.failures - _FREE, 20), _LONGEST)
        self._peers[key] = peer
        if len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)

    def succeeded(self, host: str) -> None:
        """Forgets a peer's failures."""
        self._peers.pop(_network(host), None)

    def _refill(self, now: float) -> None:
        self._left = min(self._left + max(now - self._at, 0.0) * self._per_second, self._burst)
        self._at = now


def _network(host: str) -> str:
    """Returns the network that counts as one peer: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or (int(address) >> 64))
    return str(address)
