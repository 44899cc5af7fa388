"""Fixtures that build on each other: repository -> server -> client."""

import gc
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio

import shared_machine
from log_lines import with_all_lines
from order import folder_of, scheduler, sort_key, workers
from published import Publish, PublishedRepositories
from started_servers import TRANSPORTS, StartServer, starting
from turnout.serving.sandbox.fork_server import SHARED, ForkServer, start_processes
from turnout.serving.sandbox.processes import Processes
from turnout.state.database.engine import sqlite_url
from turnout.state.store import StateStore

# No deadlines, since machines are shared and noisy: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("turnout", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("turnout"), max_examples=30)
hypothesis.settings.load_profile("turnout")

shared_machine.be_patient()
shared_machine.share_what_is_costly()

# A shell that runs the tests in the background makes them, and the servers and commands that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

GPU_TESTS = Path(__file__).parent / "gpu"


def _is_quick(config: pytest.Config) -> bool:
    """Returns whether this is the quick loop, `make check`."""
    return config.option.markexpr == "not slow"


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs unless only tests/gpu run: all other tests are about answers of a CPU."""
    if _is_quick(config):  # `make test` runs the same properties with more examples, by default a hundred
        hypothesis.settings.load_profile("quick")
    if not all((Path.cwd() / arg.partition("::")[0]).resolve().is_relative_to(GPU_TESTS) for arg in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts fast tests first."""
    items.sort(key=sort_key)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests marked `both_transports` once for each transport of the data listener."""
    if metafunc.definition.get_closest_marker("both_transports"):
        for fixture, scope in (("data_transport", "function"), ("module_transport", "module")):
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, TRANSPORTS, indirect=True, scope=scope)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Disables garbage collection during collection, in any worker: it took 1.3 of 10 s of CPU, 3.4 of 15 if bytecode
    has to be compiled first.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Excludes imported modules from garbage collection: a server collects at each unload, which took 80 ms more.

    What is left is collected more rarely: by default, collections took a tenth of the CPU of a server's start and stop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Excludes what earlier files have left, such as modules and caches, from garbage collection, too.

    Collections got slower from file to file: they took an eighth of the CPU of tests/integration.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns the number of workers for `-n auto`."""
    return workers(quick=_is_quick(config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Makes workers run the tests in order."""
    return scheduler(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists each skipped test with its reason. Pytest itself groups them by the line of the skip."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} left out")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session", autouse=True)
def warm_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Starts a process that forks the children of all trial runs, also those of commands and servers under test."""
    if all(folder_of(item) in ("unit", "property") for item in request.session.items):
        yield  # these do not publish, or start their own
        return
    server = ForkServer()
    os.environ[SHARED] = server.address()
    yield
    del os.environ[SHARED]
    server.close()


@pytest.fixture
def capsys(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """Output of this process, including all lines logged so far."""
    return with_all_lines(capsys)


@pytest.fixture
def capfd(capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """The same, including the output of child processes."""
    return with_all_lines(capfd)


@pytest.fixture
def processes() -> Processes:
    """Starts child processes for trial runs."""
    return start_processes()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The root of an empty model repository."""
    return tmp_path / "models"


@pytest.fixture(scope="session")
def empty_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite state store without rows. It is closed, so that it consists of a single file."""
    file = tmp_path_factory.mktemp("state") / "state.db"
    StateStore.open(sqlite_url(file)).close()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, empty_state: Path) -> PublishedRepositories:
    """Repositories that tests have published, to be copied by tests that publish the same."""
    return PublishedRepositories(tmp_path_factory.mktemp("published"), empty_state)


@pytest.fixture
def publish_model(models: Path, tmp_path: Path, published: PublishedRepositories) -> Publish:
    """Publishes `model` (a ModelProto, or the path of a file) as NAME VERSION, released unless `release` is false."""
    return published.publisher(models, tmp_path)


@pytest.fixture
def data_transport(request: pytest.FixtureRequest) -> str:
    """Transport of the data listener: the default, or each in turn in tests with the mark."""
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest.fixture
async def start_server(models: Path, data_transport: str) -> AsyncIterator[StartServer]:
    """Starts real servers in this process, on free ports, and stops them at the end of the test."""
    async with starting(models, data_transport) as start:
        yield start


@pytest.fixture(scope="module")
def module_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a model repository that the tests of a module only read. It is empty at first."""
    return tmp_path_factory.mktemp("module") / "models"


@pytest.fixture(scope="module")
def publish_for_module(module_models: Path, published: PublishedRepositories) -> Publish:
    """Like `publish_model`, for all tests of a module."""
    return published.publisher(module_models, module_models.parent)


@pytest.fixture(scope="module")
def module_transport(request: pytest.FixtureRequest) -> str:
    """Like `data_transport`, for all tests of a module."""
    return str(getattr(request, "param", TRANSPORTS[0]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def start_server_for_module(module_models: Path, module_transport: str) -> AsyncIterator[StartServer]:
    """Like `start_server`, for all tests of a module, which run on the event loop of the module."""
    async with starting(module_models, module_transport) as start:
        yield start
