"""A server of several processes on one port: seen, changed and stopped as one."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from semver import Version

from forked_commands import turnout_program
from onnx_models import scaled, slow
from processes import Server, ServerProcess, serving, turnout
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore
from turnout_client import Client, Unavailable
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import activity_pb2, control_pb2_grpc, rollout_pb2, traffic_pb2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # among the first: one worker has all of it, for a minute

X = np.ones((1, 4), np.float32)
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}
TWO = ("--workers", "2")
CONSOLE_TOKEN = "a token for the console"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of two workers that serves m 1.0.0, and has m 2.0.0; what it counted stays from test to test."""
    directory = tmp_path_factory.mktemp("two-workers")
    models = directory / "models"
    settings = directory / "turnout.toml"
    settings.touch()
    options = (*TWO, "--config", str(settings))
    repository = Repository(models)
    for number in (1, 2):
        onnx.save(scaled(number), directory / f"{number}.onnx")
        publish(repository, PublishRequest("m", Version(number), directory / f"{number}.onnx"))
    with StateStore.open(Settings(models=models).state_url) as store:
        store.release("m", Version(1), actor="test", reason="")
    with serving(
        models,
        options=options,
        TURNOUT_LOG__ACCESS_SAMPLE_RATE="1",
        TURNOUT_OIP__SYSTEM_SHARED_MEMORY="true",
        TURNOUT_OIP__ALLOW_SETTINGS_CHANGES="true",
        TURNOUT_CONSOLE__TOKEN=CONSOLE_TOKEN,
    ) as server:
        until(lambda: ready(server) and all_up(server) and all_loaded(server))
        yield server


def until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # what is waited for may take CPU to tell, on a machine that has none to spare


def ready(server: Server) -> bool:
    return httpx.get(f"http://{server.http}/readyz").status_code == 200


def workers_of(server: ServerProcess) -> dict[int, psutil.Process]:
    """The processes of the workers that run, in no order that says anything."""
    found = {}
    for child in psutil.Process(server.process.pid).children():
        try:
            if "turnout.worker" in child.cmdline():
                found[child.pid] = child
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def scrape(server: Server) -> str:
    """The metrics; asked for again where a worker ended that had the connection."""
    for _ in range(20):
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{server.http}/metrics").raise_for_status().text
    raise AssertionError("no scrape in 20 tries")


