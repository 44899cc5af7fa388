"""A server's life as a process: signals, crashes, restarts, and the client that lives through them."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest

from forked_commands import turnout_program
from onnx_models import scaled, slow
from processes import serving, turnout
from turnout_client import Client, FailedPrecondition, InvalidArgument, NotFound, Unavailable

pytestmark = pytest.mark.slow

X = np.ones((1, 4), np.float32)


@pytest.fixture
def model_file(tmp_path: Path):
    def save(proto: onnx.ModelProto, name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(proto, path)
        return path

    return save


def _ready(http: str) -> bool:
    return httpx.get(f"http://{http}/readyz").status_code == 200


def test_the_first_signal_drains_and_the_exit_code_is_0(publish_model, models) -> None:
    publish_model("m", "1.0.0", slow())
    with serving(models) as server, Client(server.grpc, retries=0, timeout=60) as client:
        client.wait_ready("m")
        answers = []

        def ask() -> None:
            answers.append(client.predict("m", {"x": X, "n": np.int64(100_000)}))

        call = threading.Thread(target=ask)
        call.start()
        while 'inflight_requests{model="m",version="1.0.0"} 1' not in httpx.get(f"http://{server.http}/metrics").text:
            if not call.is_alive():  # it was over before anybody looked
                call = threading.Thread(target=ask)
                call.start()
        server.send(signal.SIGTERM)
        call.join(60)
        assert server.wait() == 0
    np.testing.assert_array_equal(answers[-1]["y"], X + 100_000)
    log = server.log.read_text()
    assert log.index("draining") < log.index("stopped")


def test_a_second_signal_ends_at_once(publish_model, models) -> None:
    publish_model("m", "1.0.0", slow())
    with serving(models) as server, Client(server.grpc, retries=0, timeout=60) as client:
        client.wait_ready("m")
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                client.predict("m", {"x": X, "n": np.int64(10**9)})
            except Unavailable as error:
                failures.append(error)

        call = threading.Thread(target=ask)
        call.start()
        while 'inflight_requests{model="m",version="1.0.0"} 1' not in httpx.get(f"http://{server.http}/metrics").text:
            time.sleep(0.01)
        server.send(signal.SIGTERM)
        while "draining" not in server.log.read_text():
            time.sleep(0.01)
        server.send(signal.SIGTERM)
        assert server.wait() == 1
        call.join(60)
    assert failures


def test_after_kill_9_a_restart_serves_what_was_served(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2), release=False)
    with serving(models) as server, Client(server.grpc) as client:
        client.wait_ready("m")
        turnout("tag", "m", "stable", "2.0.0", "--models", models)
        server.send(signal.SIGKILL)
        server.wait()
    with serving(models) as server, Client(server.grpc) as client:
        client.wait_ready("m")
        assert client.predict("m", {"x": X}).version == "1.0.0"
        assert client.predict("m", {"x": X}, version="stable").version == "2.0.0"


@pytest.mark.parametrize("listener", ["grpc", "http", "control"])
def test_a_port_that_is_in_use_is_one_line(models: Path, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        others = dict.fromkeys(("grpc", "http", "control"), "127.0.0.1:0") | {listener: address}
        flags = [term for name, value in others.items() for term in (f"--{name}", value)]
        command = [turnout_program(), "serve", "--models", str(models), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {address} cannot be listened on: Address already in use; "
        "--grpc, --http and --control name other addresses\n"
    )


def test_a_dead_side_task_stops_the_process_with_its_reason(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    script = (
        "import sys, turnout.app.following as app\n"
        "async def follow(*_, **__): raise OSError('the watch broke')\n"
        "app.follow = follow\n"  # the fault: what follows the repository dies
        "from turnout.__main__ import main\n"
        "sys.exit(main())\n"
    )
    ports = [part for name in ("grpc", "http", "control") for part in (f"--{name}", "127.0.0.1:0")]
    done = subprocess.run(
        [sys.executable, "-c", script, "serve", "--models", str(models), "--json", *ports],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "follow" in done.stderr
    assert "the watch broke" in done.stderr


def test_two_publishes_of_one_version_at_once_have_one_winner(models, model_file) -> None:
    files = [model_file(scaled(i), f"f{i}") for i in range(2)]
    processes = [
        subprocess.Popen(
            [turnout_program(), "publish", "m", "1.0.0", str(file), "--models", str(models), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for file in files
    ]  # fmt: skip
    outcomes = [(*process.communicate(timeout=220), process.returncode) for process in processes]
    assert sorted(code for *_, code in outcomes) == [0, 4]
    assert turnout("verify", "--models", models).returncode == 0


def test_the_client_gets_typed_errors_and_predictions_on_both_transports(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3), release=False)
    with serving(models) as server:
        for transport in ("unary", "stream"):
            with Client(server.grpc, version="^1", transport=transport) as client:
                client.wait_ready("m")
                prediction = client.predict("m", {"x": X})
                np.testing.assert_array_equal(prediction["y"], 2 * X)
                assert (prediction.version, str(prediction.role)) == ("1.0.0", "pinned")
                assert client.predict("m", {"x": X}, version="2.0.0").version == "2.0.0"
                with pytest.raises(NotFound, match=r"nearest|there are"):
                    client.predict("m", {"x": X}, version="^7")
                with pytest.raises(InvalidArgument) as invalid:
                    client.predict("m", {"x": X.astype(np.float64)})
                assert invalid.value.violations[0].field == "inputs.x"
                assert {m.name for m in client.models()} == {"m"}
                assert str(client.get_model("m").default_version) == "1.0.0"
        turnout("unload", "m@2.0.0", "--server", server.control)
        with Client(server.grpc, retries=0) as client, pytest.raises(FailedPrecondition):
            client.predict("m", {"x": X}, version="2.0.0")


def test_many_threads_share_one_client(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(2))
    with serving(models) as server:
        for transport in ("unary", "stream"):
            with Client(server.grpc, transport=transport) as client:
                client.wait_ready("m")
                wrong: list[int] = []

                def ask(number: int, client: Client = client, wrong: list[int] = wrong) -> None:
                    for i in range(50):
                        x = np.full((1, 4), number * 1000 + i, np.float32)
                        if not np.array_equal(client.predict("m", {"x": x})["y"], 2 * x):
                            wrong.append(number)

                threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                assert not wrong


def test_the_command_line_publishes_shows_predicts_and_explains(models, model_file) -> None:
    file = model_file(scaled(2), "double")
    turnout("publish", "m", "1.0.0", file, "--models", models, "--release")
    assert "1.0.0" in turnout("models", "--models", models).stdout
    assert "float32" in turnout("show", "m@^1", "--models", models).stdout
    refused = turnout("publish", "m", "1.0.0", model_file(scaled(3), "triple"), "--models", models, check=False)
    assert refused.returncode == 4
    assert "Traceback" not in refused.stderr
    assert turnout("tag", "m", "latest", "1.0.0", "--models", models, check=False).returncode != 0
    assert turnout("doctor", "--models", models).returncode == 0
    with serving(models) as server:
        while not _ready(server.http):
            time.sleep(0.05)
        done = turnout("predict", "m@^1", "--server", server.control, "--input", "x=[[1,2,3,4]]", "--json")
        assert '"1.0.0"' in done.stdout
        missing = turnout("predict", "m@^9", "--server", server.grpc, "--input", "x=random", check=False)
        assert missing.returncode == 1
        assert "satisfies" in missing.stderr
