"""Configuration of a client's gRPC channel."""

import ipaddress
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Transport = Literal["unary", "stream"]
"""How predictions are sent: as one call each, or all over one stream."""

Options = Sequence[tuple[str, str | int]]
"""gRPC channel arguments, with the names of gRPC core's `grpc_types.h`."""

Metadata = Sequence[tuple[str, str | bytes]]
"""Key-value pairs sent with each call. The value of a key that ends in `-bin` is bytes."""

_LOCAL = ("unix:", "unix-abstract:", "vsock:")
_SCHEME = re.compile(r"dns:(?:///)?|ipv4:|ipv6:")  # what a DNS server that the target names says of a host is its own
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")
_URL = re.compile(r"(https?|grpcs?|tcp)://", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")

SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_DEFAULTS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    # The client retries by itself: gRPC's retries ignore the time left until the deadline, and RetryInfo.
    ("grpc.enable_retries", 0),
    # -1 removes the size limit, since a tensor may be of any size.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Detects a dead peer within 40 s while a call is pending; sends no pings otherwise.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC core waits 1 s to 2 min between connection attempts, too long for a server that restarts in a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name, the time limit of one attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC core waits 30 s before it resolves a name again. If all pods of a service are replaced meanwhile, it would
    # know the addresses of none that still runs.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.primary_user_agent", "turnout-client"),
)


def channel_options(overrides: Options = (), target: str = "") -> list[tuple[str, str | int]]:
    """Returns the channel arguments of a client of `target`: the defaults, updated with the overrides."""
    options = {**dict(_DEFAULTS), **dict(overrides)}
    if is_local(target):
        # A proxy of the environment is for other machines, and would be sent what need not be encrypted on this one.
        options.setdefault("grpc.enable_http_proxy", 0)
    scheme, _, addresses = target.partition(":")
    if "," in addresses and scheme in ("ipv4", "ipv6"):
        # gRPC would use the whole list as the authority, which is invalid: servers written in Go and Rust reject it.
        options.setdefault("grpc.default_authority", addresses.partition(",")[0])
    return list(options.items())


def checked_target(target: str) -> str:
    """Returns `target` if gRPC understands it as it is meant.

    gRPC takes a URL and an IPv6 address without brackets for host names, and a port that is too large modulo 65,536. A
    target without a port is port 443 to it.

    Raises:
        TypeError: The target is not a string.
        ValueError: The target is empty, a URL, or without a valid port, or it lists several addresses without the
            prefix `ipv4:` or `ipv6:`.
    """
    if not isinstance(target, str):
        raise TypeError(f"expected a target such as '127.0.0.1:8001', got {target!r}")
    if not target or target != target.strip():
        raise ValueError(f"expected a target such as '127.0.0.1:8001', got {target!r}")
    if "," in target and not target.startswith(("ipv4:", "ipv6:")):
        raise ValueError(f"expected several addresses as 'ipv4:HOST:PORT,HOST:PORT', got {target!r}")
    if _URL.match(target):
        raise ValueError(f"expected a target without a URL's scheme, such as '127.0.0.1:8001', got {target!r}")
    if target.startswith(_LOCAL) or ("://" in target and not target.startswith("dns:///")):
        return target  # a scheme of gRPC that has addresses of its own, such as xds:///
    for address in _addresses(target):
        found = _ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found["port"]) < 65_536:
            raise ValueError(f"expected HOST:PORT, such as '127.0.0.1:8001' or '[::1]:8001', got {address!r}")
    return target


def checked_metadata(metadata: Metadata) -> Metadata:
    """Returns `metadata` with its keys in lower case, which gRPC requires.

    Raises:
        ValueError: A key or value cannot be sent. gRPC would fail each call with INTERNAL. The message contains no
            value, since it may be a secret.
    """
    checked = [(key.lower(), value) for key, value in metadata]
    for key, value in checked:
        if not _KEY.fullmatch(key):
            raise ValueError(f"expected a metadata key of letters, digits and '-_.', got {key!r}")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"expected bytes as the value of metadata {key!r}, got {type(value).__name__}")
        elif not _VALUE.fullmatch(value.decode("latin-1") if isinstance(value, bytes) else value):
            raise ValueError(f"expected printable ASCII as the value of metadata {key!r}")
    return checked


def file_stamp(path: str | Path) -> tuple[int, int, int]:
    """Returns numbers that change when the file is replaced or written. Raises OSError if there is no such file."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_local(target: str) -> bool:
    """Tells whether all addresses of a target are this machine's own loopback, or sockets of its file system."""
    if target.startswith(_LOCAL):
        return True
    return all(map(_is_loopback, _addresses(target)))


def _addresses(target: str) -> list[str]:
    named = _SCHEME.match(target)
    return target[named.end() if named else 0 :].split(",")


def _is_loopback(address: str) -> bool:
    host = address[1:].partition("]")[0] if address.startswith("[") else address.rpartition(":")[0] or address
    if host in ("localhost", "localhost.localdomain"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
