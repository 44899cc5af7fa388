"""`turnout rollout` and `turnout rollback` against a server in a process of its own, kill -9 included."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from semver import Version

import onnx_models
from console_wire import CHROMIUM, needs_chromium
from forked_commands import turnout_program
from ports import free_port
from processes import TURNOUT, Server, serving, serving_in_thread, turnout
from turnout.cli.rollout.follow import FINAL
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.rollout.evidence import Count, Tick
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.plan import Plan
from turnout.state.rollouts import RolloutWrite
from turnout.state.store import StateStore
from turnout_client import Client, TurnoutClientError
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

pytestmark = pytest.mark.slow

TICK = {"TURNOUT_ROLLOUT__TICK_S": "0.1"}
QUICK = ("--metrics", "errors", "--min-requests", "20", "--steps", "25%:0.5s,50%:0.5s", "--watch-for", "0.5s")
LONG = ("--metrics", "errors", "--steps", "25%:1h,50%:1h")
SLOWLY = 0.1


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`m` 1.0.0 released, 1.1.0 alike, 1.2.0 that raises on indexes from 300 on, 2.0.0 with another signature."""
    root = tmp_path / "models"
    safe = onnx_models.look_up_safely()
    protos = {"1.0.0": safe, "1.1.0": safe, "1.2.0": onnx_models.look_up(), "2.0.0": onnx_models.scaled(1)}
    with StateStore.open(Settings(models=root).state_url) as store:
        for number, proto in protos.items():
            path = onnx_models.save(proto, tmp_path / "model.onnx")
            publish(Repository(root), PublishRequest("m", Version.parse(number), path))
        store.release("m", Version(1), actor="test", reason="")
    return root


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    with serving_in_thread(models, rollout={"tick_s": 0.1}) as process, Client(process.grpc) as client:
        client.wait_ready("m", timeout=90)
        yield process


