"""The commands that talk to a running server, as processes against one in a process of its own."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semver import Version

from onnx_models import add_with_default, save, scaled
from processes import Server, serving_in_thread, turnout
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scale` 1.0.0 and 2.0.0 released, 3.0.0 a candidate: each multiplies by its major version; and `add` 1.0.0."""
    folder = tmp_path_factory.mktemp("cli")
    models = folder / "models"
    with StateStore.open(Settings(models=models).state_url) as store:
        for name, number, proto in [
            ("scale", "1.0.0", scaled(1)),
            ("scale", "2.0.0", scaled(2)),
            ("scale", "3.0.0", scaled(3)),
            ("add", "1.0.0", add_with_default()),
        ]:
            version = Version.parse(number)
            publish(Repository(models), PublishRequest(name, version, save(proto, folder / "model.onnx")))
            if number != "3.0.0":
                store.release(name, version, actor="test", reason="")
    return models


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving_in_thread(repository) as process:
        eventually(lambda: states(process.control) == {"3.0.0": "ready", "2.0.0": "ready", "1.0.0": "ready"})
        yield process


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answer(*arguments: str | Path) -> Any:
    return json.loads(turnout(*arguments, "--json").stdout)


def refusal(*arguments: str | Path) -> tuple[str, str]:
    """Runs what must fail and returns the kind of its error and its sentence."""
    done: subprocess.CompletedProcess[str] = turnout(*arguments, "--json", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    error = json.loads(done.stderr)["error"]
    return error["kind"], error["message"]


def states(control: str) -> dict[str, str]:
    found = answer("show", "scale", "--server", control)
    return {version["version"]: version["state"] for version in found["versions"]}


def test_predict_sends_json_files_and_random_values(server: Server, tmp_path: Path) -> None:
    to = ("--server", server.control)
    got = answer("predict", "scale", "--input", "x=[[1, 2, 3, 4]]", *to)
    assert (got["version"], got["role"]) == ("2.0.0", "baseline")
    assert got["outputs"] == {"y": {"dtype": "float32", "shape": [1, 4], "data": [[2.0, 4.0, 6.0, 8.0]]}}
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    got = answer("predict", "scale@3.0.0", "-i", f"x=@{tmp_path}/x.npy", "-o", "y", *to)
    assert (got["version"], got["role"]) == ("3.0.0", "pinned")
    assert got["outputs"]["y"]["data"] == [[3.0] * 4] * 2
    got = answer("predict", "scale@^1", "-i", "x=random:5x4", "--key", "ada", *to)
    assert (got["version"], got["outputs"]["y"]["shape"]) == ("1.0.0", [5, 4])


def test_predict_goes_to_the_data_listener_as_well(server: Server) -> None:
    assert answer("predict", "scale", "-i", "x=random", "--server", server.grpc)["version"] == "2.0.0"


def test_predict_shows_people_who_answered_and_what(server: Server) -> None:
    text = turnout("predict", "scale@2.0.0", "-i", "x=[[1, 2, 3, 4]]", "--server", server.control).stdout
    assert "scale 2.0.0 (pinned)" in text
    assert "float32[1, 4]" in text
    assert "[[2. 4. 6. 8.]]" in text


def test_predict_asks_for_every_input_without_a_default(server: Server) -> None:
    to = ("--server", server.control)
    assert answer("predict", "add", "-i", "x=[[0, 0, 0]]", *to)["outputs"]["y"]["data"] == [[1.0, 2.0, 3.0]]
    assert refusal("predict", "add", "-i", "bias=random", *to) == (
        "InvalidRequest",
        "missing inputs (give them with --input): x: float32[batch, 3]",
    )


def test_what_the_server_refuses_is_one_sentence(server: Server) -> None:
    to = ("--server", server.control)
    kind, sentence = refusal("predict", "scale@^9", "-i", "x=random", *to)
    assert (kind, "no released version of scale satisfies '^9'" in sentence) == ("NotFound", True)
    kind, sentence = refusal("predict", "scael", "-i", "x=random", *to)
    assert (kind, "scale" in sentence) == ("NotFound", True)
    kind, sentence = refusal("predict", "scale", "-i", "x=random:7", *to)
    assert (kind, "float32[batch, 4]" in sentence) == ("InvalidArgument", True)
    kind, sentence = refusal("predict", "scale", "-i", "x=random", "-o", "z", *to)
    assert (kind, "z" in sentence) == ("InvalidArgument", True)


def test_models_and_show_tell_what_the_server_holds(server: Server) -> None:
    to = ("--server", server.control)
    found = {model["name"]: model for model in answer("models", *to)["models"]}
    assert found["scale"]["default_version"] == "2.0.0"
    described = answer("show", "scale@3.0.0", *to)
    assert (described["state"], described["standing"], described["providers"]) == (
        "ready",
        "candidate",
        ["CPUExecutionProvider"],
    )
    assert "ready" in turnout("models", *to).stdout
    assert "runs on" in turnout("show", "scale@3.0.0", *to).stdout


def test_unload_and_load_wait_until_it_is_done(server: Server) -> None:
    to = ("--server", server.control)
    assert answer("unload", "scale@3.0.0", *to)["state"] == "unloaded"
    kind, _ = refusal("predict", "scale@3.0.0", "-i", "x=random", *to)
    assert kind == "FailedPrecondition"
    assert answer("load", "scale@3.0.0", *to)["state"] == "ready"
    assert answer("predict", "scale@3.0.0", "-i", "x=random", *to)["version"] == "3.0.0"
    assert refusal("load", "scale@4.0.0", *to)[0] == "NotFound"
    assert refusal("unload", "scale", *to)[0] == "InvalidRequest"


def test_the_data_listener_does_not_load_or_unload(server: Server) -> None:
    assert refusal("unload", "scale@3.0.0", "--server", server.grpc)[0] == "Unimplemented"
    assert states(server.control)["3.0.0"] == "ready"


def test_a_running_server_follows_publishes_releases_and_tags(repository: Path, server: Server) -> None:
    to = ("--server", server.control)
    at = ("--models", repository)
    file = save(scaled(5), repository.parent / "five.onnx")
    turnout("publish", "scale", "5.0.0", file, *at)
    eventually(lambda: states(server.control).get("5.0.0") == "ready")
    assert answer("predict", "scale", "-i", "x=random", *to)["version"] == "2.0.0"
    turnout("tag", "scale", "canary", "5.0.0", *at)
    eventually(lambda: answer("show", "scale@5.0.0", *to)["tags"] == ["canary"])
    assert answer("predict", "scale@canary", "-i", "x=random", *to)["version"] == "5.0.0"
    turnout("release", "scale@5.0.0", *at)
    eventually(lambda: answer("show", "scale@5.0.0", *to)["default"])
    assert answer("predict", "scale", "-i", "x=random", *to)["version"] == "5.0.0"


def test_where_no_server_answers_a_command_says_how_to_start_one(tmp_path: Path) -> None:
    configured = tmp_path / "turnout.toml"
    configured.write_text('control = "127.0.0.1:1"\n')
    assert refusal("load", "m@1.0.0", "--config", configured)[1] == (
        "no server answers at 127.0.0.1:1 (Connection refused); start one with `turnout serve`,"
        " or name it with --server"
    )
    for command in (
        ["models"],
        ["show", "m"],
        ["predict", "m", "-i", "x=1"],
        ["load", "m@1.0.0"],
        ["unload", "m@1.0.0"],
    ):
        kind, sentence = refusal(*command, "--server", "127.0.0.1:1")
        assert kind == "Unavailable"
        assert sentence == "no server answers at 127.0.0.1:1 (Connection refused)"
    assert "--server: expected HOST:PORT" in refusal("load", "m@1.0.0", "--server", "nowhere")[1]


def test_a_command_for_operators_says_that_another_listener_is_not_theirs(server: Server) -> None:
    for address in (server.grpc, server.http):
        for command in (["log"], ["tag", "scale", "stable", "1.0.0"], ["traffic", "show"], ["load", "scale@1.0.0"]):
            kind, sentence = refusal(*command, "--server", address)
            assert (kind, sentence) == (
                "Unimplemented",
                f"{address} is not a control listener, which this command needs (by default, port 8003)",
            )


def test_the_configured_control_listener_is_the_one_that_commands_talk_to(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(f'control = "{server.control}"\n')
    assert answer("predict", "scale@1.0.0", "-i", "x=random", "--config", file)["version"] == "1.0.0"
    file.write_text('control = "127.0.0.1:0"\n')
    assert "name it with --server" in refusal("load", "scale@1.0.0", "--config", file)[1]
