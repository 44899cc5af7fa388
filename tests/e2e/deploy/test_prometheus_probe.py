"""A real Prometheus scrapes a server, which asks it about its candidates: a bad one goes back, a good one on."""

import json
import re
import threading

import grpc
import numpy as np
import pytest

from command_line import run
from onnx_models import look_up
from ports import free_port
from processes import serving_in_thread
from prometheus_process import needs_prometheus, prometheus
from turnout.config import Probe
from turnout.config import RolloutSettings as RolloutSettings
from turnout_client import Client, Internal
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

pytestmark = [pytest.mark.slow, needs_prometheus]

FAILING = """
(sum(rate(turnout_requests_total{model="{model}",version=~"{candidate}",code!="OK"}[4s])) or vector(0))
  / sum(rate(turnout_requests_total{model={model},version='{candidate}'}[4s]))  # of {candidate}
"""
"""Share of the candidate's requests that fail; without one there is no data."""

PLAN = {
    "steps": [{"weight": 0.5, "soak_s": 1.0}],
    "metrics": ["errors"],
    "min_requests": 20,
    "watch_s": 0.2,
    "probes": ["failing"],
    "breaker": {"on": False},
}
"""Both versions fail on the same requests: neither the evidence nor anything else of the server minds."""


class Load:
    """A client that sends requests, one in five of which no version can answer once they are `bad`."""

    def __init__(self, address: str) -> None:
        self.bad = False
        self._stop = threading.Event()
        self._address = address
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _ask(self) -> None:
        number = 0
        with Client(self._address, retries=0) as client:
            while not self._stop.wait(0.005):
                number += 1
                index = np.array([1000 if self.bad and number % 5 == 0 else number % 300])
                try:
                    client.predict("m", {"index": index})
                except Internal:
                    continue


def rolled_out(control: ControlServiceStub, version: str) -> list[pb.Rollout]:
    """Rolls a version out to its end, and returns what was told."""
    control.StartRollout(pb.StartRolloutRequest(model="m", version=version, plan_json=json.dumps(PLAN)), timeout=60)
    watched = control.WatchRollout(pb.WatchRolloutRequest(model="m"), timeout=100)
    return [message.rollout for message in watched]


def test_a_promql_probe_on_the_servers_own_metrics_lets_a_good_candidate_through_and_takes_a_bad_one_back(
    publish_model, models, tmp_path
) -> None:
    for version in ("1.0.0", "1.1.0+cpu", "1.2.0"):
        publish_model("m", version, look_up(), release=version == "1.0.0")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    probes = {
        "failing": Probe(url=url, query=FAILING, fail_above=0.05, interval_s=0.3, failure_limit=1),
        "nothing": Probe(url=url, query='absent_metric{version="{candidate}"}', fail_above=0.05),
        "divided": Probe(url=url, query="vector(0) / 0", fail_above=0.05),
        "several": Probe(url=url, query="count by (version) (turnout_version_info)", fail_above=100),
        "broken": Probe(url=url, query="sum(", fail_above=100),
        "endless": Probe(url=url, query="vector(1) / 0", fail_above=100),
        "constant": Probe(url=url, query='scalar(count(turnout_version_info{model=~"{model}"}))', fail_below=1),
    }
    with (
        serving_in_thread(models, wait=True, rollout=RolloutSettings(tick_s=0.2), probe=probes) as server,
        prometheus(tmp_path / "prometheus", server.http, port=port),
        grpc.insecure_channel(server.control) as channel,
    ):
        control = ControlServiceStub(channel)

        def tried(name: str) -> tuple[str, str, str]:
            request = pb.TryProbeRequest(probe=name, model="m", version="1.1.0+cpu")
            tried = control.TryProbe(request, timeout=60)
            return tried.outcome, tried.value, tried.detail

        assert tried("nothing") == ("inconclusive", "", "there is no data")
        assert tried("divided") == ("inconclusive", "NaN", "it answered NaN")
        assert tried("endless") == ("failed", "+Inf", "+Inf is above 100")
        outcome, _, why = tried("several")
        assert (outcome, why) == ("inconclusive", "expected one series, got 3: aggregate them")
        outcome, _, why = tried("broken")
        assert outcome == "inconclusive"
        assert why.startswith("Prometheus refused: ")
        assert "parse error" in why
        assert tried("constant") == ("passed", "3", "")

        asked = ("rollout", "probe", "constant", "--model", "m@1.2.0", "--server", server.control)
        by_hand = run(*asked)
        assert (by_hand.returncode, by_hand.stdout.splitlines()[0]) == (0, "constant passed 3"), by_hand
        listed = run("rollout", "probe", "--server", server.control)
        assert re.search(r"failing +promql +at most 0.05", listed.stdout), listed
        planned = run("rollout", "plan", "m", "--to", "1.2.0", "--probe", "failing", "--server", server.control)
        assert "What is measured outside" in planned.stdout
        refused = run("rollout", "start", "m", "--to", "1.2.0", "--probe", "faling", "--server", server.control)
        assert refused.returncode == 1
        assert "did you mean failing?" in refused.stderr

        with Load(server.grpc) as load:
            good = rolled_out(control, "1.1.0+cpu")
            assert good[-1].state == "succeeded", good[-1]
            measured = {(p.name, p.outcome, p.value) for one in good for p in one.probes}
            assert ("failing", "passed", "0") in measured
            load.bad = True
            bad = rolled_out(control, "1.2.0")
        assert bad[-1].state == "rolled_back", bad[-1]
        assert bad[-1].verdict.startswith("probe failing failed 2 times in this step (1 allowed), the last: 0."), bad[
            -1
        ]
        assert bad[-1].verdict.endswith(" is above 0.05")
        status = run("rollout", "status", "m", "--server", server.control, "--json")
        assert json.loads(status.stdout)["verdict"] == bad[-1].verdict