def samples(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The series of one scrape, by name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in read_text(scrape(server)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(server: Server, name: str = "turnout_requests_total") -> float:
    return sum(value for _, value in samples(server)[name])


def restarts(server: Server) -> float:
    return total(server, "turnout_worker_restarts_total")


def ask(server: Server, connections: int, each: int) -> None:
    for _ in range(connections):
        # Or a channel takes the connection of the one before it, where that is not closed yet.
        with Client(server.grpc, retries=0, options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            for _ in range(each):
                np.testing.assert_array_equal(client.predict("m", {"x": X})["y"], X)


def answered_by(server: ServerProcess) -> list[int]:
    """Which worker answered each request, as the log tells."""
    return [line["worker"] for line in server.lines() if line["event"] == "request"]


def test_each_worker_is_a_server_among_those_of_the_state_store(two_workers: ServerProcess) -> None:
    def listed() -> list[dict[str, object]]:
        output = turnout("servers", "m", "--server", two_workers.control, "--json").stdout
        return [one for one in json.loads(output)["servers"] if one["alive"]]

    until(lambda: len(found := listed()) == 2 and found[0]["models"] == found[1]["models"])
    one, other = listed()
    assert str(one["name"]).endswith(f":{two_workers.grpc.rpartition(':')[2]}/0")
    assert str(other["name"]).removesuffix("/1") == str(one["name"]).removesuffix("/0")


def test_all_workers_answer_and_one_scrape_has_their_exact_sums(two_workers) -> None:
    before, logged = total(two_workers), len(answered_by(two_workers))
    ask(two_workers, connections=30, each=4)
    with httpx.Client(base_url=f"http://{two_workers.http}") as rest:
        for _ in range(5):
            assert rest.post("/predict/m", json={"inputs": {"x": X.tolist()}}).status_code == 200
    for _ in range(4):  # whichever worker is asked, on a connection of its own
        series = samples(two_workers)
        requests = {tuple(labels.items()): value for labels, value in series["turnout_requests_total"] if value}
        assert sum(requests.values()) - before == 125
        assert len(requests) == 1
        for stage in ("request", "queue", "compute"):
            assert series[f"turnout_{stage}_duration_seconds_count"][0][1] == before + 125
            buckets = [value for _, value in series[f"turnout_{stage}_duration_seconds_bucket"]]
            assert buckets == sorted(buckets)
            assert buckets[-1] == before + 125
    until(lambda: len(answered_by(two_workers)) == logged + 125)
    assert set(answered_by(two_workers)[logged:]) == {0, 1}


def test_both_formats_are_whole_and_say_the_same(two_workers) -> None:
    ask(two_workers, connections=4, each=5)
    text = httpx.get(f"http://{two_workers.http}/metrics").text
    openmetrics = httpx.get(f"http://{two_workers.http}/metrics", headers=OPENMETRICS).text
    assert openmetrics.endswith("# EOF\n")

    def values_of(families):
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("turnout_") and "memory" not in sample.name
        }

    one, other = values_of(read_text(text)), values_of(read_openmetrics(openmetrics))
    assert {key: value for key, value in one.items() if "_tick_" not in key[0]} == {
        key: value for key, value in other.items() if "_tick_" not in key[0]
    }
    assert len({key for key in one if key[0] == "turnout_version_info"}) == 2


def test_a_killed_worker_comes_back_others_serve_and_no_sum_falls(two_workers) -> None:
    ask(two_workers, connections=10, each=5)
    before, restarted = total(two_workers), restarts(two_workers)
    next(iter(workers_of(two_workers).values())).kill()
    sums = [total(two_workers)]
    with Client(two_workers.grpc, retries=3) as client:
        asked = 0
        while not came_back(two_workers, restarted + 1) or len(workers_of(two_workers)) < 2:
            assert len(sums) < 20_000
            client.predict("m", {"x": X})  # served meanwhile
            asked += 1
            sums.append(total(two_workers))
            time.sleep(0.05)  # the new worker wants the core that scrapes take
    assert sums == sorted(sums)
    until(lambda: total(two_workers) == before + asked)
    assert restarts(two_workers) == restarted + 1
    assert "ended, and is started again" in two_workers.log.read_text()
    ask(two_workers, connections=10, each=2)
    assert total(two_workers) == before + asked + 20


def all_up(server: Server) -> bool:
    return [value for _, value in samples(server)["turnout_worker_up"]] == [1.0, 1.0]


def came_back(server: Server, restarted: float) -> bool:
    """Tells by one scrape whether workers were started again so many times, and all are up."""
    series = samples(server)
    count = sum(value for _, value in series["turnout_worker_restarts_total"])
    return count == restarted and [value for _, value in series["turnout_worker_up"]] == [1.0, 1.0]


def all_loaded(server: Server) -> bool:
    return [labels["state"] for labels, _ in samples(server)["turnout_version_info"]] == ["ready", "ready"]


def test_what_an_operator_says_holds_in_every_worker_and_outlives_one(two_workers) -> None:
    turnout("load", "m@2.0.0", "--server", two_workers.control)

    def answers(version: str) -> set[str]:
        found = set()
        for _ in range(12):
            with Client(two_workers.grpc, retries=0) as client:
                found.add(client.predict("m", {"x": X}, version=version).version)
        return found

    assert answers("2.0.0") == {"2.0.0"}
    turnout("traffic", "set", "m", "--baseline", "1.0.0", "--canary", "2.0.0=100%", "--server", two_workers.control)
    assert answers("") == {"2.0.0"}  # in every worker when the call returns
    with grpc.insecure_channel(two_workers.control) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        (traffic,) = stub.GetTraffic(traffic_pb2.GetTrafficRequest(), timeout=60).models
    assert {share.version: share.decisions for share in traffic.shares} == {"1.0.0": 0, "2.0.0": 12}
    turnout("traffic", "clear", "m", "--server", two_workers.control)
    assert answers("") == {"1.0.0"}
    turnout("unload", "m@2.0.0", "--server", two_workers.control)
    for worker in workers_of(two_workers).values():
        wanted = restarts(two_workers) + 1
        worker.kill()
        until(functools.partial(came_back, two_workers, wanted))
    states = {labels["version"]: labels["state"] for labels, _ in samples(two_workers)["turnout_version_info"]}
    assert states == {"1.0.0": "ready", "2.0.0": "new"}  # the processes are: neither has ever loaded it
    turnout("load", "m@2.0.0", "--server", two_workers.control)  # the control listener is where it was
    assert answers("2.0.0") == {"2.0.0"}


def oip(server: Server, method: str, message: Any) -> Any:
    """Calls a method of the Open Inference Protocol over a connection of its own, which any worker may get."""
    with grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        path = f"/inference.GRPCInferenceService/{method}"
        answer = getattr(inference_pb2, type(message).__name__.replace("Request", "Response"))
        return channel.unary_unary(path, type(message).SerializeToString, answer.FromString)(message, timeout=30)


def test_what_clients_register_and_set_holds_in_every_worker_and_outlives_one(two_workers) -> None:
    segment = SharedMemory(create=True, size=2 * X.nbytes)
    infer = inference_pb2.ModelInferRequest(model_name="m")
    for holder, offset in (
        (infer.inputs.add(name="x", datatype="FP32", shape=X.shape), 0),
        (infer.outputs.add(name="y"), 1),
    ):
        holder.parameters["shared_memory_region"].string_param = "r"
        holder.parameters["shared_memory_byte_size"].int64_param = X.nbytes
        holder.parameters["shared_memory_offset"].int64_param = offset * X.nbytes

    def answered() -> int:
        for n in range(12):
            segment.buf[:] = (n * X).tobytes() + bytes(X.nbytes)
            oip(two_workers, "ModelInfer", infer)
            assert bytes(segment.buf[X.nbytes :]) == (n * X).tobytes()
        return 12

    def levels() -> set[int]:
        asked = [oip(two_workers, "LogSettings", inference_pb2.LogSettingsRequest()) for _ in range(12)]
        return {answer.settings["log_verbose_level"].uint32_param for answer in asked}

    def counted() -> tuple[int, int]:
        """Requests that were answered, and rows, by the statistics of all workers."""
        asked = inference_pb2.ModelStatisticsRequest(name="m", version="1.0.0")
        (statistics,) = oip(two_workers, "ModelStatistics", asked).model_stats
        return statistics.inference_stats.success.count, statistics.inference_count

    def set_verbose(level: int) -> None:
        request = inference_pb2.LogSettingsRequest()
        request.settings["log_verbose_level"].uint32_param = level
        oip(two_workers, "LogSettings", request)

    try:
        region = {"name": "r", "key": segment.name, "byte_size": segment.size}
        oip(two_workers, "SystemSharedMemoryRegister", inference_pb2.SystemSharedMemoryRegisterRequest(**region))
        before = counted()
        count = answered()
        assert counted() == (before[0] + count, before[1] + count)
        set_verbose(1)
        assert levels() == {1}
        wanted = restarts(two_workers) + 1
        next(iter(workers_of(two_workers).values())).kill()
        until(functools.partial(came_back, two_workers, wanted))
        answered()
        assert levels() == {1}
        set_verbose(0)
        oip(two_workers, "SystemSharedMemoryUnregister", inference_pb2.SystemSharedMemoryUnregisterRequest(name="r"))
        for _ in range(12):
            with pytest.raises(grpc.RpcError, match="no region of shared memory"):
                oip(two_workers, "ModelInfer", infer)
    finally:
        segment.close()
        segment.unlink()


def test_top_adds_the_workers_up(two_workers) -> None:
    def baseline() -> activity_pb2.RoleActivity:
        with grpc.insecure_channel(two_workers.control) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            activity = stub.GetActivity(activity_pb2.GetActivityRequest(), timeout=60)
        assert [version.version for version in activity.versions] == ["2.0.0", "1.0.0"]
        return next(role for version in activity.versions for role in version.roles if role.role == "baseline")

    before = baseline()
    ask(two_workers, connections=10, each=3)
    after = baseline()
    assert (after.requests - before.requests, after.failures, after.weight) == (30, 0, 1.0)
    assert sum(after.latency) - sum(before.latency) == 30


def test_the_console_says_which_counts_are_one_worker_s(two_workers) -> None:
    turnout("traffic", "set", "m", "--baseline", "1.0.0", "--canary", "2.0.0=50%", "--server", two_workers.control)
    pages = [httpx.get(f"http://{two_workers.http}/console/models/m").text for _ in range(48)]
    turnout("traffic", "clear", "m", "--server", two_workers.control)
    assert {page.partition("from ")[2][:13] for page in pages} == {"worker 0 of 2", "worker 1 of 2"}


def test_who_signs_in_to_the_console_is_signed_in_whichever_worker_answers(two_workers) -> None:
    base = f"http://{two_workers.http}"
    form = {"name": "ann", "token": CONSOLE_TOKEN}
    signed_in = httpx.post(f"{base}/console/sign-in", data=form, headers={"origin": base})
    assert signed_in.status_code == 303
    headers = {"cookie": signed_in.headers["set-cookie"].partition(";")[0]}
    pages = [httpx.get(f"{base}/console/models/m", headers=headers).text for _ in range(24)]  # each its own connection
    assert all("Sign out" in page for page in pages)
    assert CONSOLE_TOKEN not in two_workers.log.read_text()


def test_who_signs_out_of_the_console_is_signed_out_in_every_worker_and_in_those_started_later(two_workers) -> None:
    base = f"http://{two_workers.http}"
    form = {"name": "ann", "token": CONSOLE_TOKEN}
    signed_in = httpx.post(f"{base}/console/sign-in", data=form, headers={"origin": base})
    copied = {"cookie": signed_in.headers["set-cookie"].partition(";")[0]}

    def pages() -> list[str]:
        return [httpx.get(f"{base}/console/models/m", headers=copied).text for _ in range(24)]

    assert all("Sign out" in page for page in pages())
    signed_out = httpx.post(f"{base}/console/sign-out", headers=copied | {"origin": base})
    assert signed_out.status_code == 303
    assert not any("Sign out" in page for page in pages())
    wanted = restarts(two_workers) + 1
    next(iter(workers_of(two_workers).values())).kill()
    until(functools.partial(came_back, two_workers, wanted))
    assert not any("Sign out" in page for page in pages())


def test_sighup_reloads_in_every_worker_and_holds_for_those_started_later(two_workers) -> None:
    settings = Path(two_workers.log.parent / "turnout.toml")
    settings.write_text("[model.m]\nslo_ms = [250.0]\n")  # it holds for versions that are loaded from now on
    two_workers.send(signal.SIGHUP)
    until(lambda: len(reloads(two_workers)) == 2)
    assert {one["worker"] for one in reloads(two_workers)} == {0, 1}
    assert [one["needs_restart"] for one in reloads(two_workers)] == [[], []]  # nor do ports, which were to be any
    assert "turnout_slo_exceeded_total" not in samples(two_workers)
    wanted = restarts(two_workers) + 1
    next(iter(workers_of(two_workers).values())).kill()
    until(functools.partial(came_back, two_workers, wanted))
    assert {labels["threshold"] for labels, _ in samples(two_workers)["turnout_slo_exceeded_total"]} == {"0.25"}


def reloads(server: ServerProcess) -> list[dict[str, object]]:
    """What each worker told of reloading its settings."""
    return [line for line in server.lines() if line["event"] == "settings reloaded"]


def test_a_command_of_the_console_holds_in_every_worker_when_the_page_comes(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(2), release=False)
    seldom = {"TURNOUT_REPOSITORY__POLL_INTERVAL_S": "60", "TURNOUT_REPOSITORY__WATCH": "false"}
    with serving(
        models, options=TWO, TURNOUT_CONSOLE__TOKEN=CONSOLE_TOKEN, TURNOUT_ROLLOUT__TICK_S="0.2", **seldom
    ) as server:
        until(lambda: ready(server) and all_loaded(server))
        plan = {
            "steps": [{"weight": 0.5, "soak_s": 600.0}],
            "metrics": ["errors"],
            "min_requests": 5,
            "watch_s": 0.0,
            "holdback": 0.0,
        }
        with grpc.insecure_channel(server.control) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            stub.StartRollout(
                rollout_pb2.StartRolloutRequest(model="m", version="1.1.0", plan_json=json.dumps(plan)), timeout=60
            )
            listing = rollout_pb2.ListRolloutsRequest(model="m")
            until(lambda: stub.ListRollouts(listing, timeout=60).rollouts[0].state == "soaking")
        base = f"http://{server.http}"
        signed_in = httpx.post(
            f"{base}/console/sign-in", data={"name": "ann", "token": CONSOLE_TOKEN}, headers={"origin": base}
        )
        headers = {"origin": base, "cookie": signed_in.headers["set-cookie"].partition(";")[0]}
        page = f"{base}/console/models/m/rollouts/1"
        epoch = re.search(r'name="?epoch"? value="?(\d+)', httpx.get(page, headers=headers).text)
        assert epoch is not None
        promoted = httpx.post(f"{page}/promote-full", data={"epoch": epoch[1]}, headers=headers, timeout=60)
        assert promoted.status_code == 303, promoted.text
        found = set()
        for _ in range(16):
            with Client(server.grpc, retries=0) as client:
                found.add(client.predict("m", {"x": X}).version)
        assert found == {"1.1.0"}


def test_a_signal_drains_every_worker_and_no_request_that_had_begun_fails(publish_model, models) -> None:
    publish_model("m", "1.0.0", slow())
    answers: list[str] = []
    failures: list[tuple[float, BaseException]] = []

    ending = threading.Event()

    def call(server: Server, count: int, until_ended: threading.Event | None = None) -> None:
        """Calls again and again: until it is refused, or until the server is about to be ended."""
        with Client(server.grpc, retries=0, timeout=60) as client:
            while True:
                begun = time.monotonic()
                try:
                    answers.append(client.predict("m", {"x": X, "n": np.int64(count)}).version)
                except Exception as error:  # noqa: BLE001 - told below
                    failures.append((begun, error))
                    return
                if until_ended is not None and until_ended.is_set():
                    return
                time.sleep(0.01)

    with serving(models, options=TWO, TURNOUT_DRAIN__DELAY_S="5") as server:  # what had begun has come by then
        until(lambda: ready(server))
        long = [threading.Thread(target=call, args=(server, 10_000, ending)) for _ in range(4)]
        short = [threading.Thread(target=call, args=(server, 1)) for _ in range(4)]
        for one in (*long, *short):
            one.start()
        until(lambda: total(server, "turnout_inflight_requests") >= 4 and len(answers) > 100)
        ending.set()
        signalled = time.monotonic()
        server.send(signal.SIGTERM)
        for one in (*long, *short):
            one.join(60)
        assert server.wait() == 0
    # Those that call again and again are told to go elsewhere in the end, and nobody else was told anything.
    assert [type(error) for _, error in failures] == [Unavailable] * 4
    assert all(begun > signalled for begun, _ in failures)
    assert server.log.read_text().count('"stopped"') == 3  # two workers and their parent


def test_a_second_signal_ends_every_process_at_once(publish_model, models) -> None:
    publish_model("m", "1.0.0", slow())
    with serving(models, options=TWO, TURNOUT_TRANSPORT__DATA="grpcio") as server:
        until(lambda: ready(server))
        workers = workers_of(server)

        def call() -> None:
            with Client(server.grpc, retries=0, timeout=60) as client, pytest.raises(Unavailable):
                client.predict("m", {"x": X, "n": np.int64(10**9)})

        calling = threading.Thread(target=call)
        calling.start()
        until(lambda: total(server, "turnout_inflight_requests") == 1)
        server.send(signal.SIGTERM)
        until(lambda: "draining" in server.log.read_text())
        server.send(signal.SIGTERM)
        assert server.wait() == 1
        calling.join(60)
        until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers.values()))


