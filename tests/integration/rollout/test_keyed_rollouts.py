"""Keyed traffic on a real server under real load: who harms one tenant, or is compared with nobody, is not promoted."""

import asyncio
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from semver import Version

import onnx_models
from onnx_models import look_up, look_up_safely, not_a_number, random_noise, scaled
from rollout_wire import CAREFREE, FINAL, LONG, QUICK, TICK, clients, in_state, latest, settled, start, until, weight_of
from routing_wire import ask, scrape
from started_servers import make_settings
from turnout.app.server import Running, running
from turnout.rollout.guards.slot_history import SlotRecords
from turnout.rollout.plan import Plan
from turnout.routing.policy import TWIN
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import prediction_pb2 as v1
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

pytestmark = pytest.mark.slow

X = np.ones((1, 4), np.float32)
NAMES = [f"tenant {n}" for n in range(24)]


@dataclass
class Load:
    """Requests of some keys, in turn; what `bad` names fails at a candidate that fails at all.

    Attributes:
        keys: Whose requests are sent; may be changed while it goes on.
        bad: Keys whose requests carry an index that only the safe model knows.
        pause: Seconds that each client rests after an answer; may be changed while it goes on.
        answers: By key and version.
        failures: By key.
    """

    keys: list[str]
    bad: set[str] = field(default_factory=set)
    pause: float = 0.004
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    make: Callable[[bool], v1.PredictRequest] = lambda bad: request("m", index=np.array([1000 if bad else 7]))

    @property
    def harmed(self) -> int:
        """Requests that failed."""
        return sum(self.failures.values())


@asynccontextmanager
async def sent(server: Running, load: Load, count: int = 4) -> AsyncIterator[Load]:
    """Sends the load from some clients for as long as the context is entered."""
    stop, turns = asyncio.Event(), itertools.count()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = PredictionServiceStub(channel)

        async def client() -> None:
            while not stop.is_set():
                key = load.keys[next(turns) % len(load.keys)]
                one = load.make(key in load.bad)
                one.routing_key = key
                try:
                    answer = await stub.Predict(one, timeout=30)
                    load.answers[key, answer.route.version] += 1
                except grpc.aio.AioRpcError:
                    load.failures[key] += 1
                await asyncio.sleep(load.pause)

        tasks = [asyncio.create_task(client()) for _ in range(count)]
        try:
            yield load
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def note(text: str) -> None:
    """Says what the scene came to; `pytest -s` shows it."""
    sys.stdout.write(f"\n{text}\n")


@pytest.fixture
def serve(publish_model, start_server):
    async def begin(baseline, candidate, **settings) -> Running:
        publish_model("m", "1.0.0", baseline)
        publish_model("m", "1.1.0", candidate, release=False)
        return await start_server(rollout=TICK, **settings)

    return begin


def part_of(server: Running, key: str) -> str:
    """Who owns the slot of a key now: a canary, the twin, or "" for the plain baseline."""
    owners = server.parts.serving.policies.current["m"].owners
    return owners.names[owners.by_slot[owners.slot(key)]]


def keys_of(server: Running, part: str) -> list[str]:
    return [name for name in NAMES if part_of(server, name) == part]


async def known(load: Load, each: int = 40) -> None:
    """Waits until each key had so many answers, sent without a rest: it is their number that counts."""
    load.pause, rest = 0, load.pause
    await settled(lambda: all(sum(load.answers[key, v] for v in ("1.0.0", "1.1.0")) >= each for key in load.keys))
    load.pause = rest


async def begun(server: Running, plan: Mapping[str, object]) -> None:
    """Starts the rollout and waits until the first step is in force."""
    await start(server, "1.1.0", plan)
    await settled(lambda: weight_of(server) > 0)


@pytest.mark.parametrize(("keys", "told_so"), [(2, True), (200, False)], ids=["two tenants", "many"])
async def test_what_too_few_tenants_could_show_is_foreseen(serve, keys, told_so) -> None:
    server = await serve(look_up_safely(), look_up())
    plan = Plan.from_json({**CAREFREE, "steps": [{"weight": 0.4, "soak_s": 600.0}]})
    async with sent(server, Load([f"tenant {n}" for n in range(keys)])):
        async with asyncio.timeout(100):
            preview = await server.parts.rollouts.previews.of("m", Version(1, 1), plan)
            while np.count_nonzero(preview.traffic.keyed) <= keys / 2:
                await asyncio.sleep(0.05)
                preview = await server.parts.rollouts.previews.of("m", Version(1, 1), plan)
    missed = preview.missed
    sentence = next((one for one in missed if "effective tenants" in one), "")
    assert bool(sentence) is told_so, missed
    assert not told_so or re.search(r"^\d+% of the traffic has routing keys, about \d effective tenants", sentence)


HALF = LONG | {"steps": [{"weight": 0.5, "soak_s": 600.0}]}


