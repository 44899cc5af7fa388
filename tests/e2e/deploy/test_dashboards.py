"""Every expression of every dashboard means something to a real Prometheus that scrapes a real server."""

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import yaml

import rollout_wire
from http_endpoint import Endpoint, answer, listening
from onnx_models import scaled
from prometheus_process import RULES, Prometheus, needs_prometheus, prometheus
from routing_wire import policy, put, scrape
from shadow_wire import PATIENT
from turnout.app.server import Running
from turnout.config import ModelOverrides, Probe, ShadowLane
from turnout.telemetry.metrics.workers import worker_families
from turnout_proto.v1 import rollout_pb2
from wire import X, request, stub_of

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

VARIABLES = {
    "$job": "turnout", "$model": "m", "$version": ".+", "$instance": ".+",
    "$__rate_interval": "10s", "$__range": "1h",
}  # fmt: skip

PROMETHEUS_S_OWN = {"up", "ALERTS", "scrape_duration_seconds"}

EMPTY = {
    ("resources", "GPU memory"): "there is no GPU",
    ("resources", "GPU use"): "there is no GPU",
    ("resources", "child processes that died"): "no version runs in a process of its own",
    ("shadow", "copies that were not run"): "every copy was run",
    ("overview", "alerts"): "what fires here depends on how far the shadow's disagreement has come",
}
"""Panels that may have nothing to show of the scene."""


@dataclass(frozen=True)
class Asked:
    """One expression, and where it stands."""

    board: str
    panel: str
    expression: str


def asked() -> Iterator[Asked]:
    for file in BOARDS:
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield Asked(file.stem, panel["title"], target["expr"])


def marks() -> Iterator[str]:
    for file in BOARDS:
        for annotation in json.loads(file.read_text()).get("annotations", {}).get("list", []):
            if "expr" in annotation:
                yield annotation["expr"]


def values() -> Iterator[tuple[str, str]]:
    """The selector and the label of every variable that is looked up."""
    for file in BOARDS:
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield found[1], found[2]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def test_the_committed_dashboards_are_what_the_generator_makes() -> None:
    run = subprocess.run([sys.executable, GRAFANA / "generate.py", "--check"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_every_dashboard_has_a_name_of_its_own_and_panels_that_say_what_they_show() -> None:
    boards = [json.loads(file.read_text()) for file in BOARDS]
    assert [file.stem for file in BOARDS] == ["model", "overview", "resources", "rollout", "shadow"]
    assert len({board["uid"] for board in boards}) == len(boards)
    for board in boards:
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(titles)) == len(titles)
        for panel in board["panels"]:
            where = panel["gridPos"]
            assert where["x"] + where["w"] <= 24, panel["title"]


def test_provisioning_finds_the_dashboards_where_compose_puts_them() -> None:
    compose = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())
    mounts = dict(v.split(":")[:2] for v in compose["services"]["grafana"]["volumes"])
    for source in mounts:
        assert source in compose["volumes"] or (GRAFANA.parent / source).is_dir(), source
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/turnout.yml").read_text())["providers"]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(compose["services"]) == {"turnout", "prometheus", "grafana"}


async def exported(server) -> set[str]:
    """The names of all samples that the server declares, with or without series."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{server.http}/metrics")).text
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def rules() -> Iterator[dict]:
    for file in RULES.glob("*.yml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


@pytest.mark.slow
@needs_prometheus
async def test_every_panel_names_real_metrics_and_shows_a_scene_with_a_canary_a_shadow_and_a_rollout(
    publish_model, start_server, tmp_path
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)
    publish_model("m", "1.2.0", scaled(2.5), release=False)
    async with listening(Endpoint(answer(200, {"errors": 0.5}))) as endpoint:
        probe = Probe(url=endpoint.url, json_path="$.errors", fail_above=1, interval_s=0.2)
        server = await start_server(
            rollout=rollout_wire.TICK,
            model={"m": ModelOverrides(slo_ms=(0.001,), false_alarm_meter=0.25)},
            shadow=ShadowLane(isolation="thread", noise_rate=1.0, **PATIENT),
            probe={"shop": probe},
        )
        await _scene(server, tmp_path)


async def _scene(server: Running, tmp_path: Path) -> None:
    await put(server, policy("1.0.0", shadows={"1.2.0": 1.0}))
    async with stub_of(server) as stub, rollout_wire.clients(server, lambda _: request("m", x=X), pause=0.01):

        async def meter_began() -> None:
            while not (await scrape(server)).get(("turnout_rollout_false_alarm_attempts_total", "model=m")):
                await asyncio.sleep(0.05)

        await asyncio.wait_for(meter_began(), 120)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request("m", x=X.astype(np.float64)))
        plan = rollout_wire.CAREFREE | {"steps": [{"weight": 0.4, "soak_s": 600.0}], "step_deadline_s": 1000.0}
        plan |= {"probes": ["shop"]}
        await rollout_wire.start(server, "1.1.0", plan)
        await rollout_wire.until(server, lambda rollout: any(probe.outcome for probe in rollout.probes))
        await rollout_wire.command(server, rollout_pb2.ROLLOUT_COMMAND_PAUSE, actor="ann", reason="a look")
        await asyncio.to_thread(_judge, tmp_path, str(server.http), await exported(server))


def _judge(directory: Path, target: str, exported: set[str]) -> None:
    known = exported | recorded() | PROMETHEUS_S_OWN | {family.name for family in worker_families({}, {})}
    everything = list(asked())
    assert len(everything) > 50
    for expression in (*(each.expression for each in everything), *marks(), *(selector for selector, _ in values())):
        used = set(re.findall(r"([a-zA-Z_:][\w:]*)\{", expression)) or {expression}
        assert used <= known, f"{used - known} in {expression}"
    for rule in rules():
        used = set(re.findall(r"\b(?:[a-z_]+:)?turnout_[\w:]+", rule["expr"]))
        assert used <= known, f"{used - known} in {rule}"
    with prometheus(directory / "prometheus", target) as watch:
        missing = set(everything)

        def all_have_data() -> bool:
            nonlocal missing
            missing = {each for each in missing if not _has_data(watch, each.expression)}
            return {(each.board, each.panel) for each in missing} <= EMPTY.keys()

        try:
            watch.wait("every panel has something to show", all_have_data)
        except AssertionError as error:
            raise AssertionError([each for each in missing if (each.board, each.panel) not in EMPTY]) from error
        for expression in marks():
            watch.now(filled(expression))  # an event may not have come up, but the expression is sound
        for selector, label in values():
            assert watch.ask("query", query=f"count by ({label}) ({filled(selector)})")["result"], selector


def _has_data(watch: Prometheus, expression: str) -> bool:
    samples = watch.now(filled(expression)).values()
    return any(not math.isnan(value) for value in samples)
