"""The release before is upgraded under load: its repository, its state store, and its servers, one after the other.

The release before is a commit of this repository, run from its own source with the packages of today.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest

from command_line import run
from forked_commands import turnout_program
from onnx_models import save, scaled
from ports import free_port
from turnout.state.database import migrations
from turnout.state.database.engine import Database, Location
from turnout.state.store import StateStore
from turnout_client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BEFORE = "46f93db5c9a089a849345ac318169acb92cfe2d1"
"""2026-11-29, a schema of the state store ago, and the first commit whose drain fails no request. Write the tag of the
latest release here once there is one."""

ROOT = Path(__file__).parents[3]
SOURCES = ("server", "client", "protos")
X = np.ones((1, 4), np.float32)

# Run by the release before, whose modules have the names that they had then.
FILL = """
import sys
from pathlib import Path
from semver import Version
from turnout.config import Settings
from turnout.registry.publish import PublishRequest, publish
from turnout.registry.repository import Repository
from turnout.routing.declarations import Declarer
from turnout.state.store import StateStore
models, folder = Path(sys.argv[1]), Path(sys.argv[2])
with StateStore.open(Settings(models=models).state_url) as store:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        publish(Repository(models), PublishRequest("m", Version.parse(version), folder / f"{version}.onnx"))
        store.release("m", Version.parse(version), actor="ann", reason="")
    store.set_tag("m", "stable", Version(1, 0, 0), actor="ann", reason="")
    Declarer(Repository(models), store).yank("m", Version(1, 2, 0), actor="ann", reason="leaks")
"""


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source of the release before."""
    folder = tmp_path_factory.mktemp("before")
    archive = ["git", "-C", ROOT, "archive", BEFORE, *SOURCES]
    try:
        done = subprocess.run(archive, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no git, and so no release before this one")
    if done.returncode:
        pytest.skip(f"this checkout does not have the commit {BEFORE[:12]}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


@contextmanager
def server(source: Path, models: Path, grpc: int, log: Path) -> Iterator[Callable[[], None]]:
    """Runs a server of the release in `source` once it is ready; what comes out drains it and waits for its end."""
    environment = os.environ | {
        "PYTHONPATH": ":".join(str(source / name) for name in SOURCES),
        "TURNOUT_DRAIN__DELAY_S": "0.5",
    }
    http = free_port()
    addresses = [f"--grpc=127.0.0.1:{grpc}", f"--http=127.0.0.1:{http}", "--control=127.0.0.1:0"]
    program = [turnout_program()] if source == ROOT else [sys.executable, "-m", "turnout"]
    command = [*program, "serve", f"--models={models}", "--json", *addresses]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, cwd=models.parent, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while not _ready(http):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

        def stop() -> None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()

        yield stop
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def schema_of(models: Path) -> str | None:
    url = f"sqlite:///{models}/.turnout/state.db"
    with closing(Database(Location.parse(url))) as database, database.reading() as connection:
        return migrations.installed(connection)


def test_servers_are_upgraded_one_after_the_other_and_no_request_fails(release_before: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number, version in enumerate(("1.0.0", "1.1.0", "1.2.0"), start=2):
        save(scaled(number), tmp_path / f"{version}.onnx")
    paths = ":".join(str(release_before / name) for name in SOURCES)
    fill = [sys.executable, "-c", FILL, models, tmp_path]
    subprocess.run(fill, check=True, env=os.environ | {"PYTHONPATH": paths}, timeout=120)
    assert schema_of(models) != migrations.HEAD, "the release before is this one"

    ports = [free_port(), free_port()]
    stop = threading.Event()
    answers: list[tuple[str, float]] = []

    def ask(client: Client) -> None:
        while not stop.is_set():
            for selector in ("", "^1", "stable"):
                answer = client.predict("m", {"x": X}, version=selector)
                answers.append((answer.version, float(answer["y"][0, 0])))
                time.sleep(0.02)  # so that the servers get the cores to start on

    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        logs = [tmp_path / f"before-{port}.log" for port in ports]
        started = zip(ports, logs, strict=True)
        old = [stack.enter_context(server(release_before, models, port, log)) for port, log in started]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        clients = [stack.enter_context(Client(target, timeout=60)) for _ in range(2)]
        asking = [pool.submit(ask, client) for client in clients]
        try:
            backed_up = run("state", "backup", tmp_path / "backup.db", "--models", models)
            assert backed_up.returncode == 0, backed_up.stderr
            for port, end in zip(ports, old, strict=True):
                end()
                stack.enter_context(server(ROOT, models, port, tmp_path / f"after-{port}.log"))
                answered = len(answers)
                while len(answers) < answered + 100:
                    assert not any(task.done() for task in asking), [task.exception() for task in asking if task.done()]
                    time.sleep(0.01)
        finally:
            stop.set()
        for task in asking:
            task.result()  # raises what a request failed with
    assert set(answers) == {("1.0.0", 2.0), ("1.1.0", 3.0)}
    assert schema_of(models) == migrations.HEAD
    with StateStore.open(f"sqlite:///{models}/.turnout/state.db") as store:
        found = store.audit()
        assert (found.chain.faults, found.differences) == ((), ())
        assert {str(v): str(s) for v, s in store.release_state().of("m").release_statuses.items()} == {
            "1.0.0": "released", "1.1.0": "released", "1.2.0": "yanked",
        }  # fmt: skip
    for port in ports:
        log = (tmp_path / f"after-{port}.log").read_text()
        assert "Traceback" not in log
        assert '"level": "error"' not in log, log

    # Back again, as docs/operations.md says: the backup from before, and the release before.
    for file in (models / ".turnout").glob("state.db*"):
        file.unlink()
    shutil.copy(tmp_path / "backup.db", models / ".turnout" / "state.db")
    with (
        server(release_before, models, ports[0], tmp_path / "again.log"),
        Client(f"127.0.0.1:{ports[0]}", timeout=60) as client,
    ):
        assert client.predict("m", {"x": X}, version="stable").version == "1.0.0"