async def test_a_key_that_fails_entirely_takes_the_candidate_back_within_seconds(serve) -> None:
    """Of two keys that send anything one meets the candidate, which fails all of its requests: no statistics there."""
    server = await serve(look_up_safely(), look_up())
    async with sent(server, Load(list(NAMES))) as load:
        await known(load)
        await begun(server, HALF)
        load.keys = [keys_of(server, "1.1.0")[0], next(n for n in NAMES if part_of(server, n) != "1.1.0")]
        load.bad = {load.keys[0]}
        began = time.monotonic()
        last = (await until(server, in_state(*FINAL)))[-1]
    took = time.monotonic() - began
    assert last.state == "rolled_back", last
    assert "circuit breaker" in last.verdict
    note(f"one of two keys fails: rolled back after {took:.1f} s, {load.harmed} requests harmed")
    assert took < 60
    assert not load.failures.keys() - load.bad


async def test_keys_none_of_which_meet_the_twin_get_a_twin_that_they_meet(serve) -> None:
    server = await serve(look_up_safely(), look_up())
    async with sent(server, Load([f"tenant {n}" for n in range(80)])) as load:
        await known(load, 4)
        await begun(server, LONG)
        canary, plain = ([name for name in load.keys if part_of(server, name) == part] for part in ("1.1.0", ""))
        assert canary, "of 80 keys some meet a quarter, but for one time in ten billion"
        assert plain
        load.keys = [canary[0], plain[0]]
        await settled(lambda: part_of(server, plain[0]) == TWIN, lambda: str(keys_of(server, TWIN)))
        assert part_of(server, canary[0]) == "1.1.0"
        rollout = await latest(server)
        assert rollout.state in ("soaking", "deciding")
        assert not load.harmed
        load.bad = set(load.keys)
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back", last
    note(f"no key on the twin: rolled back, {load.harmed} requests harmed")


async def test_one_tenant_with_most_of_the_traffic_whose_requests_all_fail_is_never_promoted(serve) -> None:
    server = await serve(look_up_safely(), look_up())
    async with sent(server, Load(list(NAMES))) as load:
        await known(load)
        await begun(server, CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 600.0}]})
        heavy = keys_of(server, "1.1.0")[0]
        others = [name for name in NAMES if name != heavy]
        load.keys = [key for other in others for key in (other, heavy, heavy, heavy)]
        load.bad = {heavy}
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back", last
    note(f"one heavy tenant fails: rolled back, {load.harmed} requests harmed")
    assert not load.failures.keys() - {heavy}


async def test_a_candidate_that_answers_nobody_is_rolled_back_on_errors(serve) -> None:
    """Its requests hang; each has a caller that leaves after some seconds, which is not an error by its code."""
    server = await serve(onnx_models.adds_count(), onnx_models.slow(), runtime={"processes": 1})

    def one(_: int) -> v1.PredictRequest:
        return request("m", x=X, n=np.array(400_000))  # many seconds, in the candidate alone

    async with clients(server, one, count=30, pause=0.1, timeout_s=2) as seen:
        await asyncio.sleep(0.5)
        await start(server, "1.1.0", CAREFREE | {"metrics": ["errors"]})
        last = (await until(server, in_state(*FINAL)))[-1]
    errors = next(metric for metric in last.metrics if metric.name == "errors")
    assert last.state == "rolled_back", last
    assert errors.canary_bad >= 3, "not 0 of so many"
    note(f"answers nobody: rolled back ({last.verdict}), {sum(seen.codes.values())} requests harmed")


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_candidate_that_answers_with_nan_is_rolled_back(serve, keyed) -> None:
    server = await serve(scaled(2), not_a_number())
    load = Load(list(NAMES), make=lambda _: request("m", x=X))
    async with sent(server, load) if keyed else clients(server, lambda _: request("m", x=X), pause=0.004):
        await asyncio.sleep(0.5)
        await start(server, "1.1.0", CAREFREE | {"metrics": ["errors"]})
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back", last
    invalid = next(metric for metric in last.metrics if metric.name == "invalid")
    assert invalid.canary_bad >= 3
    assert invalid.baseline_bad == 0
    note(f"NaN to everybody, keyed {keyed}: rolled back ({last.verdict}), {invalid.canary_bad} answers of NaN")


async def test_a_new_key_that_gets_nan_takes_the_candidate_back_by_what_the_baseline_makes_of_its_requests(
    serve,
) -> None:
    """Of two keys that send anything, both new, one meets the candidate: its past is unknown, and it is no sample."""
    server = await serve(scaled(2), not_a_number())
    async with clients(server, lambda _: request("m", x=X)):
        await begun(server, HALF | {"metrics": ["errors"]})
    keys = [keys_of(server, "1.1.0")[0], next(n for n in NAMES if part_of(server, n) != "1.1.0")]
    async with sent(server, Load(keys, make=lambda _: request("m", x=X))):
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back", last
    note(f"NaN for one of two new keys: rolled back ({last.verdict})")