def forked_turnout(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in a process that is forked rather than an interpreter's own."""
    return subprocess.run([turnout_program(), *map(str, arguments)], capture_output=True, text=True, timeout=240)


def test_a_port_that_somebody_has_is_refused_in_words(models, two_workers) -> None:
    for workers in ("1", "2"):
        done = forked_turnout(
            "serve", "--models", models, "--grpc", two_workers.grpc, "--http", "127.0.0.1:0", "--control",
            "127.0.0.1:0", "--workers", workers,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"{two_workers.grpc} cannot be listened on" in done.stderr


def test_workers_that_cannot_start_end_the_server_with_their_words(models: Path, tmp_path: Path) -> None:
    ports = [part for name in ("grpc", "http", "control") for part in (f"--{name}", "127.0.0.1:0")]
    nowhere = f"sqlite:///{tmp_path}/nowhere/state.db"
    (tmp_path / "nowhere").write_text("a file")
    done = forked_turnout("serve", "--models", models, "--state", nowhere, *ports, "--workers", "2")
    assert done.returncode == 1
    assert re.search(r"error: .*state", done.stderr)
    assert "could not start, and the server stops" in done.stderr


def test_one_worker_is_the_process_itself(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    with serving(models, options=("--workers", "1")) as server:
        until(lambda: ready(server))
        assert workers_of(server) == {}
        assert "turnout_worker_up" not in samples(server)
        assert [labels for labels, _ in samples(server)["process_open_fds"]] == [{}]


def test_workers_end_with_a_parent_that_was_killed(two_workers) -> None:  # the last: nothing is left of it
    workers = workers_of(two_workers)
    os.kill(two_workers.process.pid, signal.SIGKILL)
    two_workers.wait()
    until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers.values()))
