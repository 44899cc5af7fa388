"""What other systems read of a rollout: the JSON, the checks, and the examples for Argo Rollouts and Flagger."""

import re
from pathlib import Path
from typing import Any

import httpx
import jsonpath
import numpy as np
import pytest
import yaml

import onnx_models
from onnx_models import scaled
from rollout_wire import CAREFREE, FINAL, LONG, TICK, clients, command, in_state, start, until
from turnout.app.server import Running
from turnout.rollout.machine.status import Verdict
from turnout.web.rollouts import CHECKS
from turnout_proto.v1 import rollout_pb2 as pb
from wire import X, request

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[3] / "deploy"
KEYS = {
    "model", "attempt", "candidate", "previous", "phase", "state", "final", "verdict", "cause", "message", "evidence",
    "threshold", "step", "steps", "weight", "epoch", "metrics", "pauses", "lacking", "started_at", "changed_at",
}  # fmt: skip
ADDRESS = "http://turnout-http.turnout.svc:8000"
"""Of the server in the examples."""


async def get(server: Running, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        return await client.get(path)


async def analyses(server: Running, model: str, candidate: str) -> dict[str, str]:
    """What Argo Rollouts would make of each AnalysisTemplate: Successful, Failed or Inconclusive.

    Its conditions are evaluated here as they are there: those that the examples use mean the same in Python.
    """
    found = {}
    for template in yaml.safe_load_all((DEPLOY / "argo-rollouts" / "analysis-templates.yaml").read_text()):
        (metric,) = template["spec"]["metrics"]
        values = {arg["name"]: arg.get("value") for arg in template["spec"]["args"]}
        values |= {"model": model, "candidate": candidate}
        url = metric["provider"]["web"]["url"]
        for name, value in values.items():
            url = url.replace(f"{{{{args.{name}}}}}", value)
        answer = await get(server, url.removeprefix(ADDRESS))
        answer.raise_for_status()
        path = metric["provider"]["web"].get("jsonPath", "{$}")
        (result,) = jsonpath.findall(path[1:-1], answer.json())
        conditions = [metric.get(f"{kind}Condition") for kind in ("success", "failure")]
        succeeded, failed = (condition is not None and holds(condition, result) for condition in conditions)
        if failed or (conditions[1] is None and not succeeded):
            found[template["metadata"]["name"]] = "Failed"
        else:
            found[template["metadata"]["name"]] = "Successful" if succeeded else "Inconclusive"
    return found


def holds(condition: str, result: Any) -> bool:
    if isinstance(result, dict):
        condition = re.sub(r"result\.(\w+)", r'result["\1"]', condition)
    return bool(eval(condition.replace("||", " or "), {"result": result}))


async def hooks(server: Running, model: str, candidate: str, phase: str = "Progressing") -> dict[str, int]:
    """What Flagger would get from each webhook of the example, for what it sends."""
    canary = yaml.safe_load((DEPLOY / "flagger" / "canary.yaml").read_text())
    body = {"name": "checkout", "namespace": "shop", "phase": phase, "checksum": "85d557f47b", "metadata": {}}
    found = {}
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        for hook in canary["spec"]["analysis"]["webhooks"]:
            path = hook["url"].removeprefix(ADDRESS).replace("/fraud/", f"/{model}/").replace("2.4.0", candidate)
            found[hook["type"]] = (await client.post(path, json=body)).status_code
    return found


async def test_argo_rollouts_and_flagger_follow_a_rollout_to_each_of_its_ends(publish_model, start_server) -> None:
    for model in ("good", "stopped"):
        publish_model(model, "1.0.0", scaled(2))
        publish_model(model, "1.1.0", scaled(2), release=False)
    publish_model("bad", "1.0.0", onnx_models.look_up_safely())
    publish_model("bad", "1.1.0", onnx_models.look_up(), release=False)
    server = await start_server(rollout=TICK)

    assert (await get(server, "/v1/rollouts/good")).status_code == 404
    assert set((await hooks(server, "good", "1.1.0")).values()) == {404}

    await start(server, "1.1.0", LONG, model="stopped")
    await until(server, in_state("soaking"), model="stopped")
    going = await get(server, "/v1/rollouts/stopped")
    assert going.json().keys() == KEYS
    assert going.headers["cache-control"] == "no-store"
    fields = {key: going.json()[key] for key in ("phase", "state", "verdict", "final", "step", "steps", "weight")}
    assert fields == {
        "phase": "progressing", "state": "soaking", "verdict": "undecided", "final": False, "step": 1, "steps": 2,
        "weight": 0.25,
    }  # fmt: skip
    assert going.json()["threshold"] == pytest.approx(100.0)
    assert await analyses(server, "stopped", "1.1.0") == {
        "turnout-model-healthy": "Successful",
        "turnout-model-accepted": "Inconclusive",
        "turnout-model-evidence": "Successful",
    }
    assert await hooks(server, "stopped", "1.1.0") == {
        "confirm-rollout": 200, "rollout": 200, "confirm-promotion": 409, "rollback": 409,
    }  # fmt: skip
    await command(server, pb.ROLLOUT_COMMAND_PAUSE, model="stopped", actor="ann", reason="lunch")
    paused = (await get(server, "/v1/rollouts/stopped")).json()
    assert (paused["phase"], paused["verdict"], paused["pauses"]) == ("paused", "undecided", ["lunch"])

    await command(server, pb.ROLLOUT_COMMAND_ABORT, model="stopped", actor="ann", reason="another plan")
    await until(server, in_state("rolled_back"), model="stopped")
    ended = (await get(server, "/v1/rollouts/stopped")).json()
    assert (ended["phase"], ended["verdict"], ended["cause"]) == ("rolled_back", "inconclusive", "")
    assert "another plan" in ended["message"]
    assert (await analyses(server, "stopped", "1.1.0"))["turnout-model-healthy"] == "Failed"
    assert await hooks(server, "stopped", "1.1.0") == {
        "confirm-rollout": 200, "rollout": 409, "confirm-promotion": 409, "rollback": 409,
    }  # fmt: skip

    def ask(number: int) -> Any:
        if number % 2:
            return request("good", x=X)
        return request("bad", index=np.array([1000 if number % 5 == 0 else number % 300]))

    async with clients(server, ask, pause=0.005):
        await start(server, "1.1.0", CAREFREE, model="good")
        await start(server, "1.1.0", CAREFREE, model="bad")
        await until(server, in_state(*FINAL), model="good")
        await until(server, in_state(*FINAL), model="bad")
    good, bad = [(await get(server, f"/v1/rollouts/{model}?candidate=1.1.0")).json() for model in ("good", "bad")]
    assert (good["phase"], good["verdict"], good["weight"]) == ("succeeded", "accepted", 1.0)
    assert set((await analyses(server, "good", "1.1.0")).values()) == {"Successful"}
    assert await hooks(server, "good", "1.1.0") == {
        "confirm-rollout": 200, "rollout": 200, "confirm-promotion": 200, "rollback": 409,
    }  # fmt: skip
    assert (bad["phase"], bad["verdict"], bad["weight"]) == ("rolled_back", "rejected", 0.0)
    assert bad["cause"] in ("evidence", "breaker")
    assert set((await analyses(server, "bad", "1.1.0")).values()) >= {"Failed"}
    assert await hooks(server, "bad", "1.1.0") == {
        "confirm-rollout": 200, "rollout": 409, "confirm-promotion": 409, "rollback": 200,
    }  # fmt: skip
    errors = next(metric for metric in bad["metrics"] if metric["name"] == "errors")
    assert errors["candidate"]["bad"] > 0 == errors["previous"]["bad"]


async def test_a_candidate_is_not_taken_for_the_one_before_it(publish_model, start_server) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        publish_model("m", version, scaled(2), release=version == "1.0.0")
    server = await start_server(rollout=TICK)
    for version in ("1.1.0", "1.2.0"):
        await start(server, version, LONG)
        await until(server, in_state("soaking"))
        if version == "1.1.0":
            await command(server, pb.ROLLOUT_COMMAND_ABORT)
            await until(server, in_state("rolled_back"))
    rollouts = {
        path: (await get(server, f"/v1/rollouts/m{path}")).json() for path in ("", "?attempt=1", "?candidate=1.1.0")
    }
    assert [rollouts[path]["attempt"] for path in rollouts] == [2, 1, 1]
    missing = await get(server, "/v1/rollouts/m?candidate=1.3.0")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "m has had no rollout of '1.3.0'"


@pytest.mark.parametrize(
    ("path", "status", "terms"),
    [
        ("/v1/rollouts/none", 404, "none"),
        ("/v1/rollouts/m", 404, "m has had no rollout; `turnout rollout start m --to VERSION` starts one"),
        ("/v1/rollouts/m?attempt=7", 404, "m has had no rollout 7"),
        ("/v1/rollouts/m?attempt=0", 400, "expected a number from 1, got '0'"),
        ("/v1/rollouts/m?attempt=-1", 400, "expected a number from 1"),
        ("/v1/rollouts/m?attempt=%D9%A1", 400, "expected a number from 1"),
        ("/v1/rollouts/m?attempt=99999999999999999999", 400, "expected a number from 1"),
        ("/v1/rollouts/m/checks/fine", 404, "expected one of the checks started, healthy, accepted, rejected"),
    ],
)
async def test_what_is_not_there_is_said(publish_model, start_server, path: str, status: int, terms: str) -> None:
    publish_model("m", "1.0.0", scaled(2))
    answer = await get(await start_server(), path)
    assert answer.status_code == status
    assert terms in answer.json()["error"]["message"]


async def test_a_large_body_of_a_webhook_does_no_harm(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        for _ in range(3):  # on one connection
            answer = await client.post("/v1/rollouts/m/checks/healthy", json={"metadata": {"x": "y" * 100_000}})
            assert answer.status_code == 404
        assert (await client.get("/livez")).status_code == 200


def test_the_examples_name_checks_and_words_that_there_are() -> None:
    canary = yaml.safe_load((DEPLOY / "flagger" / "canary.yaml").read_text())
    named = {re.search(r"/checks/(\w+)\?", hook["url"])[1] for hook in canary["spec"]["analysis"]["webhooks"]}
    assert named == set(CHECKS)
    terms = set(re.findall(r'result == "(\w+)"', (DEPLOY / "argo-rollouts" / "analysis-templates.yaml").read_text()))
    assert terms == {str(verdict) for verdict in Verdict}
