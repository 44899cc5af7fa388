"""The false-alarm meter: a baseline compared with itself, quiet and provoked, and out of the way of rollouts."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from onnx_models import look_up, look_up_safely
from rollout_wire import CAREFREE, FINAL, TICK, Lookups, clients, in_state, start, until
from routing_wire import scrape
from turnout.app.server import Running
from turnout.rollout import false_alarm_meter
from turnout.rollout.plan import Plan
from turnout.routing.policy import CONTROL, TWIN
from turnout_proto.v1 import prediction_pb2 as v1
from wire import request

pytestmark = pytest.mark.slow


@pytest.fixture
def serve(publish_model, start_server, monkeypatch):
    monkeypatch.setattr(false_alarm_meter, "_PLAN", Plan(alpha=1e-6))  # of one in a hundred, as it is, tests would fail

    async def begin(**metered: float) -> Running:
        publish_model("m", "1.0.0", look_up())
        publish_model("m", "1.1.0", look_up_safely(), release=False)
        publish_model("n", "1.0.0", look_up())
        return await start_server(rollout=TICK, model={m: {"false_alarm_meter": s} for m, s in metered.items()})

    return begin


def of_meter(found: Mapping[tuple[str, ...], float], name: str, **labels: str) -> float | None:
    """A metric of the meter of `m` in what was scraped; None where it is not there."""
    wanted = {"model=m", *(f"{k}={v}" for k, v in labels.items())}
    return next(
        (v for key, v in found.items() if key[0] == f"turnout_rollout_false_alarm{name}" and wanted <= set(key)), None
    )


async def meter(server: Running, name: str) -> float | None:
    """As `of_meter`, as it is scraped now."""
    return of_meter(await scrape(server), name)


async def lanes(server: Running, version: str = "1.0.0") -> tuple[float, float]:
    """Requests that each of the two lanes had in the comparison that runs."""
    found = await scrape(server)
    first, second = (of_meter(found, "_requests", version=version, lane=lane) for lane in (CONTROL, TWIN))
    return first or 0.0, second or 0.0


async def grown(server: Running, count: int, version: str = "1.0.0") -> tuple[float, float]:
    """Waits until both lanes had more than `count` requests together."""
    for _ in range(600):
        seen = await lanes(server, version)
        if sum(seen) > count:
            return seen
        await server.parts.rollouts.engine.wait(1)
    raise AssertionError(seen)


def by_lane(server: Running) -> Callable[[int], v1.PredictRequest]:
    """Requests that fail with every key of the first lane, and with no other."""
    owners = server.parts.serving.policies.meters["m"]
    numbers = itertools.count()

    def make(_: int) -> v1.PredictRequest:
        key = f"user {next(numbers)}"
        bad = owners.names[owners.by_slot[owners.slot(key)]] == CONTROL
        one = request("m", index=np.array([1000 if bad else 7]))
        one.routing_key = key
        return one

    return make


async def test_two_lanes_of_the_baseline_are_compared_and_no_other_models(serve) -> None:
    server = await serve(m=0.5)
    async with clients(server, Lookups(), pause=0):
        first, second = await grown(server, 600)
    assert first == pytest.approx(second, rel=0.1), "equal shares"
    assert set(server.parts.serving.policies.meters["m"].names) == {"", TWIN, CONTROL}
    assert server.parts.serving.policies.meters.keys() == {"m"}
    assert await meter(server, "_attempts_total") == 1
    assert await meter(server, "s_total") == 0


async def test_errors_of_both_lanes_alike_are_no_alarm(serve) -> None:
    server = await serve(m=0.5)
    async with clients(server, Lookups()):
        await grown(server, 10)
    async with clients(server, Lookups(bad=True), pause=0) as seen:
        await grown(server, 1500)
    assert seen.codes["INTERNAL"] > 100
    assert (await meter(server, "_attempts_total"), await meter(server, "s_total")) == (1, 0)


async def test_a_lane_that_fails_more_is_an_alarm_and_the_next_comparison_begins(serve) -> None:
    server = await serve(m=0.5)
    async with clients(server, Lookups()):
        await grown(server, 10)
    async with clients(server, by_lane(server), pause=0.005) as seen:
        for _ in range(600):
            found = await scrape(server)
            if (of_meter(found, "s_total") or 0) >= 1 and (of_meter(found, "_attempts_total") or 0) >= 2:
                break
            await server.parts.rollouts.engine.wait(1)
    assert await meter(server, "s_total") >= 1
    assert await meter(server, "_attempts_total") >= 2
    assert seen.answers.keys() == {"1.0.0"}, "nothing is rolled back"


async def test_a_rollout_goes_first_and_the_meter_goes_on_with_the_new_baseline(serve) -> None:
    server = await serve(m=0.5)
    async with clients(server, Lookups()) as seen:
        await grown(server, 10)
        await start(server, "1.1.0", CAREFREE | {"watch_s": 0.3})
        assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
        await grown(server, 100, "1.1.0")
    assert not seen.codes
    assert (await meter(server, "_attempts_total"), await meter(server, "s_total")) == (2, 0)