@contextmanager
def load(server: Server, pause: float = 0.006) -> Iterator[None]:
    """Sends requests, one of five beyond what 1.2.0 takes, for as long as the context is entered.

    Each of two clients rests `pause` seconds between two: `SLOWLY` where no verdict waits for their number.
    """
    stop = threading.Event()

    def send() -> None:
        with Client(server.grpc, retries=0) as client:
            number = 0
            while not stop.wait(pause):
                number += 1
                try:
                    client.predict("m", {"index": np.array([1000 if number % 5 == 0 else number % 300])})
                except TurnoutClientError:
                    continue  # a candidate that fails is what is looked for

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run(server: Server, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Runs a command of `turnout rollout` to its end, which has to be `code`."""
    done: subprocess.CompletedProcess[str] = turnout("rollout", *arguments, "--server", server.control, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def command_json(server: Server, *arguments: str) -> Any:
    """Runs a command and reads its JSON."""
    return json.loads(run(server, *arguments, "--json").stdout)


def refused(server: Server, *arguments: str) -> str:
    """Runs what must fail and returns its sentence."""
    return run(server, *arguments, code=1).stderr.strip()


def until(server: Server, holds: Callable[[pb.Rollout], bool]) -> pb.Rollout:
    """Waits for the rollout of `m` to be so."""
    with grpc.insecure_channel(server.control) as channel:
        stream = ControlServiceStub(channel).WatchRollout(pb.WatchRolloutRequest(model="m"), timeout=120)
        return next(message.rollout for message in stream if holds(message.rollout))


def soaking(rollout: pb.Rollout) -> bool:
    return rollout.state == "soaking"


def final(rollout: pb.Rollout) -> bool:
    return rollout.state in FINAL


def test_a_good_candidate_goes_through_and_waiting_ends_with_0(server: Server, tmp_path: Path) -> None:
    with load(server):
        done = run(server, "start", "m", "--to", "1.1.0", *QUICK, "--wait", "--actor", "ann", "--reason", "better")
    lines = done.stdout.splitlines()
    kinds = [re.sub(r"^\S+Z m 1\.1\.0 (\w+): .*$", r"\1", line) for line in lines]
    assert kinds[0] == "start"
    assert [k for k in kinds if k == "soaking"] == ["soaking"] * 2
    assert kinds[-1] == "succeeded"
    assert lines[0].endswith("start: better (ann)")
    (attempt,) = command_json(server, "history", "m")["rollouts"]
    assert (attempt["state"], attempt["candidate"], attempt["actor"], attempt["reason"]) == (
        "succeeded", "1.1.0", "ann", "better",
    )  # fmt: skip
    message = run(server, "explain", "m").stdout
    assert "m: 1.1.0 over 1.0.0, attempt 1\nSucceeded.\n" in message
    assert "`turnout rollback m` would give the traffic back to 1.0.0." in message
    rows = run(server, "status").stdout.splitlines()
    assert rows[1].split()[:6] == ["m", "1.1.0", "1.0.0", "1", "succeeded", "2/2"]

    back = turnout("rollback", "m", "--reason", "customers complain", "--server", server.control)
    assert back.stdout == (
        "m went back to 1.0.0; 1.1.0 is no longer released\nplain requests: 1.0.0; latest: 1.0.0; ^1: 1.0.0\n"
    )
    state = json.loads(turnout("traffic", "show", "m", "--server", server.control, "--json").stdout)["models"][0]
    assert (state["policy"]["baseline"], state["reason"]) == ("1.0.0", "customers complain")
    assert turnout("rollback", "m", "--server", server.control, check=False).returncode == 2  # a reason is wanted


def test_a_bad_one_is_rolled_back_explained_reported_and_tried_again(server: Server, tmp_path: Path) -> None:
    nasty = "</script><b>bold</b>"
    with load(server):
        done = run(server, "start", "m", "--to", "1.2.0", *QUICK, "--wait", "--reason", nasty, code=1)
        assert re.search(r"verdict: 1\.2\.0 is worse than 1\.0\.0 \(errors: \d+ of \d+, the baseline 0 of", done.stdout)
        run(server, "retry", "m", "--reason", "once more")
        last = until(server, final)
    assert (last.attempt, last.state, last.reason) == (2, "rolled_back", "once more")
    assert [r["attempt"] for r in command_json(server, "history", "m")["rollouts"]] == [2, 1]

    message = command_json(server, "explain", "m", "--attempt", "1")
    (errors,) = (metric for metric in message["metrics"] if metric["name"] == "errors")
    assert message["rollout"]["attempt"] == 1
    assert message["e_value"] >= message["threshold"] == 100
    assert (errors["baseline_bad"], errors["ratio"]) == (0, "Infinity")
    assert errors["canary_bad"] >= 3
    text = run(server, "explain", "m", "--attempt", "1").stdout
    assert f"{errors['canary_bad']} of {errors['canary_requests']}" in text
    assert "Nothing is retried automatically; `turnout rollout retry m` begins another attempt." in text
    assert refused(server, "explain", "m", "--attempt", "9").startswith("error: m has had no rollout")

    page = tmp_path / "report.html"
    assert f"{page}: attempt 1 of m" in run(server, "report", "m", "--attempt", "1", "--html", str(page)).stdout
    html = page.read_text()
    assert nasty not in html
    assert "&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt;" in html
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)
    assert found
    data = json.loads(found[1])
    assert data["combined"][-1] == pytest.approx(
        message["e_value"]
    )  # what ticks replay to is what the server decided by
    assert max(data["metrics"]["errors"]) >= data["threshold"]
    assert "cannot be written" in refused(server, "report", "m", "--html", str(tmp_path / "none" / "x.html"))


@needs_chromium
def test_the_report_draws_its_plots_in_a_browser_without_a_network(server: Server, tmp_path: Path) -> None:
    with load(server):
        run(server, "start", "m", "--to", "1.2.0", *QUICK, "--wait", code=1)
    page = tmp_path / "report.html"
    run(server, "report", "m", "--html", str(page))
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    evidence = re.search(r'<div class="plot" id="evidence">(.*?)<h2>', dom, re.DOTALL)
    assert evidence
    assert "<canvas" in evidence[1]
    for label in ("combined", "errors", "rolled back at"):
        assert f">{label}</div>" in evidence[1]


def test_an_operator_has_the_last_word_and_a_stale_epoch_is_refused(server: Server) -> None:
    assert command_json(server, "status") == {"rollouts": []}
    assert run(server, "status").stdout == "no rollouts yet\n"
    assert refused(server, "status", "m") == (
        "error: m has had no rollout; `turnout rollout start m --to VERSION` starts one"
    )
    with load(server, SLOWLY):
        begun = run(server, "start", "m", "--to", "1.1.0", *LONG, "--wait", "--timeout", "1s", code=3)
        assert "the rollout continues" in run(server, "watch", "m", "--timeout", "0.2s", code=3).stderr
        assert begun.stderr == (
            "the timeout expired, and the rollout continues: `turnout rollout watch m` follows it\n"
        )
        epoch = until(server, soaking).epoch
        assert run(server, "pause", "m", "--reason", "lunch", "--actor", "bob", "--epoch", str(epoch)).stdout == (
            f"m 1.1.0 over 1.0.0, attempt 1, epoch {epoch + 1}: soaking, step 1 of 2 at 25%; paused: lunch (bob)\n"
            "plain requests: 1.0.0 (75%), 1.1.0 (25%, canary of rollout 1); latest: 1.0.0; "
            "^1: 1.0.0 (75%), 1.1.0 (25%, canary of rollout 1)\n"
        )
        stale = refused(server, "promote", "m", "--epoch", str(epoch))
        assert f"is at epoch {epoch + 1} by now (soaking), not {epoch}; look again" in stale
        assert command_json(server, "status", "m")["step"] == 1
        assert "Lacking\n- lunch (bob)\n- the soak has " in run(server, "explain", "m").stdout
        assert command_json(server, "resume", "m")["pauses"] == []
        assert command_json(server, "set-weight", "m", "30%")["weight"] == 0.3
        assert command_json(server, "promote", "m")["step"] == 2
        assert command_json(server, "freeze", "m", "--reason", "the weekend")["frozen"] is True
        assert command_json(server, "freeze", "m", "--off")["frozen"] is False
        assert command_json(server, "abort", "m", "--actor", "bob", "--reason", "enough")["state"] == "aborting"
        last = until(server, final)
        assert (last.state, last.verdict) == ("rolled_back", "enough")
        assert ("abort", "enough", "bob") in [(e.kind, e.text, e.actor) for e in last.events]
        assert refused(server, "pause", "m") == "error: no rollout of m is active"
        run(server, "start", "m", "--to", "1.1.0", *LONG)
        full = command_json(server, "promote", "m", "--full")
        assert (full["state"], full["weight"]) == ("promoting", 0.95)
        back = turnout("rollback", "m", "--reason", "no", "--server", server.control, "--json")
        assert json.loads(back.stdout)["baseline"] == "1.0.0"


def test_a_plan_is_told_with_what_it_would_see_and_changes_nothing(server: Server) -> None:
    with load(server):
        body = command_json(server, "plan", "m", "--to", "1.1.0", "--steps", "5%:1m,50%:10m:gate", "--shadow", "10%:1m")
    assert (body["previous"], body["refusals"]) == ("1.0.0", [])
    assert [(s["weight"], s["soak_s"], s["gate"]) for s in body["plan"]["steps"]] == [
        (0.05, 60, False),
        (0.5, 600, True),
    ]
    assert [(p["step"], p["weight"], p["soak_seconds"]) for p in body["power"]] == [(1, 0.05, 60), (2, 0.5, 600)]
    effects = ["errors x2", "errors x5", "errors x10", "latency +20 %"]
    for power in body["power"]:
        assert [d["effect"] for d in power["detections"]] == effects
        seconds = [float(d["seconds"]) for d in power["detections"]]
        assert [d["fits"] for d in power["detections"]] == [s <= power["soak_seconds"] for s in seconds]
    run(server, "plan", "m", "--to", "1.0.0", code=1)
    text = run(server, "plan", "m", "--to", "2.0.0", code=1).stdout
    assert "refused: 2.0.0 does not fit the baseline's clients" in text
    assert "ERRORS X10" in text
    assert "no model is named 'n'" in refused(server, "plan", "n", "--to", "1.0.0")
    assert command_json(server, "status") == {"rollouts": []}


def test_a_long_rollout_is_read_page_by_page(models: Path) -> None:
    plan = Plan.from_json({"metrics": ["errors"]})
    begun = Rollout.start("m", Version(1, 1), Version(1), 1, plan, "test", "")
    ended = replace(begun, state=RolloutState.ROLLED_BACK, verdict="enough")
    ticks = [Tick.unkeyed(5.0, {"errors": Count(1, 0)}, {"errors": Count(n, 0)}).to_json() for n in range(4321)]
    with StateStore.open(Settings(models=models).state_url) as store:
        write = RolloutWrite(1, 0, "rolled_back", True, ended.to_json(), "test", 1.0, (), ticks)
        store.put_rollout("m", write, actor="test", reason="")
    with serving_in_thread(models, rollout={"tick_s": 0.1}) as server:
        with Client(server.grpc) as client:
            client.wait_ready("m", timeout=90)
        (errors,) = (metric for metric in command_json(server, "explain", "m")["metrics"] if metric["name"] == "errors")
    assert (errors["canary_requests"], errors["baseline_requests"]) == (4321, sum(range(4321)))


def test_what_cannot_be_is_refused_in_a_sentence(server: Server, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("min_reqeusts = 5\n")
    assert refused(server, "start", "m", "--to", "1.1.0", "--plan", str(plan)).startswith(
        "error: min_reqeusts: unknown, did you mean min_requests? There are alpha, "
    )
    assert "does not fit the baseline's clients" in refused(server, "start", "m", "--to", "2.0.0")
    assert "no model is named 'n'" in refused(server, "start", "n", "--to", "1.0.0")
    assert command_json(server, "start", "m", "--to", "1.1.0", *LONG)["state"] == "pending"
    assert "1.1.0 is being rolled out (attempt 1" in refused(server, "start", "m", "--to", "1.2.0")
    failed = run(server, "start", "m", "--to", "1.2.0", "--json", code=1)
    assert json.loads(failed.stderr)["error"]["kind"] == "FailedPrecondition"


def test_a_job_that_starts_a_rollout_may_run_twice(server: Server) -> None:
    first = command_json(server, "start", "m", "--to", "1.1.0", *LONG)
    again = command_json(server, "start", "m", "--to", "1.1.0", *LONG)
    assert (first["attempt"], again["attempt"]) == (1, 1)
    assert len(command_json(server, "history", "m")["rollouts"]) == 1
    assert "1.1.0 is being rolled out (attempt 1" in refused(server, "start", "m", "--to", "1.1.0", "--steps", "9%:9h")
    command_json(server, "promote", "m", "--full")
    until(server, lambda rollout: rollout.state == "watching")
    assert command_json(server, "start", "m", "--to", "1.1.0", *LONG)["attempt"] == 1  # while it is watched
    told = "error: 1.1.0 is the baseline of m already; attempt 1 may still take it back (watching)"
    assert refused(server, "start", "m", "--to", "1.1.0", "--wait") == told  # which follows another plan
    assert run(server, "abort", "m", code=0)


@pytest.mark.parametrize("waiting", [(), ("--wait",)], ids=["", "with --wait"])
def test_a_version_that_is_the_baseline_needs_no_rollout(server: Server, waiting: tuple[str, ...]) -> None:
    arguments = ("start", "m", "--to", "1.0.0", *waiting)
    assert run(server, *arguments).stdout == "1.0.0 is the baseline of m already\n"
    assert command_json(server, *arguments) == {"model": "m", "candidate": "1.0.0", "state": "baseline"}
    assert command_json(server, "history", "m")["rollouts"] == []
    assert "1.0.0 is the baseline of m already" in run(server, "plan", "m", "--to", "1.0.0", code=1).stdout


@contextmanager
def started(server: Server, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Starts a command of `turnout rollout`; it is killed at the end if it still runs."""
    command = [turnout_program(), "rollout", *arguments, "--server", server.control]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: "subprocess.Popen[str]", term: str, *, stderr: bool = False) -> str:
    """Returns the next line that has `term` in it."""
    stream = process.stderr if stderr else process.stdout
    assert stream is not None
    for line in stream:
        if term in line:
            return line
    raise AssertionError(f"no line with {term!r} came")


