"""Fixtures that build on each other: repository -> server -> client."""

import functools
import gc
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import onnx
import pytest
from semver import Version

from order import scheduler, sort_key, workers
from turnout.app import Running, running
from turnout.config import Address, Drain, Settings
from turnout.registry.publish import PublishRequest, publish
from turnout.registry.repository import Repository
from turnout.rollout.clock import SYSTEM_CLOCK, Clock
from turnout.routing.declarations import Declarer
from turnout.serving.sandbox.fork_server import SHARED, ForkServer, start_processes
from turnout.serving.sandbox.processes import Processes
from turnout.state.engine import sqlite_url
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger

# Machines are shared and noisy: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("turnout", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("turnout")

# httpx reads the certificates of the world's authorities for each client, 25 ms of CPU, and tests make hundreds.
_make_ssl_context = httpx._transports.default.create_ssl_context


@functools.cache
def _authorities() -> ssl.SSLContext:
    return _make_ssl_context()


def _ssl_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is True and cert is None and trust_env:
        return _authorities()
    return _make_ssl_context(verify, cert, trust_env)


httpx._transports.default.create_ssl_context = _ssl_context

# A shell that runs the tests in the background has them ignore Ctrl-C, and servers and commands under test with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = Address("127.0.0.1", 0)

GPU_TESTS = Path(__file__).parent / "gpu"

TRANSPORTS = ("h2corn", "grpcio")
"""What may carry the calls of the data listener, the default first."""

Publish = Callable[..., str]
StartServer = Callable[..., Awaitable[Running]]


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from every run but one of tests/gpu alone: all other tests are about what a CPU answers."""
    if not all((Path.cwd() / arg.partition("::")[0]).resolve().is_relative_to(GPU_TESTS) for arg in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what is quick first."""
    items.sort(key=sort_key)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests marked `both_transports` once for each transport of the data listener."""
    if metafunc.definition.get_closest_marker("both_transports") and "data_transport" in metafunc.fixturenames:
        metafunc.parametrize("data_transport", TRANSPORTS, indirect=True)


def pytest_collection_finish() -> None:
    """Takes what was imported out of collections: a server collects at each unload, 80 ms of which are our imports."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means here."""
    return workers()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has workers take the tests in their order."""
    return scheduler(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names each test that was left out, and why: pytest itself counts them by the line that they share."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} left out")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session", autouse=True)
def warm_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """One warm process forks the children of every trial run, those of commands and servers under test as well."""
    if all(item.path.parent.name in ("unit", "property") for item in request.session.items):
        yield  # these publish nothing, or start one of their own
        return
    server = ForkServer()
    os.environ[SHARED] = server.address()
    yield
    del os.environ[SHARED]
    server.close()


@pytest.fixture
def processes() -> Processes:
    """Starts children for trial runs."""
    return start_processes()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The root of an empty model repository."""
    return tmp_path / "models"


@pytest.fixture(scope="session")
def empty_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite state store without a row; closed, so that all of it is in the one file."""
    file = tmp_path_factory.mktemp("state") / "state.db"
    StateStore.open(sqlite_url(file)).close()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file


@pytest.fixture
def publish_model(models: Path, tmp_path: Path, empty_state: Path) -> Publish:
    """Publishes `model` (a ModelProto, or the path of a file) as NAME VERSION, released unless told otherwise."""
    state, state_url = models / ".turnout" / "state.db", Settings(models=models).state_url

    def publish_one(
        name: str, version: str, model: onnx.ModelProto | Path, *, release: bool = True, **more: Any
    ) -> str:
        if isinstance(model, onnx.ModelProto):
            path = tmp_path / f"{name}-{version}.onnx"
            onnx.save(model, path)
        else:
            path = model
        repository = Repository(models)
        exact = Version.parse(version)
        result = publish(repository, PublishRequest(name, exact, path, **more))
        if release:
            if not state.exists():
                # As the store would make it, in a tenth of the CPU: hundreds of tests begin so.
                state.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copy(empty_state, state)
            with StateStore.open(state_url) as store:
                Declarer(repository, store).release(name, exact, actor="test", reason="")
        return result.digest

    return publish_one


def make_settings(models: Path, **settings: Any) -> Settings:
    """Settings of a server on free loopback ports."""
    return Settings(
        **{"models": models, "grpc": LOOPBACK, "http": LOOPBACK, "control": LOOPBACK, "drain": Drain(delay_s=0)}
        | settings
    )


@pytest.fixture
def data_transport(request: pytest.FixtureRequest) -> str:
    """What carries the calls of the data listener: the default, or each in turn where tests are marked so."""
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest.fixture
async def start_server(models: Path, data_transport: str) -> AsyncIterator[StartServer]:
    """Starts real servers in this process, on free ports, and stops them at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(*, wait: bool = True, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> Running:
            log = make_logger("json", "warning")
            made = make_settings(models, **{"transport": {"data": data_transport}} | settings)
            server = await stack.enter_async_context(running(made, log, clock))
            if wait:
                await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            return server

        yield start
