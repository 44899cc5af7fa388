"""Each command once as a process of its own: it prints and ends just as the tests' own runner of commands says it does.

All other tests of commands run them inside the tests' process (`tests/support/servers/command_line.py`), and rely on
this.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import command_line
from onnx_models import save, scaled
from processes import Server, serving_in_thread
from turnout.cli.main import application
from turnout_client import Client

pytestmark = pytest.mark.slow

HERE = {
    "serve": "serve --print-config --grpc 127.0.0.1:1",
    "doctor": "doctor",
    "tune": "tune m@3.0.0 --seconds 1",  # of one that is there it says other numbers each time
    "publish": "publish n 1.0.0 3.onnx --release",
    "sign": "sign m@1.0.0 --key key.pem",
    "release": "release m@2.0.0",
    "withdraw": "withdraw m@1.0.0 --reason slow",
    "tag": "tag m stable 1.0.0",
    "yank": "yank m@1.0.0 --reason leaks",
    "unyank": "unyank m@1.0.0 --reason fine",
    "prune": "prune m",
    "models": "models --json",
    "show": "show m@2.0.0 --json",
    "diff": "diff m@1.0.0 m@2.0.0",
    "log": "log m",
    "verify": "verify",
    "export": "export m@1.0.0 --to again",
    "import": "import out --models other",
    "key": "key show key.pem",
    "state": "state backup backup.db",
    "token": "token list",
    "auth": "auth explain dns:a read m",
}
"""Commands on a repository, with what they are given; each on a copy of its own."""

AT_SERVER = {
    "top": "top --once --interval 0.2",
    "predict": "predict m --input x=[[1,2,3,4]]",
    "fetch": "fetch m@1.0.0 --to got",
    "load": "load m@2.0.0",
    "unload": "unload m@2.0.0",
    "shadow": "shadow m",
    "rollback": "rollback m --reason slow",
    "traffic": "traffic explain m --key ann",
    "rollout": "rollout plan m --to 2.0.0",
    "servers": "servers m",
}
"""Commands that ask a server, and come to the same the second time."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with m 1.0.0 released and 2.0.0 a candidate, three models, a key, and out/, an export."""
    folder = tmp_path_factory.mktemp("prepared")
    for number in (1, 2, 3):
        save(scaled(number), folder / f"{number}.onnx")
    for command in (
        "publish m 1.0.0 1.onnx --release",
        "publish m 2.0.0 2.onnx",
        "key new key.pem",
        "export m@1.0.0 --to out",
    ):
        done = command_line.run(*command.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(prepared: Path) -> Iterator[Server]:
    shutil.copytree(prepared / "models", served := prepared.with_name("served") / "models")
    with serving_in_thread(served) as running, Client(running.grpc) as client:
        client.wait_ready("m", timeout=90)
        yield running


def same(here: Path, there: Path, *arguments: str) -> None:
    """Runs a command here in the tests' process, and there in one of its own.

    What a server says of itself may change in between, once a tick: then it is what it says after.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
    inside = command_line.run(*arguments, cwd=here, env=clean)
    command = [Path(sys.executable).with_name("turnout"), *arguments]
    outside = subprocess.run(command, cwd=there, env=clean, capture_output=True, text=True, timeout=100)
    if "--server" in arguments and _shape(inside.stdout, here) != _shape(outside.stdout, there):
        inside = command_line.run(*arguments, cwd=here, env=clean)
    assert inside.returncode == outside.returncode, inside.stderr + outside.stderr
    assert _shape(inside.stdout, here) == _shape(outside.stdout, there)
    assert _shape(inside.stderr, here) == _shape(outside.stderr, there)
    assert inside.stdout or inside.stderr.startswith("error: ")


def _shape(text: str, folder: Path) -> str:
    """Returns `text` without what differs from run to run: where it ran, numbers, digests, the width of columns."""
    text = text.replace(str(folder), "HERE")
    text = re.sub(r"[\d.,:]*\d", "#", re.sub(r"[0-9a-f]{8,}", "#", re.sub(r"[ \t]+", " ", text)))
    return re.sub(r"# (µs|ms|s)\b", "# of time", text)


def test_every_command_is_here() -> None:
    assert sorted([*HERE, *AT_SERVER]) == sorted(get_command(application()).commands)


@pytest.mark.parametrize("command", HERE)
def test_a_process_does_what_the_tests_own_runner_does(prepared: Path, tmp_path: Path, command: str) -> None:
    for side in ("inside", "outside"):
        shutil.copytree(prepared, tmp_path / side)
    same(tmp_path / "inside", tmp_path / "outside", *HERE[command].split())


@pytest.mark.parametrize("command", AT_SERVER)
def test_a_process_asks_a_server_as_the_tests_own_runner_does(server: Server, tmp_path: Path, command: str) -> None:
    for side in ("inside", "outside"):
        (tmp_path / side).mkdir()
    same(tmp_path / "inside", tmp_path / "outside", *AT_SERVER[command].split(), "--server", server.control)
