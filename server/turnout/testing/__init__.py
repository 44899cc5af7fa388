"""Runs a real Turnout server in a thread, on free ports, for testing code that calls one.

    from turnout.testing import serve
    from turnout_client import Client

    def test_what_the_model_says() -> None:
        with serve({"scale@1.0.0": "scale.onnx"}) as server, Client(server.grpc) as client:
            assert client.predict("scale", {"x": x})["y"].tolist() == [[2.0, 4.0]]

With pytest, `pytest_plugins = ["turnout.testing.fixtures"]` provides the fixture `turnout_serve`, which does the same
for the duration of a test. `turnout_client.testing` has a fake server that needs no model.
"""

import asyncio
import concurrent.futures
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semver import Version

from turnout.app.server import running
from turnout.config import Drain, Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sessions import providers
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger

_SECONDS = 60.0
"""Time limits for the server to load its versions and to stop, in seconds."""

FREE_PORTS: Mapping[str, Any] = {
    "grpc": "127.0.0.1:0",
    "http": "127.0.0.1:0",
    "control": "127.0.0.1:0",
    "drain": Drain(delay_s=0),
}
"""Settings of a server that listens on free loopback ports and stops without a delay."""


@dataclass
class Served:
    """The addresses of a running server.

    Attributes:
        grpc: Address of the data listener, `127.0.0.1:PORT`: the target for `turnout_client.Client`.
        http: Address of the HTTP listener: REST, the console, `/metrics`.
        control: Address of the control listener, for `turnout ... --server`.
    """

    grpc: str
    http: str
    control: str


@contextmanager
def serve(models: Mapping[str, str | Path] | str | Path, *, wait: bool = True, **settings: Any) -> Iterator[Served]:
    """Runs a server in a thread of this process, and yields its addresses.

    Args:
        models: ONNX files by `NAME@VERSION`, which are published and released; or the path of an existing repository.
        wait: Whether to wait until every version is loaded or has failed.
        settings: Settings of the server, as in `turnout.toml`. By default, it listens on free ports of 127.0.0.1.

    Raises:
        ValueError: A key is not `NAME@VERSION`.
        TurnoutError: A model cannot be published, or the server does not start.
        ConfigError: A setting is invalid.
        TimeoutError: The versions were not loaded within a minute.
    """
    with ExitStack() as stack:
        if isinstance(models, str | Path):
            root = Path(models)
        else:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-"))) / "models"
            publish_models(root, models)
        made = Settings(**{"models": root, **FREE_PORTS, **settings})
        yield stack.enter_context(_serving(made, wait))


def publish_models(root: Path, models: Mapping[str, str | Path]) -> None:
    """Publishes and releases ONNX files in a repository, which is created if necessary.

    Args:
        root: Directory of the repository.
        models: ONNX files by `NAME@VERSION`.

    Raises:
        ValueError: A key is not `NAME@VERSION`.
        TurnoutError: A model cannot be published.
    """
    repository = Repository(root)
    with StateStore.open(Settings(models=root).state_url) as store:
        for reference, path in models.items():
            name, at, number = reference.partition("@")
            if not (name and at and Version.is_valid(number)):
                raise ValueError(f"expected NAME@VERSION such as scale@1.0.0, got {reference!r}")
            version = Version.parse(number)
            publish(repository, PublishRequest(name, version, Path(path)))
            store.release(name, version, actor="turnout.testing", reason="")


@contextmanager
def _serving(settings: Settings, wait: bool) -> Iterator[Served]:
    providers.start_runtime()
    providers.probe()  # once per process, here, because it redirects standard output meanwhile
    started: concurrent.futures.Future[tuple[Served, Callable[[], object]]] = concurrent.futures.Future()

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with running(settings, make_logger("json", "warning")) as server:
            if wait:
                async with asyncio.timeout(_SECONDS):
                    await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            addresses = Served(str(server.grpc), str(server.http), str(server.control))
            started.set_result((addresses, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    with concurrent.futures.ThreadPoolExecutor(1, "server") as pool:
        ended = pool.submit(asyncio.run, run())  # like `turnout serve`: asyncio.run cancels the remaining tasks
        begun: list[concurrent.futures.Future[Any]] = [started, ended]
        concurrent.futures.wait(begun, 2 * _SECONDS, concurrent.futures.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        addresses, stop = started.result(0)
        try:
            yield addresses
        finally:
            stop()
            ended.result(_SECONDS)
