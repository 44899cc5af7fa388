"""Sends requests to a container registry.

Credentials are found by oras-py: in the files and helpers that `docker login` and `oras login` write. Everything else
is plain HTTP, since oras-py reads whole files into memory and has no timeouts.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from turnout.cancellation import checkpoint
from turnout.config import RepositoryUrl
from turnout.errors import ConfigError
from turnout.outbound import uses_proxies
from turnout.registry.remote.oci_artifacts import MANIFEST_TYPE
from turnout.registry.storage.faults import StoreBusy, StoreFault

_MOST_TOKEN_BYTES = 128 << 10

_OF_BODY = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that no longer apply to a response whose body was read and decoded."""

_LOOPBACK = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""Patterns of httpx for the usual URLs of this machine, to which no proxy leads."""

_NO_PROXIES = {"http": "", "https": "", "all": ""}
"""Overrides the proxies of the environment for one request of `requests`."""

WAITS = (0.1, 0.4, 1.6)
"""Seconds to wait before each further attempt, unless the registry asks for more."""

_LONGEST_WAIT = 10.0
"""Seconds to wait at most if the registry asks for it. A listing or a load that fails is tried again anyway."""

_BUSY = frozenset({429, 502, 503, 504})
"""Statuses of a registry, or of a proxy before it, that will probably answer soon."""

T = TypeVar("T")

Content = bytes | Callable[[], Iterator[bytes]]
"""Body of a request. If it is read from a file, it is a function that reads it from the beginning."""


class OciClient:
    """A client for one repository of a registry."""

    def __init__(self, url: RepositoryUrl, endpoint: str, timeout: float) -> None:
        """Creates the client, as for `OciStore`, without sending a request.

        Raises:
            ConfigError: The extra is not installed.
        """
        self._name = url.path
        self._timeout = timeout
        self._login = _Login(url.host, timeout)
        base = endpoint or f"https://{url.host}"
        # Not `trust_env=False`: the registry may redirect to a host that only a proxy reaches.
        direct = _LOOPBACK if uses_proxies(base) else (*_LOOPBACK, f"all://{urlsplit(base).netloc}")
        self._http = httpx.Client(
            base_url=base,
            timeout=httpx.Timeout(timeout, connect=timeout / 4),
            follow_redirects=True,
            mounts=dict.fromkeys(direct),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()
        self._login.close()

    def ask(
        self,
        method: str,
        path: str | httpx.URL,
        *,
        expect: Sequence[int],
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        most: int = 1 << 20,
    ) -> httpx.Response:
        """Sends a request once, and reads a response of at most `most` bytes.

        Raises:
            StoreFault: No response came in time, or one with an unexpected status; StoreBusy if `patiently` may help.
        """
        with self._answer(method, path, content, headers) as answer:
            with translated():
                body = _bounded(answer.iter_bytes(), most, self._timeout)
            if answer.status_code not in expect:
                raise _refusal(answer, _code(answer.status_code, body))
            plain = {k: v for k, v in answer.headers.items() if k not in _OF_BODY}
            kept = httpx.Response(answer.status_code, headers=plain, content=body, request=answer.request)
            if method == "HEAD":
                kept.headers["content-length"] = answer.headers.get("content-length", "-1")
            return kept

    def stream(self, path: str, start: int = 0) -> Generator[bytes, None, None]:
        """Yields an object in blocks, from the byte `start` on.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreFault: No response came, or one with an unexpected status; StoreBusy if another request for what is
                missing may succeed.
        """
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        with self._answer("GET", path, None, headers) as answer, translated():
            if answer.status_code == 404:
                raise FileNotFoundError(2, "is not there")
            if answer.status_code not in (200, 206):
                raise _refusal(answer, str(answer.status_code))
            skipped = start if answer.status_code == 200 else 0  # the registry does not support ranges
            for block in answer.iter_bytes():
                if rest := block[skipped:]:
                    yield rest
                skipped = max(skipped - len(block), 0)

    def beginning(self, path: str, most: int) -> bytes:
        """Returns the first `most` bytes of an object.

        Raises:
            FileNotFoundError, StoreFault: As for `stream`; also if the bytes do not arrive in time.
        """
        with closing(self.stream(path)) as blocks:
            return _bounded(blocks, most, self._timeout, whole=False)[:most]

    @contextmanager
    def _answer(
        self, method: str, path: str | httpx.URL, content: Content | None, headers: Mapping[str, str] | None
    ) -> Iterator[httpx.Response]:
        """Yields a response whose body is not read yet. Sends the request again if there are new credentials for it."""
        for again in (True, False):
            with translated():
                answer = self._http.send(self._request(method, path, content, headers), stream=True)
            try:
                if answer.status_code == 401 and again and self._renewed(answer):
                    continue
                yield answer
                return
            finally:
                answer.close()

    def _request(
        self, method: str, path: str | httpx.URL, content: Content | None, headers: Mapping[str, str] | None
    ) -> httpx.Request:
        url = path if isinstance(path, httpx.URL) else f"/v2/{self._name}/{path}"
        request = self._http.build_request(
            method,
            url,
            content=content() if callable(content) else content,
            headers={"accept": f"{MANIFEST_TYPE}, */*", **(headers or {})},
        )
        if self._is_registry(request.url):  # credentials must not be sent to other hosts
            request.headers.update(self._login.headers)
        return request

    def _renewed(self, answer: httpx.Response) -> bool:
        """Returns whether there are new credentials to try after a response of 401.

        Only responses from the registry itself count: a redirect may lead anywhere, and its target could have the
        credentials sent elsewhere.
        """
        secure = self._http.base_url.scheme == "https"
        return self._is_registry(answer.url) and self._login.renew(answer, secure=secure)

    def _is_registry(self, url: httpx.URL) -> bool:
        own = self._http.base_url
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)


def patiently(call: Callable[[], T]) -> T:
    """Returns what `call` returns. Calls it again, up to three times, while it raises StoreBusy."""
    for wait in WAITS:
        try:
            return call()
        except StoreBusy as error:
            pause(error, wait)
    return call()


def pause(error: StoreBusy, seconds: float) -> None:
    """Waits before another attempt. Raises `error` if the registry asks for more time than there is."""
    if error.retry_after > _LONGEST_WAIT:
        raise error
    checkpoint()
    time.sleep(max(seconds, error.retry_after) * random.uniform(1.0, 1.2))  # noqa: S311


class _Login:
    """Authenticates requests to the registry with the credentials that oras-py finds."""

    def __init__(self, host: str, timeout: float) -> None:
        try:
            import requests
            from oras.auth.token import TokenAuth
            from oras.container import Container
            from oras.logger import logger
        except ImportError as error:
            raise ConfigError("oci:// needs an extra that is not installed: pip install 'turnout[oci]'") from error
        logger.log_handler = []  # it would write to standard error, bypassing the server's log
        self._session = requests.Session()
        self._session.request = _limited(self._session.request, timeout)  # type: ignore[method-assign] # oras has no bounds
        self._auth: Any = TokenAuth()
        self._auth.session, self._auth._tls_verify = self._session, True
        self._container: Any = Container(f"{host}/name")
        self._lock = Lock()
        self._loaded = False
        self.headers: dict[str, str] = {}

    def close(self) -> None:
        self._session.close()

    def renew(self, answer: httpx.Response, *, secure: bool) -> bool:
        """Obtains the credentials that the registry asks for. Returns False if there are no new ones.

        Args:
            answer: Response with the registry's challenge.
            secure: Whether requests to the registry use HTTPS. If so, credentials are not sent in plain text either.
        """
        challenge = answer.headers.get("www-authenticate", "")
        if secure and re.search(r'realm="?http:', challenge, re.IGNORECASE):
            raise StoreFault(5, "wants its tokens to be fetched in plain text, which is refused")
        with self._lock, translated():
            if not self._loaded:
                self._auth.load_configs(self._container, configs=_login_files())
                self._loaded = True
            basic = getattr(self._auth, "_basic_auth", None)
            if challenge.lower().startswith("basic"):
                before, self.headers = self.headers, {"authorization": f"Basic {basic}"} if basic else {}
                return before != self.headers
            headers, changed = self._auth.authenticate_request(answer, {}, refresh=True)
            self.headers = {"authorization": headers["Authorization"]} if changed else {}
            return bool(changed)


def _login_files() -> list[str]:
    """Returns the credential files named by environment variables, in addition to `~/.docker/config.json`."""
    named = [os.environ.get("REGISTRY_AUTH_FILE", ""), f"{os.environ.get('DOCKER_CONFIG', '')}/config.json"]
    return [file for file in named if file and os.path.isfile(file)]


def _limited(request: Any, timeout: float) -> Any:
    def with_limits(method: str, url: str, **kwargs: Any) -> Any:
        direct = {} if uses_proxies(url) else {"proxies": _NO_PROXIES}
        with request(method, url, **{"timeout": timeout} | kwargs | {"stream": True} | direct) as answer:
            # One byte at a time, since a larger block is awaited in full, however slowly it arrives.
            answer._content = _bounded(answer.iter_content(1), _MOST_TOKEN_BYTES, timeout)
        return answer

    return with_limits


def _bounded(blocks: Iterator[bytes], most: int, seconds: float, *, whole: bool = True) -> bytes:
    data, begun = bytearray(), time.monotonic()
    for block in blocks:
        data += block
        if len(data) > most and whole:
            raise StoreFault(5, f"answers with more than {most} bytes")
        if len(data) >= most and not whole:
            break
        if time.monotonic() - begun > seconds:  # each block arrives in time, but there is no end of them
            raise StoreFault(5, f"takes more than {seconds:g} s for its answer")
    return bytes(data)


def _refusal(answer: httpx.Response, code: str) -> StoreFault:
    """Returns the error for a response with an unexpected status."""
    text = f"answers with an error: {code}"
    if answer.status_code not in _BUSY:
        return StoreFault(5, text)
    given = answer.headers.get("retry-after", "")
    return StoreBusy(5, text, float(given) if re.fullmatch(r"[0-9]{1,6}", given) else 0.0)


def _code(status: int, body: bytes) -> str:
    """Returns the status, and the registry's own error code if there is one."""
    with suppress(ValueError, KeyError, IndexError, TypeError, RecursionError):
        code = str(json.loads(body)["errors"][0]["code"])
        if code.replace("_", "").isalnum() and len(code) <= 64:
            return f"{status} {code}"
    return str(status)


@contextmanager
def translated() -> Iterator[None]:
    """Converts errors of the libraries to OSErrors that contain no address and no credential."""
    try:
        yield
    except (StoreFault, FileNotFoundError, FileExistsError):
        raise
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise StoreBusy(5, f"does not answer: {type(error).__name__}") from error
    except Exception as error:
        raise StoreFault(5, f"does not answer: {type(error).__name__}") from error
