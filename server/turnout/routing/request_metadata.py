"""Routing preferences in a call's metadata, for all protocols.

x-turnout-role          baseline: no canary answers
x-turnout-version       a selector that replaces the request's own, from callers that may override it
x-routing-key           the key of requests that carry none themselves (the name is configurable)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote

from turnout.config import Routing
from turnout.errors import InvalidRequest, PermissionDeniedError
from turnout.serving.data_plane.inference import ServingRole

ROLE = "x-turnout-role"
VERSION = "x-turnout-version"
MAX_KEY_BYTES = 1024

Pairs = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Preferences:
    """The routing preferences of a call.

    Attributes:
        routing_key: Routing key of requests that carry none; "" for none.
        selector: Selector that replaces the requests' own; None for no replacement.
        baseline_only: Whether no canary may answer.
    """

    routing_key: str = ""
    selector: str | None = None
    baseline_only: bool = False

    def selector_of(self, own: str) -> str:
        """Returns the effective selector of a request whose own selector is `own`."""
        return own if self.selector is None else self.selector


NO_PREFERENCES = Preferences()


class PreferenceReader:
    """Reads preferences from metadata.

    Attributes:
        keys: Metadata keys of preferences, in lower case.
        wire_keys: The same keys as bytes.
    """

    def __init__(self, settings: Routing) -> None:
        self._key = settings.key_header
        self._networks = settings.version_override_from
        self.keys = frozenset((self._key, ROLE, VERSION))
        self.wire_keys = frozenset(key.encode() for key in self.keys)

    def read(self, metadata: Pairs, caller: Callable[[], str]) -> Preferences:
        """Reads a call's metadata, with keys in lower case. `caller` returns the caller's address if it matters.

        Raises:
            InvalidRequest: A value is invalid.
            PermissionDeniedError: The caller may not force a version.
        """
        known = self.keys
        if not (found := [(key, value) for key, value in metadata if key in known]):
            return NO_PREFERENCES
        return self._preferences(found, caller)

    def _preferences(self, found: Sequence[tuple[str, str | bytes]], caller: Callable[[], str]) -> Preferences:
        routing_key, selector, baseline_only = "", None, False
        for key, value in found:
            data = value if isinstance(value, bytes) else value.encode()
            text = data.decode("utf-8", "replace")
            if key == self._key:
                if len(data) > MAX_KEY_BYTES:
                    raise InvalidRequest.at(f"metadata {key}", f"expected at most {MAX_KEY_BYTES} bytes")
                # What is not UTF-8 is kept as well, so that different keys remain different.
                routing_key = data.decode("utf-8", "surrogateescape")
            elif key == ROLE:
                if text != ServingRole.BASELINE:
                    raise InvalidRequest.at(f"metadata {key}", f"expected {ServingRole.BASELINE!s}, got {text[:64]!r}")
                baseline_only = True
            else:
                if not self._may_override(caller()):
                    raise PermissionDeniedError(
                        f"metadata {key}: this caller may not force a version (routing.version_override_from)"
                    )
                selector = text
        return Preferences(routing_key, selector, baseline_only)

    def _may_override(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:  # a Unix socket, or no address at all
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def peer_host(peer: str) -> str:
    """Returns the address in gRPC's name of a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return unquote(rest).rpartition(":")[0].strip("[]")
