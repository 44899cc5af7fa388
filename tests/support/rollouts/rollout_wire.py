"""Rolls out versions on a server under test while clients send requests."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from routing_wire import control_of
from turnout.app.server import Running
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Tick
from turnout.rollout.plan import Plan
from turnout.routing.policy import UNITS
from turnout_proto.v1 import prediction_pb2 as v1
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

QUICK: Mapping[str, Any] = {
    "steps": [{"weight": 0.25, "soak_s": 0.6}, {"weight": 0.5, "soak_s": 0.6}],
    "metrics": ["errors", "p90"],
    "min_requests": 20,
    "threshold_samples": 50,
    "warm_requests": 2,
    "step_deadline_s": 600.0,
    "watch_s": 0.6,
}
"""A plan with short times. p90 changes often enough to be judged within seconds."""

TICK = {"tick_s": 0.1}


@dataclass
class Seen:
    """What the clients observed.

    Attributes:
        answers: Number of answers by version.
        codes: Number of failed requests by status.
        stop: Stops the clients.
    """

    answers: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def clients(
    server: Running,
    make: Callable[[int], v1.PredictRequest],
    count: int = 4,
    pause: float = 0.05,
    timeout_s: float = 30.0,
) -> AsyncIterator[Seen]:
    """Sends requests without a routing key from `count` clients while the context is entered.

    Each pauses for `pause` seconds after an answer: most rollouts in tests wait for ticks and soak times, and clients
    without a pause would use a whole core all the time. Use 0 if a test waits for many requests.
    """
    seen, numbers = Seen(), itertools.count()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = PredictionServiceStub(channel)

        async def client() -> None:
            while not seen.stop.is_set():
                try:
                    answer = await stub.Predict(make(next(numbers)), timeout=timeout_s)
                    seen.answers[answer.route.version] += 1
                except grpc.aio.AioRpcError as error:
                    seen.codes[error.code().name] += 1
                await asyncio.sleep(pause)

        tasks = [asyncio.create_task(client()) for _ in range(count)]
        try:
            yield seen
        finally:
            seen.stop.set()
            await asyncio.gather(*tasks)


async def start(
    server: Running, version: str, plan: Mapping[str, Any] = QUICK, model: str = "m", **change: Any
) -> pb.Rollout:
    """Starts a rollout."""
    async with control_of(server) as control:
        request = pb.StartRolloutRequest(
            model=model, version=version, plan_json=json.dumps(dict(plan)), change=pb.RolloutChange(**change)
        )
        return (await control.StartRollout(request)).rollout


async def command(server: Running, what: int, weight: float = 0.0, model: str = "m", **change: Any) -> pb.Rollout:
    """Sends an operator's command."""
    async with control_of(server) as control:
        request = pb.CommandRolloutRequest(model=model, command=what, weight=weight, change=pb.RolloutChange(**change))
        return (await control.CommandRollout(request)).rollout


async def latest(server: Running, model: str = "m") -> pb.Rollout:
    """Returns the model's latest rollout."""
    async with control_of(server) as control:
        return (await control.GetRolloutTicks(pb.GetRolloutTicksRequest(model=model))).rollout


async def until(
    server: Running, fine: Callable[[pb.Rollout], bool], limit: float = 200.0, model: str = "m"
) -> list[pb.Rollout]:
    """Watches a rollout until `fine` returns True. Returns all states received, of which the last one is fine."""
    rollouts: list[pb.Rollout] = []

    async def watch() -> None:
        async with control_of(server) as control:
            async for message in control.WatchRollout(pb.WatchRolloutRequest(model=model)):
                rollouts.append(message.rollout)
                if fine(message.rollout):
                    return

    try:
        await asyncio.wait_for(watch(), limit)
    except TimeoutError:
        raise AssertionError(f"not so within {limit} s: {rollouts[-1] if rollouts else 'nothing came'}") from None
    assert fine(rollouts[-1]), rollouts[-1]
    return rollouts


def in_state(*states: str) -> Callable[[pb.Rollout], bool]:
    """Returns a function that checks whether a rollout is in one of `states`, which must last.

    What watches a rollout gets its latest state and may miss one that passes by itself: `reached` does not.
    """

    def check(rollout: pb.Rollout) -> bool:
        if "soaking" in states:
            assert rollout.soak_seconds >= 60, "this soak time may be over before it is seen: use `reached`"
        return rollout.state in states

    return check


def reached(state: str) -> Callable[[pb.Rollout], bool]:
    """Returns a function that checks whether a rollout is, or ever was, in `state`."""
    return lambda rollout: rollout.state == state or any(event.kind == state for event in rollout.events)


FINAL = ("succeeded", "rolled_back", "superseded", "failed")


CAREFREE: Mapping[str, Any] = QUICK | {"metrics": ["errors"], "min_requests": 5}
"""A plan that a busy machine cannot disturb: it only looks at errors."""

LONG: Mapping[str, Any] = CAREFREE | {"steps": [{"weight": 0.25, "soak_s": 600.0}, {"weight": 0.5, "soak_s": 600.0}]}
"""A plan that stays in its first step."""

WATCHED: Mapping[str, Any] = CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.2}], "watch_s": 600.0}
"""A plan with immediate promotion and a long watch."""


@dataclass
class Lookups:
    """Requests for `onnx_models.look_up`. If `bad`, it fails on every third of them, but its safe twin never does."""

    bad: bool = False
    model: str = "m"

    def __call__(self, number: int) -> v1.PredictRequest:
        return request(self.model, index=np.array([1000 if self.bad and number % 3 == 0 else number % 300]))


async def settled(what: Callable[[], object], why: Callable[[], object] = str, limit: float = 120.0) -> None:
    """Waits until `what` returns a true value. A failure reports `why`.

    To ask takes a tenth of a core at most: what is waited for needs it, and reading a rollout's record takes 3 ms.
    """
    deadline, began = time.monotonic() + limit, time.thread_time()
    while not what():
        assert time.monotonic() < deadline, why()
        await asyncio.sleep(max(0.02, 9 * (time.thread_time() - began)))
        began = time.thread_time()


def replayed(plan: Plan, ticks: Iterable[Mapping[str, Any]]) -> Evidence:
    """Returns the evidence that results from recorded ticks."""
    evidence = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
    for body in ticks:
        shadow = body.get("shadow")
        tick = Tick.unkeyed(0.0, {DISAGREEMENT: Count(*shadow)}, {}, 1) if shadow else Tick.from_json(body)
        evidence = evidence.taken(tick)
    return evidence


async def check_evidence(server: Running) -> None:
    """Checks that the evidence equals that of the recorded ticks exactly."""
    async with control_of(server) as control:
        recorded = await control.GetRolloutTicks(pb.GetRolloutTicksRequest(model="m"))
    evidence = replayed(Plan.from_json(json.loads(recorded.rollout.plan_json)), map(json.loads, recorded.ticks_json))
    assert evidence.combined == recorded.rollout.e_value
    assert {m.name: evidence.fit(m.name) for m in evidence.metrics} == {
        m.name: m.fit_value for m in recorded.rollout.metrics
    }


def weight_of(server: Running) -> float:
    """Returns the share of the first canary in the policy in force."""
    applied = server.parts.serving.policies.current.get("m")
    policy = applied.state.policy if applied else None
    return policy.canaries[0].weight / UNITS if policy is not None and policy.canaries else 0.0
