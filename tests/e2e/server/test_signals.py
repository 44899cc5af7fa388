"""A server in a process of its own, under the signals of who runs it."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnx_models import scaled
from processes import running, serving
from turnout_client import Client

pytestmark = pytest.mark.slow

X = np.float32([[1, 2, 3, 4]])


def wait_for(server, event: str) -> None:
    deadline = time.monotonic() + 60
    while event not in [line["event"] for line in server.lines()]:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.02)


def test_a_hangup_reloads_the_settings(models, publish_model, tmp_path) -> None:
    publish_model("m", "1.0.0", scaled(2))
    config = tmp_path / "turnout.toml"
    config.write_text("[log]\nlevel = 'info'\n")
    with serving(models, TURNOUT_CONFIG=str(config)) as server:
        for text, event in [
            ("[log]\nlevel = 'nothing'\n", "the settings cannot be reloaded; the previous ones stay in force"),
            ("[log]\nlevel = 'debug'\n[limits]\nmax_rank = 3\n", "settings reloaded"),
        ]:
            config.write_text(text)
            server.send(signal.SIGHUP)
            wait_for(server, event)
        with Client(server.grpc) as client:
            assert client.predict("m", {"x": X}).version == "1.0.0"
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def signalled_while_it_starts(name: str) -> str:
    """A program of a server that gets a signal before it handles any, where errors are ignored, as in some imports."""
    return f"""
import contextlib, os, signal
from turnout import config
check = config.check_exposure
def interrupted(settings):
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.{name})
    check(settings)
config.check_exposure = interrupted
from turnout.__main__ import main
main()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_during_the_start_is_one_after_it(models, publish_model, workers: int) -> None:
    publish_model("m", "1.0.0", scaled(2))
    with serving(models, program=signalled_while_it_starts("SIGHUP"), options=["--workers", str(workers)]) as server:
        if workers == 1:  # a supervisor says nothing: workers that start later get what it has read
            wait_for(server, "settings reloaded")
        server.send(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_during_the_start_ends_the_server_without_a_traceback(models, tmp_path, workers: int) -> None:
    log = tmp_path / "log"
    options = ["serve", "--models", models, *(f"--{name}=127.0.0.1:0" for name in ("grpc", "http", "control"))]
    with running(signalled_while_it_starts("SIGINT"), *options, f"--workers={workers}", log=log) as process:
        process.join(60)
        assert (process.exitcode, log.read_text()) == (-signal.SIGINT, "")


def test_a_server_that_is_stopped_under_load_answers_what_was_begun(models, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(2))
    # What was begun before the signal has come by the end of the delay, however long its thread had to wait for a core.
    with serving(models, TURNOUT_DRAIN__DELAY_S="5") as server, ThreadPoolExecutor(8) as pool:
        stopped: list[float] = []
        warm = threading.Barrier(9)
        with Client(server.grpc) as client:
            client.wait_ready("m")

        def load() -> tuple[int, list[str]]:
            answered, lost = 0, []
            with Client(server.grpc, retries=0) as client:
                while True:
                    if answered == 50:
                        warm.wait(60)
                    begun = time.monotonic()
                    try:
                        client.predict("m", {"x": X})
                        answered += 1
                        time.sleep(0.02)
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                        if not stopped or begun < stopped[0]:
                            lost.append(repr(error))
                        return answered, lost

        loads = [pool.submit(load) for _ in range(8)]
        warm.wait(60)
        stopped.append(time.monotonic())
        server.send(signal.SIGTERM)
        results = [load.result(timeout=120) for load in loads]
        assert server.wait() == 0
    assert min(answered for answered, _ in results) >= 50
    assert [lost for _, lost in results if lost] == []