def test_an_interrupted_wait_leaves_the_rollout_running_and_says_so(server: Server) -> None:
    with load(server, SLOWLY), started(server, "start", "m", "--to", "1.1.0", *LONG, "--wait") as process:
        line_with(process, "soaking")
        process.send_signal(signal.SIGINT)
        assert "the rollout continues: `turnout rollout watch m`" in line_with(process, "continues", stderr=True)
        assert process.wait(60) == 130
        assert command_json(server, "status", "m")["state"] == "soaking"


def test_a_wait_for_a_rollout_that_another_replaces_ends_with_1(server: Server) -> None:
    with load(server, SLOWLY), started(server, "start", "m", "--to", "1.1.0", *LONG, "--wait") as process:
        line_with(process, "soaking")
        run(server, "start", "m", "--to", "1.1.0", *LONG, "--on-newer", "replace")
        assert process.wait(60) == 1
        assert [r["state"] for r in command_json(server, "history", "m")["rollouts"]][-1] == "superseded"


def test_a_watcher_outlives_its_server_and_says_so(models: Path) -> None:
    with serving(models, control=f"127.0.0.1:{free_port()}", **TICK) as server:
        with Client(server.grpc) as client:
            client.wait_ready("m", timeout=90)
        with load(server, SLOWLY):
            run(server, "start", "m", "--to", "1.1.0", *LONG)
            until(server, soaking)
        with started(server, "watch", "m") as process:
            line_with(process, "soaking")
            server.send(signal.SIGKILL)
            server.wait()
            gone = line_with(process, "does not answer", stderr=True)
            assert gone.startswith(f"the server at {server.control} does not answer; the rollout is unchanged")
            with serving(models, control=server.control, **TICK) as again:
                assert line_with(process, "back", stderr=True) == f"the server at {server.control} is back\n"
                run(again, "abort", "m", "--reason", "enough")
                assert "abort: enough" in line_with(process, " abort:")
                assert "1.0.0 has all of the traffic" in line_with(process, "rolled_back")
                assert process.wait(60) == 1


