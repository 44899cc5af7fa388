"""`turnout top`, as a process against a server in a process of its own."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from semver import Version

from onnx_models import save, scaled
from ports import free_port
from processes import TURNOUT, serving, turnout
from terminals import Terminal, eventually
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_BUSY = r"scale +2\.0\.0 +ready +baseline 100% +[1-9]"
_BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scale` 1.0.0 and 2.0.0, released."""
    folder = tmp_path_factory.mktemp("top")
    with StateStore.open(Settings(models=folder / "models").state_url) as store:
        for number in ("1.0.0", "2.0.0"):
            version = Version.parse(number)
            path = save(scaled(version.major), folder / "model.onnx")
            publish(Repository(folder / "models"), PublishRequest("scale", version, path))
            store.release("scale", version, actor="test", reason="")
    return folder / "models"


@contextmanager
def requests(http: str) -> Iterator[None]:
    """Sends requests for both versions, and now and then one for no model, while the block runs."""
    done = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=f"http://{http}", timeout=30) as client:
            while not done.wait(0.005):
                for path in ("scale", "scale/versions/1.0.0", "nobody"):
                    client.post(f"/v2/models/{path}/infer", json=_BODY)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_once_prints_one_picture_of_an_interval(models: Path) -> None:
    picture: dict[str, Any] = {}
    text = ""
    with serving(models) as server, requests(server.http):

        def busy() -> bool:
            """Takes a picture; a busy machine may have sent nothing to one of the versions meanwhile."""
            done = turnout("top", "--once", "--json", "--interval", "1", "--server", server.control)
            picture.update(json.loads(done.stdout))
            rows = {row["version"]: row for row in picture["versions"]}
            rates = [*(row["requests_per_second"] for row in rows.values()), picture["unrouted_per_second"]]
            return all((rate or 0) > 0 for rate in rates) and len(rows) == 2

        eventually(busy, server.log.read_text)

        def pictured() -> bool:
            nonlocal text
            text = turnout("top", "--once", "--interval", "0.5", "--server", server.control).stdout
            return "reached no version" in text

        eventually(pictured, lambda: text)

    rows = {row["version"]: row for row in picture["versions"]}
    assert picture["seconds"] >= 1
    assert [role["role"] for role in rows["2.0.0"]["roles"]] == ["baseline"]
    assert rows["2.0.0"]["roles"][0]["weight"] == 1
    # It was the baseline for as long as 2.0.0 was not loaded yet.
    assert "pinned" in [role["role"] for role in rows["1.0.0"]["roles"]]
    assert 0 < rows["1.0.0"]["p50_ms"] <= rows["1.0.0"]["p99_ms"]
    assert rows["1.0.0"]["failures_per_second"] == 0
    assert re.search(r"scale +2\.0\.0 +ready +baseline 100% +[\d,.]+", text)


def test_a_terminal_shows_it_live_through_a_restart_and_a_resize(models: Path) -> None:
    with serving(models, control=f"127.0.0.1:{free_port()}") as first:
        terminal = Terminal("top", "--interval", "0.3", "--server", first.control)
        try:
            with requests(first.http):
                terminal.waits_for(_BUSY, "RUNNING")
            terminal.resize(60, 10)
            terminal.waits_for("MODEL.*REQ/S", without="RUNNING")
            terminal.resize(110, 20)
            first.send(signal.SIGKILL)
            first.wait()
            terminal.waits_for(f"no answer from {re.escape(first.control)}", r"scale +2\.0\.0", without="Traceback")
            with serving(models, control=first.control) as second, requests(second.http):
                terminal.waits_for(_BUSY)
                terminal.process.send_signal(signal.SIGINT)
                assert terminal.process.wait(60) == 0
        finally:
            terminal.close()


def test_json_is_a_line_a_picture(models: Path) -> None:
    with serving(models) as server:
        command = [*TURNOUT, "top", "--json", "--interval", "0.2", "--server", server.control]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                pictures = [json.loads(process.stdout.readline()) for _ in range(3)]
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            finally:
                process.kill()
    assert pictures[0]["requests_per_second"] is None
    assert pictures[1]["requests_per_second"] == 0
    assert pictures[0]["up_seconds"] < pictures[1]["up_seconds"] < pictures[2]["up_seconds"]


def test_a_server_that_never_answered_is_an_error() -> None:
    done = turnout("top", "--server", "127.0.0.1:1", check=False)
    assert done.returncode == 1
    assert "no server answers at 127.0.0.1:1" in done.stderr
