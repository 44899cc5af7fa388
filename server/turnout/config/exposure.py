"""Finds listeners that other machines can reach without TLS or without authentication. Pure."""

from turnout.address import Address, is_loopback
from turnout.config.settings import Settings
from turnout.config.tls import LISTENERS, ListenerName
from turnout.errors import ConfigError


def open_to_anybody(settings: Settings) -> list[ListenerName]:
    """Returns the listeners that other machines can reach and that lack TLS or authentication."""
    return [listener for listener in LISTENERS if _lacks(settings, listener)]


def check_exposure(settings: Settings) -> None:
    """Checks that no listener is open to every machine that can reach it, unless `insecure` is set.

    Raises:
        ConfigError: A listener lacks TLS or authentication, and `insecure` is not set. The message says what to
            configure.
    """
    found = open_to_anybody(settings)
    if not found or settings.insecure:
        return
    listener = found[0]
    address: Address = getattr(settings, listener)
    lacks = _lacks(settings, listener)
    remedies = {"TLS": '[tls] cert = "server.pem" and key = "server.key"', "identities": "[auth] enabled = true"}
    every = ", ".join(f"{one} ({getattr(settings, one)})" for one in found)
    raise ConfigError(
        f"{every}: other machines reach {'it' if len(found) == 1 else 'them'}, and {listener} has no "
        f"{' and '.join(lacks)}, so anybody there could use it. Write one of these: "
        f"--{listener} 127.0.0.1:{address.port}, for this machine alone; "
        f"{' and '.join(remedies[one] for one in lacks)}, for clients that prove who they are (docs/security.md); "
        "--insecure (or insecure = true, or TURNOUT_INSECURE=true), to accept unauthenticated callers"
    )


def _lacks(settings: Settings, listener: ListenerName) -> list[str]:
    address: Address = getattr(settings, listener)
    if is_loopback(address.host):
        return []
    tls = settings.tls.of(listener)
    lacks = [] if tls is not None else ["TLS"]
    if not settings.auth.enabled and (tls is None or tls.client_certificates != "required"):
        lacks.append("identities")
    return lacks
