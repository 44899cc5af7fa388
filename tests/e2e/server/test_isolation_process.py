"""However a server ends, the child processes of its isolated versions end with it."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

import onnx_models
from processes import serving, turnout
from turnout_client import Client, Internal, TurnoutClientError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child is not told of the server's death"),
]

GOOD = {"a": np.array([8]), "b": np.array([2])}


def children(pid: int) -> list[psutil.Process]:
    """The children of a server that run a version."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # others come and go
            if "turnout.serving.isolation.child" in child.cmdline():
                found.append(child)
    return found


def wait_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=60)
    assert not left


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_children_end_with_the_server(publish_model, models, how) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    with serving(models) as server, Client(server.grpc, timeout=60) as client:
        client.wait_ready("m", timeout=90)
        assert client.predict("m", GOOD)["y"].tolist() == [4]
        running = children(server.process.pid)
        assert running
        files = [os.readlink(fd) for process in running for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert any(file.startswith("/memfd:turnout") for file in files), "the memory that they share has no name"
        assert not [file for file in files if file.startswith("/dev/shm")], "nor is there another that would be left"
        server.send(how)
        server.wait()
    wait_gone(running)


def test_a_child_that_hangs_ends_with_a_server_whose_drain_is_over(publish_model, models) -> None:
    publish_model("m", "1.0.0", onnx_models.slow())
    with serving(models, TURNOUT_DRAIN__TIMEOUT_S="0.5") as server, Client(server.grpc, retries=0) as client:
        client.wait_ready("m", timeout=90)
        running = children(server.process.pid)

        def ask() -> None:
            with pytest.raises(TurnoutClientError):
                client.predict("m", {"x": np.ones((1, 4), np.float32), "n": np.int64(10**9)})

        call = threading.Thread(target=ask)
        call.start()
        while 'inflight_requests{model="m",version="1.0.0"} 1' not in httpx.get(f"http://{server.http}/metrics").text:
            time.sleep(0.01)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        call.join(60)
    wait_gone(running)


def test_what_the_command_line_tells_of_an_isolated_version(publish_model, models, tmp_path: Path) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    with serving(models) as server, Client(server.grpc, retries=0, timeout=60) as client:
        client.wait_ready("m", timeout=90)
        with pytest.raises(Internal, match="SIGFPE"):
            client.predict("m", {"a": np.array([-(2**63)]), "b": np.array([-1])})
        assert client.predict("m", GOOD)["y"].tolist() == [4]
        described = turnout("show", "m@1.0.0", "--server", server.control).stdout
        assert "process (auto: Div (divide)" in " ".join(described.split())
        assert client.get_version("m", "1.0.0").isolation.startswith("process (auto: Div (divide)")
    log = server.log.read_text()
    assert '"how": "SIGFPE"' in log
    assert "child process died" in log
