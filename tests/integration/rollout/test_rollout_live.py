"""Rollouts on a real server under real load: the good goes through, the bad is rolled back, each for its own reason."""

import asyncio

import numpy as np
import pytest

import onnx_models
from onnx_models import scaled
from rollout_wire import CAREFREE, FINAL, QUICK, TICK, clients, in_state, settled, start, until
from routing_wire import control_of, scrape
from turnout_proto.v1 import rollout_pb2, traffic_pb2
from wire import request

pytestmark = pytest.mark.slow

X = np.ones((1, 4), np.float32)

SURE_SOONER = QUICK | {"alpha": 1e-6, "beta": 0.5}
"""A good candidate is sure enough of its p90 after some hundred requests instead of 2,600, and is never rolled back."""

EVERY_STEP = ["start", "validating", *("ramping", "soaking", "deciding") * 2, "promoting", "watching", "succeeded"]


@pytest.fixture
def start_pair(publish_model, start_server):
    """Starts a server with the baseline 1.0.0 and the candidate 1.1.0."""

    async def begin(baseline, candidate, **settings):
        publish_model("m", "1.0.0", baseline)
        publish_model("m", "1.1.0", candidate, release=False)
        return await start_server(rollout=TICK, **settings)

    return begin


async def baseline_of(server) -> str:
    async with control_of(server) as control:
        (state,) = (await control.GetTraffic(traffic_pb2.GetTrafficRequest(model="m"))).models
        return state.policy.baseline


async def test_a_good_candidate_is_promoted_through_every_step_with_no_failed_request(start_pair) -> None:
    server = await start_pair(scaled(2), scaled(2))
    async with clients(server, lambda _: request("m", x=X), pause=0.005) as seen:
        await asyncio.sleep(0.5)
        await start(server, "1.1.0", SURE_SOONER, actor="ann", reason="a better one")
        updates = await until(server, in_state(*FINAL))
    last = updates[-1]
    assert last.state == "succeeded", last
    assert not seen.codes
    assert await baseline_of(server) == "1.1.0"
    assert [event.kind for event in last.events] == EVERY_STEP
    assert last.events[0].actor == "ann"
    metrics = await scrape(server)
    assert metrics["turnout_rollout_verdicts_total", "model=m", "verdict=succeeded"] == 1


async def test_no_step_is_recorded_twice_although_a_change_of_the_traffic_holds_before_it_ends(
    start_pair, monkeypatch
) -> None:
    """The tick that changed it has stopped waiting, and the rollout has moved on."""
    server = await start_pair(scaled(2), scaled(2))
    serving = server.parts.rollouts.engine._serving
    apply = serving.apply

    async def slowly(model, policy, change) -> None:
        await apply(model, policy, change)
        await asyncio.sleep(1.5)

    monkeypatch.setattr(serving, "apply", slowly)
    async with clients(server, lambda _: request("m", x=X)):
        await start(server, "1.1.0", CAREFREE)
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "succeeded", last
    assert [event.kind for event in last.events] == EVERY_STEP


async def rolled_back(server, make, plan=QUICK, **load):
    """Rolls 1.1.0 out under load until it ends; checks that it was rolled back, and returns it and what clients saw."""
    async with clients(server, make, **load) as seen:
        await asyncio.sleep(0.5)
        await start(server, "1.1.0", plan)
        updates = await until(server, in_state(*FINAL))
    last = updates[-1]
    assert last.state == "rolled_back", last
    assert await baseline_of(server) == "1.0.0"
    async with clients(server, make, **load) as after:
        await settled(lambda: after.answers.total() > 20)
    assert set(after.answers) == {"1.0.0"}
    return last, seen


