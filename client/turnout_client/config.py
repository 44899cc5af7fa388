"""How a client's channel is set up."""

import ipaddress
import json
import re
from collections.abc import Sequence
from typing import Literal

Transport = Literal["unary", "stream"]
"""How predictions are sent: one call each, or all over one stream."""

Options = Sequence[tuple[str, str | int]]
"""gRPC channel arguments, as the core's `grpc_types.h` names them."""

Metadata = Sequence[tuple[str, str | bytes]]
"""Pairs sent with each call; a key that ends in `-bin` has bytes for its value."""

_LOCAL = ("unix:", "unix-abstract:", "vsock:")
_SCHEME = re.compile(r"dns:(?:///)?|ipv4:|ipv6:")  # what a DNS server that the target names says of a host is its own

SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_DEFAULTS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    # Retries are this client's own: gRPC's would not heed the deadline's rest or RetryInfo.
    ("grpc.enable_retries", 0),
    # Tensors are as large as they are; -1 is no bound.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Finds a dead peer under a waiting call after 40 s at most, and sends nothing if no call waits.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # The core waits 1 s to 2 min between attempts to connect, too long for a server that restarts in a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # bounds the time of one attempt, whatever its name says
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.primary_user_agent", "turnout-client"),
)


def channel_options(overrides: Options = (), target: str = "") -> list[tuple[str, str | int]]:
    """Returns the channel arguments of a client: the defaults, each replaced by the override of the same name.

    Args:
        overrides: Of the defaults.
        target: The channel's target, if it is known.
    """
    options = {**dict(_DEFAULTS), **dict(overrides)}
    if is_local(target):
        # A proxy of the environment is for other machines, and would be sent what need not be encrypted on this one.
        options.setdefault("grpc.enable_http_proxy", 0)
    scheme, _, addresses = target.partition(":")
    if "," in addresses and scheme in ("ipv4", "ipv6"):
        # gRPC would name all of them as the authority, which is not an authority, and servers in Go and Rust refuse it.
        options.setdefault("grpc.default_authority", addresses.partition(",")[0])
    return list(options.items())


def checked_target(target: str) -> str:
    """Checks that gRPC can read `target`, and returns it.

    Raises:
        ValueError: It is empty, or lists several addresses without saying that they are addresses.
    """
    if not target or target != target.strip():
        raise ValueError(f"expected a target such as '127.0.0.1:8001', got {target!r}")
    if "," in target and not target.startswith(("ipv4:", "ipv6:")):
        raise ValueError(f"expected several addresses as 'ipv4:HOST:PORT,HOST:PORT', got {target!r}")
    return target


def is_local(target: str) -> bool:
    """Tells whether all addresses of a target are this machine's own loopback, or sockets of its file system."""
    if target.startswith(_LOCAL):
        return True
    named = _SCHEME.match(target)
    return all(map(_is_loopback, target[named.end() if named else 0 :].split(",")))


def _is_loopback(address: str) -> bool:
    host = address[1:].partition("]")[0] if address.startswith("[") else address.rpartition(":")[0] or address
    if host in ("localhost", "localhost.localdomain"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
