"""`turnout tune` on a real version, in a process that is forked, or its own where signals end it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forked_commands import turnout_program
from onnx_models import looping, matmul
from turnout.cli.output import CommandOutput
from turnout.cli.tune.tune import _tried
from turnout.config import load_settings
from turnout.errors import ModelTimedOut

pytestmark = pytest.mark.slow

SETTINGS = """[runtime]
inline_threshold_us = 0

[model.m.batching]
max_delay_ms = 150.0  # far too long: whoever is alone waits for nobody
only_where_it_pays = false
"""


@pytest.fixture
def folder(tmp_path: Path, publish_model, models) -> Path:
    (tmp_path / "turnout.toml").write_text(f"models = {str(models)!r}\n{SETTINGS}")
    publish_model("m", "1.0.0", matmul(8))
    return tmp_path


def _tune(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [turnout_program(), "tune", "m@1.0.0", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


def test_a_delay_that_costs_is_found_and_another_written_only_where_that_is_asked(folder: Path) -> None:
    before = (folder / "turnout.toml").read_text()
    np.savez(folder / "case.npz", **{"inputs/x": np.ones((1, 8), np.float32)})
    options = ("--seconds", "4", "--in-flight", "4", "--inputs", "case.npz", "--json")
    done = _tune(folder, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["inputs"] == "captured"
    assert found["present"]["p50_ms"] > 100
    assert found["written"] is None
    assert (folder / "turnout.toml").read_text() == before
    tried = [c for c in found["candidates"] if c["settings"]["batching"].get("max_delay_ms") != 150.0]
    assert max(c["latency_ratio"]["middle"] for c in tried) > 3

    done = _tune(folder, *options, "--write", "latency")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["written"] == "turnout.toml"
    chosen = load_settings(folder / "turnout.toml").settings.for_model("m").batching
    assert chosen.max_delay_ms < 10 or not chosen.enabled
    assert "only_where_it_pays = false" in (folder / "turnout.toml").read_text()


def test_people_read_a_table_and_where_the_inputs_come_from(folder: Path) -> None:
    done = _tune(folder, "--seconds", "1", "--in-flight", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Inputs: synthetic inputs")
    assert "REQUESTS/S AT 2" in done.stdout
    assert "For throughput:" in done.stdout
    assert "For latency:" in done.stdout
    assert done.stderr.startswith("present settings: ")


def test_what_is_not_there_is_told(folder: Path) -> None:
    command = [turnout_program(), "tune", "m@9.0.0", "--json"]
    missing = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert missing.returncode == 1
    assert json.loads(missing.stderr)["error"]["kind"] == "VersionNotFound"
    nowhere = _tune(folder, "--inputs", "nowhere.npz", "--json")
    assert nowhere.returncode == 1
    assert "inputs/NAME" in json.loads(nowhere.stderr)["error"]["message"]


def test_inputs_that_do_not_fit_are_named_before_anything_is_tried(folder: Path) -> None:
    (folder / "cases").mkdir()
    for name, width in (("a", 8), ("b", 9)):
        np.savez(folder / "cases" / f"{name}.npz", **{"inputs/x": np.ones((1, width), np.float32)})
    done = _tune(folder, "--inputs", "cases")
    assert done.returncode == 1
    assert "--inputs: b.npz: inputs.x: expected x: float32[batch, 8], got float32[1, 9]" in done.stderr
    assert "threads and runners" not in done.stderr


def _job(folder: Path, model: str) -> dict[str, Any]:
    named = {"models": str(folder / "models"), "state": None, "config": None, "inputs": None}
    return named | {"model": model, "version": "1.0.0", "in_flight": 2, "seconds": 1.0}


def test_a_version_that_takes_long_is_tried_to_the_end_and_one_that_hangs_is_ended(
    folder: Path, publish_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit begins anew at each sign of progress. How long that takes depends on what else a machine does."""
    publish_model("slow", "1.0.0", looping(100_000))
    monkeypatch.chdir(folder)
    out, timers = CommandOutput(as_json=True), []

    class Recorded(threading.Timer):
        def __init__(self, limit: float, end: Callable[[], None]) -> None:
            timers.append((self, limit))
            super().__init__(600.0, end)

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Timer", Recorded)
        findings, source = _tried(out, _job(folder, "slow"), 8.0)
    assert source == "made up"
    assert all(result.windows for result in (findings.present, *findings.candidates))
    assert len(timers) > 1 + len(findings.candidates)
    assert all(limit == 8.0 and timer.finished.is_set() for timer, limit in timers)
    with pytest.raises(ModelTimedOut, match="a load or a request took longer than"):
        _tried(out, _job(folder, "slow"), 0.01)


@pytest.mark.parametrize("ended", ["by Ctrl-C", "by its child's death"])
def test_a_trial_that_ends_early_leaves_no_process(folder: Path, ended: str) -> None:
    command = [sys.executable, "-m", "turnout", "tune", "m@1.0.0", "--seconds", "60"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tuning:
        assert tuning.stderr is not None
        assert tuning.stderr.readline().startswith("present settings")
        (child,) = Path(f"/proc/{tuning.pid}/task/{tuning.pid}/children").read_text().split()
        if ended == "by Ctrl-C":
            tuning.send_signal(signal.SIGINT)
        else:
            os.kill(int(child), signal.SIGKILL)
        assert tuning.wait(60) == (130 if ended == "by Ctrl-C" else 1)
        errors = tuning.stderr.read()
        assert "Traceback" not in errors
        assert ("the process that ran the version died" in errors) is (ended != "by Ctrl-C")
    assert not os.path.exists(f"/proc/{child}")
    assert not _group(int(child))


def _group(number: int) -> list[str]:
    """Returns the processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[2]) == number:
                found.append(stat.parent.name)
    return found
