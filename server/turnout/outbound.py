"""HTTP requests that the server sends to other services, with limits on time and size.

Redirects are not followed, because their target would be chosen by the service and not by the configuration.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

from turnout.address import is_loopback


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The response of a service.

    Attributes:
        status: HTTP status code.
        body: The body as received.
        headers: Headers by lowercase name.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Unanswered(OSError):
    """Raised when a service did not respond.

    Attributes:
        kind: Name of the error, such as `ConnectError` or `ReadTimeout`. It contains no part of the request. The
            message may do so: for a header that cannot be sent, it contains the value.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def uses_proxies(url: str) -> bool:
    """Returns whether requests to `url` pass through the proxies that are configured in the environment.

    Those to loopback addresses do not: plain text meant for this machine must not leave it.
    """
    return not is_loopback(urlsplit(url).hostname or "")


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
    """Sends a request, and returns the response regardless of its status. Blocking.

    Uses the proxies of the environment as `uses_proxies` says. The connection is closed afterwards.

    Args:
        method: GET or POST.
        url: An http or https URL.
        headers: Request headers, encoded as Latin-1.
        content: Request body; None for no body.
        timeout_s: Timeout in seconds for connecting, and for each read and write. Everything together may take twice as
            long, even if the service sends its response byte by byte.
        most_bytes: Maximum number of bytes of the response body to read; the rest is ignored.
        ca_file: PEM file of the certificate authorities to trust; "" for the system's authorities.

    Raises:
        Unanswered: The service does not respond, or not in time.
    """
    import httpx  # takes 0.1 s, which a server that sends no requests should not spend

    async def exchange() -> HttpAnswer:
        encoded = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
        body = bytearray()
        async with (
            asyncio.timeout(2 * timeout_s),
            httpx.AsyncClient(
                verify=ssl.create_default_context(cafile=ca_file) if ca_file else system_authorities(),
                trust_env=uses_proxies(url),
                follow_redirects=False,
                timeout=timeout_s,
                limits=httpx.Limits(max_keepalive_connections=0),
                headers={"user-agent": "turnout", "accept-encoding": "identity"},
            ) as client,
            client.stream(method, url, headers=list(encoded.items()), content=content) as response,
        ):
            chunks = response.aiter_raw()
            while len(body) < most_bytes and (chunk := await anext(chunks, b"")):
                body += chunk
            return HttpAnswer(response.status_code, bytes(body[:most_bytes]), dict(response.headers))

    try:
        return asyncio.run(exchange())  # a loop of its own, since only that can bound the time of everything together
    except ImportError as error:  # the package for SOCKS proxies is not installed
        raise Unanswered("ProxyError", "a proxy of the environment cannot be used") from error
    except TimeoutError as error:
        raise Unanswered("TimeoutError", f"its answer takes more than {2 * timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise Unanswered(type(error).__name__, str(error)) from error


@cache
def system_authorities() -> ssl.SSLContext:
    """Returns a TLS context with the system's certificate authorities. Cached, since this takes 25 ms of CPU time."""
    return ssl.create_default_context()
