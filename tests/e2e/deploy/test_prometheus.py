"""A real Prometheus scrapes a real server while a canary is rolled back: the alerts that should fire do, no other."""

import itertools
import json
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from onnx_models import slow_look_up
from processes import serving
from prometheus_process import Prometheus, needs_prometheus, prometheus
from turnout.telemetry.histogram import LATENCY_BOUNDS
from turnout_client import Client, Internal
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

pytestmark = [pytest.mark.slow, needs_prometheus]

X = np.ones((1, 4), np.float32)
PLAN = {
    "steps": [{"weight": 0.5, "soak_s": 300.0}],
    "metrics": ["errors"],
    "min_requests": 20,
    "warm_requests": 0,
    "step_deadline_s": 600.0,
}


ROUNDS, MORE_ROUNDS = 400, 4000
"""Of work. One request in twenty is ten times as long: the slowest hundredth is the model's then, not the machine's."""


class Load:
    """Clients that send requests, one in ten of which the candidate cannot answer, and time them.

    Attributes:
        seconds: By version, of each request, failed ones included.
        failed: Requests that failed. Only the candidate fails any.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.failed = 0
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @contextmanager
    def running(self, address: str, clients: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(address,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _ask(self, address: str) -> None:
        with Client(address, retries=0) as client:
            while not self._stop.wait(0.02):
                number = next(self._numbers)
                index = np.array([1000 if number % 10 == 0 else 7])
                rounds = np.array(MORE_ROUNDS if number % 20 == 5 else ROUNDS)
                begun = time.monotonic()
                try:
                    version = client.predict("m", {"x": X, "n": rounds, "index": index}).version
                except Internal:
                    version = "1.1.0"
                took = time.monotonic() - begun
                with self._lock:
                    self.failed += version == "1.1.0" and index[0] == 1000
                    self.seconds[version].append(took)


def rolled_out(control: str) -> Iterator[pb.Rollout]:
    """Begins a rollout of 1.1.0, and tells how it goes."""
    with grpc.insecure_channel(control) as channel:
        stub = ControlServiceStub(channel)
        stub.StartRollout(pb.StartRolloutRequest(model="m", version="1.1.0", plan_json=json.dumps(PLAN)), timeout=30)
        for message in stub.WatchRollout(pb.WatchRolloutRequest(model="m"), timeout=200):
            yield message.rollout
            if message.rollout.state in ("rolled_back", "succeeded", "superseded", "failed"):
                return


def bucket(seconds: float) -> int:
    return bisect_left(LATENCY_BOUNDS, seconds)


def scraped_quantile(watch: Prometheus, version: str, quantile: float) -> float:
    """Returns the bound of the bucket with a quantile of what a version's buckets have grown by since they were seen.

    A rate does not know what was counted before the first scrape of a series, which may be most of a short canary.
    """
    query = f'turnout_request_duration_seconds_bucket{{version="{version}"}}[5m]'
    grown: Counter[float] = Counter()
    for series in watch.ask("query", query=query)["result"]:
        (_, first), (_, last) = series["values"][0], series["values"][-1]
        grown[float(series["metric"]["le"])] += float(last) - float(first)
    return next(bound for bound in sorted(grown) if grown[bound] >= quantile * grown[float("inf")])


def test_while_a_canary_is_rolled_back_each_alert_that_should_fires_and_the_rules_say_what_clients_saw(
    publish_model, models, tmp_path
) -> None:
    publish_model("m", "1.0.0", slow_look_up(safe=True))
    publish_model("m", "1.1.0", slow_look_up(safe=False), release=False)
    begun, load = time.monotonic(), Load()
    with (
        serving(models, TURNOUT_ROLLOUT__TICK_S="0.2") as server,
        Client(server.grpc) as client,
        prometheus(tmp_path / "prometheus", server.http) as watch,
    ):
        client.wait_ready("m", timeout=200)
        watch.wait("all series are there", lambda: watch.now('turnout_requests_total{version="1.0.0"} == 0') != {})
        with load.running(server.grpc):
            watch.wait(
                "requests are seen", lambda: watch.now("version:turnout_request_duration_seconds:p99_rate5m") != {}
            )
            *_, last = rolled_out(server.control)
        assert last.state == "rolled_back", last

        def everything_is_scraped() -> bool:
            seen = watch.now('sum by (version) (turnout_requests_total{model="m",version!=""})')
            return seen == {(f"version={v}",): len(each) for v, each in load.seconds.items()}

        watch.wait("everything is scraped", everything_is_scraped)
        at = "model=m"
        model = ("job=turnout", at)
        expected = {
            ("alertname=TurnoutVersionErrorRatio", *model, "severity=critical", "version=1.1.0"),
            ("alertname=TurnoutCanaryWorse", "by=errors", *model, "severity=warning", "version=1.1.0"),
            ("alertname=TurnoutErrorBudgetBurn", *model, "severity=critical"),
            ("alertname=TurnoutErrorBudgetBurn", *model, "severity=warning"),
            ("alertname=TurnoutRolledBack", *model, "severity=info"),
        }
        watch.wait("the alerts fire", lambda: expected <= watch.ever_fired(time.monotonic() - begun))
        evaluated = time.time()
        watch.wait(
            "whatever else might fire has had the time to",
            lambda: min(watch.now("timestamp(version:turnout_requests:rate5m)").values()) > evaluated + 4,
        )
        fired = watch.ever_fired(time.monotonic() - begun)
        assert fired == expected

        ratio = watch.now("version:turnout_request_errors:ratio_rate5m")
        assert ratio[(*model, "version=1.0.0")] == 0
        share = load.failed / len(load.seconds["1.1.0"])
        assert ratio[(*model, "version=1.1.0")] == pytest.approx(share, rel=0.35)
        for version, seconds in load.seconds.items():
            key = (*model, f"version={version}")
            counted = watch.now("version:turnout_requests:rate5m * 300")[key]
            series = watch.ask("query", query=f'turnout_requests_total{{version="{version}"}}[5m]')["result"]
            unseen = sum(float(each["values"][0][1]) for each in series)  # before it was first scraped in its role
            assert counted == pytest.approx(len(seconds) - unseen, rel=0.1, abs=3)
            for q in (50, 90, 99):
                recorded = watch.now(f"version:turnout_request_duration_seconds:p{q}_rate5m")[key]
                by_server = scraped_quantile(watch, version, q / 100)
                assert abs(bucket(recorded) - bucket(by_server)) <= 1, (version, q, recorded, by_server)
                # On a busy machine clients wait for a core after the server has answered, but never for less.
                measured = float(np.quantile(seconds, q / 100, method="inverted_cdf"))
                assert bucket(recorded) <= bucket(measured) + 1, (version, q, recorded, measured)