def test_a_watcher_writes_an_event_a_line_as_json_too(server: Server) -> None:
    with load(server):
        run(server, "start", "m", "--to", "1.2.0", *QUICK, "--wait", code=1)
    events = [json.loads(line) for line in run(server, "watch", "m", "--json", code=1).stdout.splitlines()]
    assert [e["kind"] for e in events][-2:] == ["aborting", "rolled_back"]
    assert {(e["model"], e["attempt"], e["now"]["state"]) for e in events} == {("m", 1, "rolled_back")}


def on_terminal(columns: int, rows: int, awaited: str, then: Callable[[], object], *arguments: str) -> tuple[int, str]:
    """Runs a command in a terminal of its own and does `then` once it wrote `awaited`.

    Returns what it ended with, and all that it wrote.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    written, done, deadline = b"", False, time.monotonic() + 200
    with subprocess.Popen(
        [*TURNOUT, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            while select.select([ours], [], [], max(deadline - time.monotonic(), 0))[0]:
                try:
                    written += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
                if not done and awaited.encode() in written:
                    done = True
                    then()
        finally:
            process.kill()
            os.close(ours)
    return process.returncode, written.decode()


def plain(written: str) -> str:
    """Returns what a terminal was sent without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r\n", "\n")


def test_on_a_terminal_the_view_moves_and_its_last_frame_tells_the_end(server: Server) -> None:
    with load(server):
        gated = ("--metrics", "errors", "--min-requests", "20", "--steps", "25%:1h:gate,50%:1h")
        run(server, "start", "m", "--to", "1.2.0", *gated)
        code, written = on_terminal(
            80, 24, "waits for an operator to promote", lambda: run(server, "promote", "m"),
            "rollout", "watch", "m", "--server", server.control,
        )  # fmt: skip
    assert code == 1
    frames = plain(written)
    assert frames.count("m  1.2.0 over 1.0.0") > 1
    last = frames[frames.rindex("m  1.2.0 over 1.0.0") :]
    lines = last.splitlines()
    assert max(map(len, lines)) <= 80, last
    assert re.match(r"m  1\.2\.0 over 1\.0\.0   rolled back   attempt 1, epoch \d+", lines[0])
    assert lines[1] == "✗ 25% gate ─ ○ 50% ─ ○ baseline ─ ○ watch"
    (errors,) = [line for line in lines if line.startswith("errors ")]
    assert "█" * 22 + "┃" in errors
    (combined,) = [line for line in lines if line.startswith("combined ")]
    assert combined.rstrip().endswith("of 100")
    assert "verdict: 1.2.0 is worse than 1.0.0 (errors: " in last
