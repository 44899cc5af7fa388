"""`turnout traffic` and `turnout shadow` against a server in a process of its own, kill -9 included."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from semver import Version

from onnx_models import identity, save, scaled
from processes import Server, serving, serving_in_thread, turnout
from shadow_wire import PATIENT
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore
from turnout_client import Client

pytestmark = pytest.mark.slow

X = {"x": np.ones((1, 4), np.float32)}
KEYS = [f"user-{n}" for n in range(500)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`m` 1.0.0 released, 1.1.0 to 1.2.0 candidates that multiply by 2 and 3, 2.0.0 with another signature."""
    root = tmp_path / "models"
    protos = {"1.0.0": scaled(1), "1.1.0": scaled(2), "1.2.0": scaled(3), "2.0.0": identity(TensorProto.INT32)}
    with StateStore.open(Settings(models=root).state_url) as store:
        for number, proto in protos.items():
            publish(Repository(root), PublishRequest("m", Version.parse(number), save(proto, tmp_path / "model.onnx")))
        store.release("m", Version(1), actor="test", reason="")
    return root


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    with serving_in_thread(models, shadow=PATIENT) as process, Client(process.grpc) as client:
        client.wait_ready("m", timeout=90)
        yield process


def traffic(server: Server, *arguments: str) -> Any:
    """Runs `turnout traffic` and reads its JSON."""
    return json.loads(turnout("traffic", *arguments, "--server", server.control, "--json").stdout)


