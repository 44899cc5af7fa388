"""HTTP requests that are bounded in time and size, without redirects, proxies or other settings of the environment."""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Mapping

from turnout.errors import ConfigError, UnavailableError
from turnout.outbound import HttpAnswer, system_authorities

MOST_BYTES = 256 * 1024
"""Maximum size of a response's body in bytes."""

_CONNECTIONS = 8
"""Maximum number of connections to one endpoint. Further requests wait, within their own timeout."""


class HttpEndpoint:
    """An endpoint of a probe or a webhook. Used only on the event loop.

    Redirects are not followed, since their targets are not configured by the operator.
    """

    def __init__(self, setting: str, ca_file: str, timeout_s: float) -> None:
        """Reads the certificate authorities for the endpoint. Blocking.

        Args:
            setting: Name of the setting of `ca_file`, for error messages.
            ca_file: Path of a PEM file; "" for the authorities of the system.
            timeout_s: Maximum time for one answer in seconds, including the connection.

        Raises:
            ConfigError: `ca_file` cannot be read.
        """
        import httpx  # imported here, since it takes 0.1 s that a server without probes does not need

        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=_trust(setting, ca_file),
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=1),
            headers={"user-agent": "turnout", "accept": "application/json", "accept-encoding": "identity"},
        )

    async def ask(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> HttpAnswer:
        """Sends a request to the whole `url`, and returns the response.

        Raises:
            UnavailableError: There was no valid response within the bounds. The message says why, but not the URL.
        """
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._answer(method, url, headers, content)
        except (TimeoutError, httpx.TimeoutException):
            raise UnavailableError(f"no answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError:
            raise UnavailableError("it cannot be connected to, or is not trusted") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            raise UnavailableError(f"it does not speak HTTP as expected ({type(error).__name__})") from None
        finally:
            self._client.cookies.clear()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _answer(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> HttpAnswer:
        async with self._client.stream(method, url, headers=dict(headers), content=content) as response:
            if response.has_redirect_location or 300 <= response.status_code < 400:
                raise UnavailableError(f"it answered {response.status_code}, and redirects are not followed")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnavailableError("its answer is compressed, although it was asked not to be")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise UnavailableError(f"its answer has more than {MOST_BYTES >> 10} KiB")
            return HttpAnswer(response.status_code, bytes(body))


def signature_header(secret: str, body: bytes) -> dict[str, str]:
    """Returns the header by which the receiver of a webhook can check a body; empty if there is no secret."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-turnout-signature": f"sha256={digest}"} if secret else {}


def _trust(setting: str, ca_file: str) -> ssl.SSLContext:
    if not ca_file:
        return system_authorities()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise ConfigError(f"{setting}: {ca_file} {why or 'holds no certificates in PEM form'}") from None