async def test_a_baseline_that_answers_with_nan_itself_takes_no_candidate_down_for_it(serve) -> None:
    server = await serve(not_a_number(), not_a_number())
    async with clients(server, lambda _: request("m", x=X), pause=0):
        await start(server, "1.1.0", CAREFREE | {"metrics": ["errors"], "steps": [{"weight": 0.5, "soak_s": 600.0}]})
        seen = await until(server, lambda r: r.state in FINAL or bad_of(r) > 300)
    assert seen[-1].state not in FINAL, seen[-1]


def bad_of(rollout: pb.Rollout) -> int:
    return next((metric.canary_bad for metric in rollout.metrics if metric.name == "invalid"), 0)


SHADOW = QUICK | {
    "metrics": ["errors"],
    "shadow": {"rate": 1.0, "duration_s": 1.0, "agreement": 0.99, "min_samples": 20},
    "steps": [{"weight": 0.5, "soak_s": 0.5}],
}


@pytest.mark.parametrize(("says", "ends"), [("pause", "shadowing"), ("promote", "succeeded")])
async def test_a_model_that_draws_random_numbers_is_not_rolled_back_for_its_noise(serve, says, ends) -> None:
    server = await serve(random_noise(), random_noise())
    async with clients(server, lambda _: request("m", x=X), count=2, pause=0.01):
        await start(server, "1.1.0", SHADOW | {"on_insufficient": says})
        seen = await until(server, lambda r: bool(r.pauses) or r.state in FINAL)
    last = seen[-1]
    assert last.state == ends, last
    if says == "pause":
        assert "the baseline disagrees with itself in" in last.pauses[0]


async def test_nan_where_the_random_baseline_has_none_is_no_noise(serve) -> None:
    server = await serve(random_noise(), not_a_number())
    async with clients(server, lambda _: request("m", x=X), count=2, pause=0.01):
        await start(server, "1.1.0", SHADOW)
        last = (await until(server, lambda r: bool(r.pauses) or r.state in FINAL))[-1]
    assert last.state == "rolled_back", last
    assert "copies disagreed" in last.verdict


async def test_no_key_goes_back_to_the_old_version_when_the_candidate_is_promoted(serve) -> None:
    server = await serve(scaled(2), scaled(3))
    names = [f"user {n}" for n in range(400)]
    load = Load(names[:40], make=lambda _: request("m", x=X))
    watched = CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.3}], "watch_s": 600.0, "holdback": 0.1}
    async with sent(server, load):
        await begun(server, watched)
        met = {name for name, answer in zip(names, await ask(server, names), strict=True) if answer.version == "1.1.0"}
        assert met
        await until(server, in_state("watching", *FINAL))
        after = {name: a.version for name, a in zip(names, await ask(server, names), strict=True)}
    back = [name for name in met if after[name] == "1.0.0"]
    held = [name for name in names if after[name] == "1.0.0"]
    note(f"after promotion {len(held)} of {len(names)} keys are held back, {len(back)} of {len(met)} that had met it")
    assert held
    assert not back


async def test_what_slots_did_before_is_known_in_the_first_step_and_after_a_restart(publish_model, models) -> None:
    """Keyed traffic is logged where there is no policy yet, and is what the exposures of both arms come from."""
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)
    log = make_logger("json", "warning")
    async with running(make_settings(models, rollout=TICK), log) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        load = Load(list(NAMES), make=lambda _: request("m", x=X))
        async with sent(server, load):
            await known(load, 30)
            await begun(server, HALF | {"metrics": ["errors", "p90"]})
            await settled(lambda: bool(server.parts.rollouts.engine.active[0].rollout.history))
        text = server.parts.rollouts.engine.active[0].rollout.history
        owners = server.parts.serving.policies.current["m"].owners
        before = SlotRecords.unpacked(text)
        assert before.requests.sum() >= 30 * len(NAMES)
        assert {owners.slot(name) for name in NAMES} == set(np.flatnonzero(before.requests).tolist())
        assert before.bad["p90"].sum() > 0
    async with running(make_settings(models, rollout=TICK), log) as server:
        await settled(lambda: bool(server.parts.rollouts.engine.active))
        (active,) = server.parts.rollouts.engine.active
        assert active.rollout.history == text
        assert active.counters.history == text
        load = Load(list(NAMES), make=lambda _: request("m", x=X))
        async with sent(server, load):
            await settled(lambda: active.rollout.step_keyed[0] > 0)


async def test_what_has_no_room_in_a_log_is_shown(serve) -> None:
    server = await serve(scaled(2), scaled(2))
    found = await scrape(server)
    assert found["turnout_requests_without_slot_total", "model=m", "version=1.0.0"] == 0