def refused(server: Server, *arguments: str) -> str:
    """Runs what must fail and returns its sentence."""
    done: subprocess.CompletedProcess[str] = turnout(*arguments, "--server", server.control, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip()


def owners(server: Server) -> dict[str, str]:
    with Client(server.grpc, transport="stream") as client:
        return {key: client.predict("m", X, routing_key=key).version for key in KEYS}


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_policy_is_set_ramped_shown_frozen_reverted_and_cleared(server: Server, models: Path) -> None:
    output = turnout("traffic", "show", "--server", server.control).stdout
    assert output.startswith("m  no policy: the highest released version answers\nplain requests: ")
    output = turnout(
        "traffic", "set", "m", "--baseline", "1.0.0", "--canary", "1.1.0=5%", "--shadow", "1.2.0=0.1",
        "--actor", "alice", "--reason", "try it", "--server", server.control,
    ).stdout  # fmt: skip
    assert output == (
        "m is at epoch 1: baseline 1.0.0 95%, canary 1.1.0 5%, shadow 1.2.0 10%\n"
        "plain requests: 1.0.0 (95%), 1.1.0 (5%, canary); latest: 1.0.0; ^1: 1.0.0 (95%), 1.1.0 (5%, canary)\n"
    )
    assert traffic(server, "ramp", "m", "1.1.0=25%", "--epoch", "1")["epoch"] == 2
    state = traffic(server, "show", "m")["models"][0]
    assert [(s["version"], s["role"], s["desired"]) for s in state["shares"]] == [
        ("1.0.0", "baseline", 0.75), ("1.1.0", "canary", 0.25), ("1.2.0", "shadow", 0.1),
    ]  # fmt: skip
    assert traffic(server, "set", "m", "--canary", "1.1.0=10%")["policy"]["baseline"] == "1.0.0"
    assert traffic(server, "freeze", "m")["frozen"] is True
    assert "frozen (epoch 4)" in refused(server, "traffic", "ramp", "m", "1.1.0=50%")
    assert traffic(server, "ramp", "m", "1.1.0=1%")["epoch"] == 5
    assert traffic(server, "freeze", "m", "--off")["frozen"] is False
    assert traffic(server, "revert", "m", "2")["policy"]["canaries"] == [{"version": "1.1.0", "weight": 0.25}]
    assert traffic(server, "clear", "m", "--reason", "done")["policy"] is None
    epochs = traffic(server, "history", "m")["epochs"]
    assert [(e["epoch"], e["action"]) for e in epochs] == [
        (8, "clear"), (7, "revert"), (6, "unfreeze"), (5, "ramp"), (4, "freeze"), (3, "set"), (2, "ramp"), (1, "set"),
    ]  # fmt: skip
    assert (epochs[-1]["actor"], epochs[-1]["reason"]) == ("alice", "try it")
    assert (
        "baseline 1.0.0 95%, canary 1.1.0 5%, shadow 1.2.0 10%"
        in turnout("traffic", "history", "m", "--server", server.control).stdout
    )
    assert "traffic epoch 8, clear: no policy" in turnout("show", "m", "--models", models).stdout


def test_what_cannot_be_is_refused_in_a_sentence(server: Server) -> None:
    assert refused(server, "traffic", "set", "m") == "error: m has no policy yet: name a version with --baseline"
    assert refused(server, "traffic", "set", "m", "--baseline", "1.0.0", "--canary", "2.0.0=5%") == (
        "error: canary 2.0.0 does not fit the baseline's clients: input x takes int32 where float32 was taken, "
        "output y gives int32 where float32 was given"
    )
    assert "candidate" in refused(server, "traffic", "set", "m", "--baseline", "1.1.0")
    assert "no version of m is '1.9.0'" in refused(server, "traffic", "set", "m", "--baseline", "1.9.0")
    assert "expected VERSION=SHARE" in refused(server, "traffic", "ramp", "m", "5%")
    assert "no model is named 'n'" in refused(server, "traffic", "show", "n")
    assert "epoch 0 by now, not 3" in refused(server, "traffic", "set", "m", "--baseline", "1.0.0", "--epoch", "3")
    forced = traffic(server, "set", "m", "--baseline", "1.0.0", "--canary", "2.0.0=5%", "--force")
    assert forced["epoch"] == 1
    assert "there is no epoch 9" in refused(server, "traffic", "revert", "m", "9")


def test_explain_tells_the_decision_and_fails_where_nobody_answers(server: Server) -> None:
    traffic(server, "set", "m", "--baseline", "1.0.0", "--canary", "1.1.0=50%")
    with Client(server.grpc) as client:
        for key in KEYS[:5]:
            explained = traffic(server, "explain", "m", "--selector", "^1", "--key", key)
            (chance,) = explained["chances"]
            assert chance["version"] == client.predict("m", X, version="^1", routing_key=key).version
            assert explained["slot"] is not None
    output = turnout("traffic", "explain", "m", "--key", "a", "--server", server.control).stdout
    assert "selector" in output.splitlines()[0]
    assert "answer" in output.splitlines()[-1]
    failed = turnout("traffic", "explain", "m", "--selector", "9", "--server", server.control, check=False)
    assert failed.returncode == 1
    assert "no released version of m satisfies '9'" in failed.stdout


def test_the_shadows_report_shows_what_differs(server: Server) -> None:
    assert "no shadow" in turnout("shadow", "m", "--server", server.control).stdout
    traffic(server, "set", "m", "--baseline", "1.0.0", "--shadow", "1.1.0=100%")
    with Client(server.grpc) as client:
        for _ in range(10):
            client.predict("m", X)

    def report() -> Any:
        return json.loads(turnout("shadow", "m", "--worst", "3", "--server", server.control, "--json").stdout)

    eventually(lambda: report()["shadows"][0]["outcomes"].get("disagreed") == 10)
    shadow = report()["shadows"][0]
    assert (shadow["version"], shadow["baseline"], shadow["state"]) == ("1.1.0", "1.0.0", "open")
    assert shadow["agreement"] == 0.0
    assert [(o["name"], o["mismatches"], o["max_abs"]) for o in shadow["outputs"]] == [("y", {"value": 10}, 1.0)]
    assert [(w["output"], w["kind"], w["max_abs"]) for w in shadow["worst"]] == [("y", "value", 1.0)] * 3
    output = turnout("shadow", "m", "--server", server.control).stdout
    assert "1.1.0 as a shadow of 1.0.0  (open)" in output
    assert "10 disagreed" in output


def test_after_kill_9_and_a_restart_each_key_meets_the_same_version(models: Path) -> None:
    with serving(models) as server:
        with Client(server.grpc) as client:
            client.wait_ready("m", timeout=90)
        traffic(server, "set", "m", "--baseline", "1.0.0", "--canary", "1.1.0=5%")
        traffic(server, "ramp", "m", "1.1.0=20%")
        traffic(server, "set", "m", "--canary", "1.1.0=20%", "--canary", "1.2.0=10%")
        before = owners(server)
        server.send(signal.SIGKILL)
        server.wait()
    with serving(models) as server:
        with Client(server.grpc) as client:
            client.wait_ready("m", timeout=90)
        eventually(lambda: all(s["applied"] for s in traffic(server, "show", "m")["models"][0]["shares"]))
        assert owners(server) == before
        assert traffic(server, "show", "m")["models"][0]["epoch"] == 3
    assert set(before.values()) == {"1.0.0", "1.1.0", "1.2.0"}