async def test_one_that_raises_on_some_inputs_is_rolled_back_on_errors(start_pair) -> None:
    server = await start_pair(onnx_models.look_up_safely(), onnx_models.look_up())

    def one(number: int):
        return request("m", index=np.array([1000 if number % 5 == 0 else number % 300]))

    last, seen = await rolled_back(server, one, pause=0.01)
    assert "errors" in last.verdict
    (errors,) = [metric for metric in last.metrics if metric.name == "errors"]
    assert errors.canary_bad == seen.codes["INTERNAL"] or errors.canary_bad < seen.codes["INTERNAL"]
    assert errors.baseline_bad == 0
    assert last.e_value >= last.threshold == pytest.approx(100)
    assert set(seen.codes) == {"INTERNAL"}


async def test_one_that_refuses_inputs_that_the_baseline_answers_is_rolled_back_on_errors(start_pair) -> None:
    """ONNX Runtime calls an index out of bounds the caller's fault; the smaller table is the candidate's."""
    server = await start_pair(onnx_models.look_up_safely(), onnx_models.gather())

    def one(number: int):
        return request("m", index=np.array([1000 if number % 5 == 0 else number % 300]))

    last, seen = await rolled_back(server, one, pause=0.01)
    assert "errors" in last.verdict
    assert set(seen.codes) == {"INVALID_ARGUMENT"}


@pytest.mark.parametrize("model", [onnx_models.gather, onnx_models.look_up])
async def test_requests_that_the_baseline_fails_too_never_count_against_a_candidate(start_pair, model) -> None:
    server = await start_pair(model(), model())

    def one(number: int):
        return request("m", index=np.array([1000 if number % 2 == 0 else number % 300]))

    async with clients(server, one, pause=0.002) as seen:
        await start(server, "1.1.0", QUICK | {"metrics": ["errors"], "min_requests": 40})
        updates = await until(server, lambda rollout: rollout.state in FINAL or errors_of(rollout).canary_requests > 80)
    errors = errors_of(updates[-1])
    assert errors.canary_requests > 40
    assert errors.canary_bad == 0
    assert sum(seen.codes.values()) > 40


def errors_of(rollout):
    return next((m for m in rollout.metrics if m.name == "errors"), rollout_pb2.RolloutMetric())


async def test_one_made_slow_is_rolled_back_on_latency(start_pair) -> None:
    server = await start_pair(onnx_models.adds_count(), onnx_models.slow())

    def one(_: int):
        return request("m", x=X, n=np.array(500))

    last, seen = await rolled_back(server, one, pause=0.01)
    assert "slower than" in last.verdict
    assert not seen.codes


async def test_one_that_hangs_is_rolled_back_through_censoring(start_pair) -> None:
    server = await start_pair(onnx_models.adds_count(), onnx_models.slow(), runtime={"processes": 1})

    def one(_: int):
        return request("m", x=X, n=np.array(60_000))  # seconds, in the candidate alone

    plan = QUICK | {"metrics": ["p90", "stalled"]}
    last, _ = await rolled_back(server, one, plan, count=40, pause=0.1, timeout_s=2)
    assert "slower than" in last.verdict


async def test_one_with_other_answers_is_stopped_in_shadow_by_disagreement(start_pair) -> None:
    server = await start_pair(scaled(2), scaled(2.1))
    plan = QUICK | {"shadow": {"rate": 1.0, "duration_s": 60.0, "agreement": 0.99, "min_samples": 50}}
    last, seen = await rolled_back(server, lambda _: request("m", x=X), plan, pause=0.01)
    assert "copies disagreed" in last.verdict
    assert not [event for event in last.events if event.kind == "ramping"]
    assert not seen.codes


async def test_one_that_agrees_in_shadow_goes_on_to_its_steps(start_pair) -> None:
    server = await start_pair(scaled(2), scaled(2))
    plan = CAREFREE | {"shadow": {"rate": 1.0, "duration_s": 0.5, "agreement": 0.95, "min_samples": 30}}
    async with clients(server, lambda _: request("m", x=X), pause=0.01) as seen:
        await asyncio.sleep(0.5)
        await start(server, "1.1.0", plan)
        updates = await until(server, in_state(*FINAL))
    assert updates[-1].state == "succeeded", updates[-1]
    assert "shadowing" in {event.kind for event in updates[-1].events}
    assert not seen.codes
