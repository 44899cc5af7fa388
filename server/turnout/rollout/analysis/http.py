"""Asks over HTTP: bounded in time and size, without redirects, proxies or anything else of the environment's."""

import asyncio
import ssl
from collections.abc import Mapping

from turnout.errors import ConfigError, UnavailableError
from turnout.outbound import HttpAnswer, system_authorities

MOST_BYTES = 256 * 1024
"""Of an answer's body."""

_CONNECTIONS = 8
"""To one endpoint at the same time; who comes later waits within its own time."""


class HttpEndpoint:
    """An endpoint that a probe or a webhook asks. Used on the event loop only.

    An address of a redirect is nobody's choice but the endpoint's, so none is followed.
    """

    def __init__(self, setting: str, ca_file: str, timeout_s: float) -> None:
        """Reads the authorities that it is trusted by. Blocking.

        Args:
            setting: What names `ca_file`, for messages.
            ca_file: PEM file; "" for those of the system.
            timeout_s: How long one answer may take, connecting included.

        Raises:
            ConfigError: `ca_file` cannot be read.
        """
        import httpx  # takes 0.1 s, which the start of a server without probes does not wait for

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
        """Returns what it answers.

        Args:
            method: GET or POST.
            url: The whole URL.
            headers: Sent along.
            content: The body; None if there is none.

        Raises:
            UnavailableError: It does not answer, or not within the bounds; the message says why, and names no URL.
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
        """Closes its connections."""
        await self._client.aclose()

    async def _answer(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> HttpAnswer:
        async with self._client.stream(method, url, headers=dict(headers), content=content) as response:
            if response.has_redirect_location or 300 <= response.status_code < 400:
                raise UnavailableError(f"it answered {response.status_code}, and redirects are not followed")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnavailableError("its answer is compressed, which it was asked not to be")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise UnavailableError(f"its answer has more than {MOST_BYTES >> 10} KiB")
            return HttpAnswer(response.status_code, bytes(body))


def _trust(setting: str, ca_file: str) -> ssl.SSLContext:
    if not ca_file:
        return system_authorities()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise ConfigError(f"{setting}: {ca_file} {why or 'holds no certificates in PEM form'}") from None
