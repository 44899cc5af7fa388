"""A server whose log cannot be written starts, serves and stops as any other, and counts the lines it lost."""

import http.client
import os
import re
import signal
import subprocess
import time

import pytest

from forked_commands import turnout_program
from onnx_models import scaled
from ports import free_port
from unwritable import unwritable

pytestmark = pytest.mark.slow


def get(port: int, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline
        try:
            if get(port, "/readyz")[0] == 200:
                return
        except OSError:
            time.sleep(0.05)


def dropped(port: int) -> float:
    found = re.search(r"^turnout_log_lines_dropped_total ([0-9.e+]+)$", get(port, "/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("kind", ["full disk", "reader gone", "reader stopped"])
def test_a_log_that_cannot_be_written_fails_no_start_no_request_and_no_stop(publish_model, models, kind) -> None:
    publish_model("m", "1.0.0", scaled(2))
    port = free_port()
    command = [turnout_program(), "serve", "--models", str(models), "--json", "--http", f"127.0.0.1:{port}"]
    command += ["--grpc", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    with unwritable(kind) as stream:
        process = subprocess.Popen(
            command, stderr=stream, stdout=stream, env=os.environ | {"TURNOUT_DRAIN__DELAY_S": "0"}
        )
        try:
            wait_until_ready(port, process)
            for _ in range(300):  # more than a pipe holds
                status, body = get(port, f"/predict/m/{'9' * 200}", '{"inputs": {}}')
                assert (status, "expected" in body) == (400, True)
            assert get(port, "/predict/m", '{"inputs": {"x": [[1, 2, 3, 4]]}}')[0] == 200
            deadline = time.monotonic() + 60  # a thread of its own writes the log, and may be behind
            while (lost := dropped(port)) < (300 if kind != "reader stopped" else 0):
                assert time.monotonic() < deadline, lost
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
