"""The address of a listener. Separate from the settings, which take a quarter of a second to import. Pure."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a listener.

    Attributes:
        host: Host name or IP address, without brackets for IPv6.
        port: TCP port; 0 for any free port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `HOST:PORT`, where an IPv6 host is in brackets.

        Raises:
            ValueError: The text does not have that form.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001, with a port of 0 to 65535")
        return cls(match["v6"] or match["host"], int(match["port"]))


def cannot_listen(address: Address, reason: str) -> str:
    """Returns the message that a server cannot listen on an address, and what to do."""
    return f"{address} cannot be listened on: {reason}; --grpc, --http and --control name other addresses"


LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})


def is_loopback(host: str) -> bool:
    """Returns whether a listener on `host` can be reached from this machine only."""
    try:
        return host in LOOPBACK_NAMES or ip_address(host).is_loopback
    except ValueError:
        return False
