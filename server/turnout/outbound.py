"""What the server asks of other services over HTTP: bounded in time and size, never redirected.

An address of a redirect is nobody's choice but the service's, so none is followed.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from turnout.address import is_loopback


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a service answered.

    Attributes:
        status: The HTTP status.
        body: Its bytes, as they came.
        headers: By name in lower case.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Unanswered(OSError):
    """No answer came.

    Attributes:
        kind: What happened, in a word that holds nothing of the request (`ConnectError`, `ReadTimeout`). The message
            may: of a header that cannot be sent it has the value.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None = None,
    timeout_s: float,
    most_bytes: int,
    ca_file: str = "",
) -> HttpAnswer:
    """Returns what a service answers, whatever its status. Blocking; over the proxies of the environment, save to the
    loopback: what need not be encrypted on this machine is not for a proxy to see.

    No connection is kept.

    Args:
        method: GET or POST.
        url: http or https.
        headers: Sent along; Latin-1.
        content: The body; None if there is none.
        timeout_s: How long it may take to connect, and to send or receive some of it; and the answer's body as a whole.
        most_bytes: Of the answer's body; the rest is left unread, and all of it at 0.
        ca_file: PEM file of the authorities that the service is trusted by; "" for those of the system.

    Raises:
        Unanswered: It does not answer, or not in time.
    """
    import httpx  # takes 0.1 s, which the start of a server that asks nobody does not wait for

    begun, body = time.monotonic(), bytearray()
    try:
        encoded = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
        with (
            httpx.Client(
                verify=ssl.create_default_context(cafile=ca_file) if ca_file else system_authorities(),
                trust_env=not is_loopback(httpx.URL(url).host),
                follow_redirects=False,
                timeout=timeout_s,
                limits=httpx.Limits(max_keepalive_connections=0),
                headers={"user-agent": "turnout", "accept-encoding": "identity"},
            ) as client,
            client.stream(method, url, headers=list(encoded.items()), content=content) as response,
        ):
            chunks = response.iter_raw()
            while len(body) < most_bytes and (chunk := next(chunks, b"")):
                body += chunk
                if time.monotonic() - begun > timeout_s:
                    raise TimeoutError(f"its answer takes more than {timeout_s:g} s")
            return HttpAnswer(response.status_code, bytes(body[:most_bytes]), dict(response.headers))
    except ImportError as error:  # a SOCKS proxy needs a package
        raise Unanswered("ProxyError", "a proxy of the environment cannot be used") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise Unanswered(type(error).__name__, str(error)) from error


@cache
def system_authorities() -> ssl.SSLContext:
    """Returns the system's authorities, which take 25 ms of CPU to read."""
    return ssl.create_default_context()
