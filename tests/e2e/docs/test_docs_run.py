"""What the README, the quick start and the how-tos tell their reader to do is done, and what they say is seen is
seen.
"""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from debian import PACKAGES, missing
from doc_pages import Command, NotRun, steps
from doc_shell import Shell
from forked_commands import forked_turnout
from ports import free_port

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "quick-start.md", DOCS.parent / "README.md", *sorted((DOCS / "how-to").glob("*.md"))]
OF_ITS_OWN = PAGES[:1]
"""Where each `turnout` is an interpreter of its own, as for the reader. On other pages it is forked: a second less."""

SETTINGS = {"127.0.0.1:8001": "GRPC", "127.0.0.1:8000": "HTTP", "127.0.0.1:8003": "CONTROL"}

BOUND = 240.0
"""Seconds that a command may take: publishing gives way to whatever else runs, and the other tests do."""

NOT_RUN = [
    ("quick-start.md", "the tests have Turnout installed already"),
    ("README.md", "the tests have Turnout installed already"),
    ("dashboards.md", "needs Docker"),
    ("gpu.md", "the tests have Turnout installed already"),
    ("gpu.md", "needs an NVIDIA GPU and TensorRT"),
    ("gpu.md", "needs an NVIDIA GPU and TensorRT"),
    ("gpu.md", "needs an NVIDIA GPU and TensorRT"),
    ("gpu.md", "needs an NVIDIA GPU and TensorRT"),
    ("gpu.md", "needs an NVIDIA GPU"),
    ("tune.md", "takes half a minute, and says other numbers on each machine"),
]
"""Page and reason of each fence that is not run. One more has to be written down here too."""


def test_every_page_is_here() -> None:
    assert [page.name for page in PAGES] == [
        "quick-start.md",
        "README.md",
        "automatic-rollout.md",
        "canary-by-hand.md",
        "dashboards.md",
        "gpu.md",
        "publish-from-ci.md",
        "shadow.md",
        "sign-versions.md",
        "tune.md",
    ]


def test_what_is_not_run_is_what_is_said_here() -> None:
    found = [(page.name, step.reason) for page in PAGES for step in steps(page) if isinstance(step, NotRun)]
    assert found == NOT_RUN


@pytest.mark.slow
def test_a_forked_turnout_prints_and_ends_as_one_of_its_own_does(tmp_path: Path) -> None:
    commands = """
        turnout --version; echo $?
        turnout models --models none; echo $?
        TURNOUT_GRPC=nowhere turnout serve 2>&1; echo $?
        turnout publish m 1.0.0 nothing.onnx > out.txt 2> err.txt < /dev/null; echo $?; cat out.txt err.txt
    """
    own, forked = (tmp_path / name for name in ("own", "forked"))
    message = []
    with forked_turnout(tmp_path / "programs"):
        for directory, programs in ((own, []), (forked, [tmp_path / "programs"])):
            directory.mkdir()
            path = ":".join(map(str, [*programs, Path(sys.executable).parent, os.environ["PATH"]]))
            shell = {"cwd": directory, "env": os.environ | {"PATH": path}, "capture_output": True, "text": True}
            done = subprocess.run(["bash", "-c", commands], timeout=120, **shell)
            message.append((done.returncode, done.stdout, done.stderr))
    assert message[0] == message[1]
    assert message[0][1].count("\n") > 6


@pytest.mark.slow
def test_a_forked_server_is_drained_by_sigterm_and_killed_with_what_started_it(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    listen = [f"--{name}=127.0.0.1:0" for name in ("grpc", "http", "control")]
    listening = re.compile(r'"http": "127.0.0.1:(\d+)"')
    with forked_turnout(programs):
        for number, ends in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
            log = tmp_path / f"{number.name}.log"
            with log.open("w") as output:
                server = subprocess.Popen(
                    [programs / "turnout", "serve", "--json", *listen], cwd=tmp_path, stderr=output
                )
            _until(lambda log=log: listening.search(log.read_text()), server.kill)
            (http,) = listening.findall(log.read_text())
            server.send_signal(number)
            assert server.wait(60) == ends
            _until(lambda http=http: not _listens(int(http)), server.kill)


@pytest.mark.slow
def test_a_forked_turnout_that_is_killed_as_it_ends_ends_no_other(tmp_path: Path) -> None:
    """What forks commands may get no core for a while, and then learns of several things at once."""
    program, before = tmp_path / "programs" / "turnout", set(multiprocessing.active_children())
    listen = [f"--{name}=127.0.0.1:0" for name in ("grpc", "http", "control")]
    with forked_turnout(program.parent):
        (forker,) = set(multiprocessing.active_children()) - before
        forking = psutil.Process(forker.pid)
        server = subprocess.Popen([program, "serve", *listen], cwd=tmp_path, stderr=subprocess.DEVNULL)
        _until(forking.children, server.kill)
        forking.suspend()
        (child,) = forking.children()
        child.kill()
        _until(lambda: child.status() == psutil.STATUS_ZOMBIE, server.kill)
        server.kill()
        server.wait()
        forking.resume()
        assert subprocess.run([program, "--version"], capture_output=True, timeout=120).returncode == 0


def _until(what: Callable[[], object], otherwise: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        if time.monotonic() > deadline:
            otherwise()
            raise AssertionError("it takes longer than a minute")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    documented = [*SETTINGS, "127.0.0.1:9090"]
    ports = {name: f"127.0.0.1:{free_port()}" for name in documented}
    environment = {f"TURNOUT_{name}": ports[address] for address, name in SETTINGS.items()}
    environment["CHECKOUT"] = str(DOCS.parent)
    todo = steps(page)
    used = {term for step in todo if isinstance(step, Command) for term in step.text.split()}
    for name in sorted(used & PACKAGES.keys()):
        if shutil.which(name) is None:
            missing(f"{name} is not installed", PACKAGES[name])
    with ExitStack() as stack:
        programs = []
        if page not in OF_ITS_OWN:
            programs.append(tmp_path.with_name(f"{tmp_path.name}-programs"))
            stack.enter_context(forked_turnout(programs[0]))
        shell = stack.enter_context(Shell(tmp_path, ports, environment, programs))
        for step, after in zip(todo, [*todo[1:], None], strict=True):
            shell.do(step, may_fail=isinstance(after, Command) and after.text == "echo $?", seconds=BOUND)
