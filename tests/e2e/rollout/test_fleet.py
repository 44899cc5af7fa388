"""Three servers behind a real Envoy on one PostgreSQL: one verdict, no step lost, doubled or skipped by any fault."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from contextlib import AsyncExitStack

import grpc
import httpx
import numpy as np
import psycopg
import pytest
from semver import Version

from fleet import NAMES, Fleet, begin, envoy_path, fleet, publish_pair
from processes import serving_in_thread
from rollout_wire import CAREFREE, LONG, TICK, settled
from turnout.rollout.evidence import ERRORS, INVALID
from turnout.rollout.machine.attempt import Rollout
from turnout.state.store import StateStore
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1 import traffic_pb2
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

pytest_plugins = ["postgres_fixture"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MODELS = ("same", "steps", "back", "cut", "alone", "apart", "restart")

KEYED = LONG | {"alpha": 1e-4, "breaker": {"on": False}}
"""Stays in its first step unless the evidence says otherwise, and nothing but the evidence does."""

GOES_BACK_SECONDS = 2.0
"""As promised. What counts is what servers did or said to a question asked later than that, not when it was read."""

STEPS = {
    "steps": [{"weight": 0.25, "soak_s": 0.5}, {"weight": 0.5, "soak_s": 0.5}],
    "shadow": {"rate": 1.0, "duration_s": 0.5, "agreement": 0.9, "min_samples": 20},
    "metrics": ["errors"],
    "alpha": 1e-6,
    "beta": 0.5,
    "min_requests": 10,
    "threshold_samples": 50,
    "warm_requests": 2,
    "step_deadline_s": 100.0,
    "watch_s": 0.5,
}
"""Promotes soon, and rolls back only what is plainly worse: the machines that this runs on are busy."""


@pytest.fixture(scope="module")
def state_of_one(postgres_server, tmp_path_factory):
    """A repository, and a database in which a rollout of the model "same" soaks, driven by nobody any more."""
    envoy_path()
    scratch = tmp_path_factory.mktemp("fleet")
    state = postgres_server.new_database()
    with StateStore.open(state) as store:
        for name in MODELS:
            publish_pair(scratch / "models", scratch, name)
            store.release(name, Version(1), actor="test", reason="")

    async def soak(grpc_address: str, control: str) -> None:
        stop = asyncio.Event()

        async def warm() -> None:
            async with grpc.aio.insecure_channel(grpc_address) as channel:
                while not stop.is_set():
                    await PredictionServiceStub(channel).Predict(request("same", index=np.array([1])), timeout=100)

        await begin(control, "same", KEYED)
        warming = asyncio.create_task(warm())
        with StateStore.open(state) as store:
            await settled(lambda: store.rollouts("same", limit=1)[0].state == "soaking")
        stop.set()
        await warming

    with serving_in_thread(scratch / "models", state=state, rollout=TICK, server_name="one") as server:
        asyncio.run(soak(server.grpc, server.control))
    return scratch, state


@pytest.fixture
async def servers(started):
    """All three of them."""
    await started.revive()
    return started


@pytest.fixture(scope="module")
def started(state_of_one, postgres_server):
    """The fleet, on a copy of that database."""
    scratch, state = state_of_one
    name = state.rpartition("/")[2]
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_fleet TEMPLATE {name}".encode())
    with fleet(scratch, postgres_server.url(f"{name}_fleet"), postgres_server.port) as running:
        yield running


async def ask_keyed(address: str, numbers: range, failing: Container[int]) -> dict[int, str]:
    """Sends requests of 200 keys; the candidate fails those `failing`. Returns who answered each, or an error code."""
    answered: dict[int, str] = {}
    left = iter(numbers)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)

        async def client() -> None:
            for number in left:
                asked = request("same", index=np.array([1000 if number in failing else number % 300]))
                asked.routing_key = f"key {number % 200}"
                try:
                    answered[number] = (await stub.Predict(asked, timeout=100)).route.version
                except grpc.aio.AioRpcError as error:
                    answered[number] = error.code().name

        await asyncio.gather(*(client() for _ in range(8)))
    return answered


async def until_ready(http: str) -> None:
    """Waits until a server has loaded what it serves."""
    async with httpx.AsyncClient() as client:
        for _ in range(600):
            if (await client.get(f"http://{http}/readyz")).status_code == 200:
                return
            await asyncio.sleep(0.1)
    raise AssertionError("it is not ready within a minute")


async def until_counted(rollout: Callable[[], Rollout], *names: str) -> None:
    """Waits for three ticks of each server: what is loaded is counted from the next tick on."""
    await settled(lambda: set(names) <= rollout().per_server.taken.keys(), lambda: rollout().per_server.taken)
    first = rollout().per_server.taken
    await settled(lambda: all(rollout().per_server.taken[name] >= first[name] + 3 for name in names))


def arms(rollout: Rollout) -> dict[str, tuple[int, ...]]:
    """Requests and bad ones of both arms, by metric that no clock has a part in."""
    found = {}
    for name in (ERRORS, INVALID):
        one = rollout.evidence.accumulators[name]
        found[name] = one.canary.requests, one.canary.bad, one.baseline.requests, one.baseline.bad
    return found


async def test_the_evidence_of_three_servers_is_that_of_one_with_the_same_traffic(servers: Fleet, state_of_one) -> None:
    """Both go on from copies of one database, so that the same keys fall to the candidate."""
    scratch, state = state_of_one
    with (
        serving_in_thread(scratch / "models", state=state, rollout=TICK, server_name="one") as alone,
        StateStore.open(state) as store,
    ):

        def of_one() -> Rollout:
            return Rollout.from_json(store.rollouts("same", limit=1)[0].document)

        await until_ready(alone.http)
        await settled(lambda: servers.driver("same"), lambda: "nobody drives it")
        await until_counted(of_one, "one")
        await until_counted(lambda: servers.rollout("same"), *NAMES)
        before = arms(of_one())[ERRORS][0]
        assert arms(servers.rollout("same"))[ERRORS][0] == before
        addresses = (alone.grpc, servers.address)
        first, same = [await ask_keyed(address, range(200), failing=()) for address in addresses]
        assert first == same
        candidates = [number for number, version in first.items() if version == "1.1.0"]
        failing = [200 + number for number in candidates[:4]]  # few enough to decide nothing
        second, same = [await ask_keyed(address, range(200, 1000), failing) for address in addresses]
        assert second == same
        answers = Counter([*first.values(), *second.values()])
        assert set(answers) == {"1.0.0", "1.1.0", "INTERNAL"}
        met = before + answers["1.1.0"] + answers["INTERNAL"]
        for rollout in (of_one, lambda: servers.rollout("same")):
            await settled(lambda rollout=rollout: arms(rollout())[ERRORS][0] >= met, lambda: (answers, servers.logs()))
        await until_counted(of_one, "one")  # the baseline's last answers may be of a later tick than the candidate's
        await until_counted(lambda: servers.rollout("same"), *NAMES)
        one, three = of_one(), servers.rollout("same")
        assert arms(three) == arms(one)
        assert arms(one)[ERRORS][:2] == (met, answers["INTERNAL"])
        assert arms(one)[ERRORS][2] > 100
        for groups in ("requests", "bad"):
            apart = [getattr(r.evidence.accumulators[ERRORS].keyed, groups) for r in (one, three)]
            assert np.array_equal(*apart), "each unit's own counts are the same"
        assert set(three.per_server.taken) == {"one", *NAMES}
        # Not every third: Envoy sends every third request to the same server, which would then fail for seconds on end.
        third = set(random.Random(0).sample(range(40_000), 40_000 // 3))
        for address, rollout in ((alone.grpc, of_one), (servers.address, lambda: servers.rollout("same"))):
            told = met
            for start in itertools.count(0, 400):
                assert start < 40_000, rollout()
                if rollout().state.final:
                    break
                answered = await ask_keyed(address, range(start, start + 400), failing=third)
                candidates = sum(version != "1.0.0" for version in answered.values())
                told += candidates
                await settled(  # what they said may be enough, and more would take this machine's CPU until then
                    lambda rollout=rollout, more=candidates > 0, told=told: (
                        rollout().state.final or (more and arms(rollout())[ERRORS][0] >= told)
                    ),
                    lambda rollout=rollout: (rollout(), servers.logs()),
                )
        for rollout in (of_one(), servers.rollout("same")):
            assert (rollout.state, rollout.cause) == ("rolled_back", "evidence"), rollout
    servers.check_evidence("same")


async def test_whichever_state_its_driver_is_killed_in_another_server_goes_on(servers: Fleet) -> None:
    states = (
        "validating:recorded", "shadowing:recorded", "ramping:recorded", "soaking:applied", "deciding:recorded",
        "ramping:applied", "promoting:recorded", "watching:applied",
    )  # fmt: skip
    places = [f"steps {state}" for state in states]
    async with servers.load("steps") as load:
        servers.hold(places[0])
        await servers.begin("steps", STEPS)
        for place, following in itertools.pairwise([*places, ""]):
            await servers.held(place)
            dead = servers.record("steps").driver
            who = await servers.kill_held(place, following)
            servers.check_evidence("steps")
            restart = asyncio.create_task(asyncio.to_thread(servers.start, who))
            await settled(lambda dead=dead: servers.record("steps").driver != dead, servers.logs)
            await restart
        await servers.until_in("steps", "succeeded")
        await settled(lambda: load.last["1.1.0"] > load.last["1.0.0"] + 0.5)
    assert servers.kinds("steps") == [
        "start", "validating", "shadowing", *("ramping", "soaking", "deciding") * 2, "promoting", "watching",
        "succeeded",
    ]  # fmt: skip
    servers.check_evidence("steps")
    policy = servers.policy("steps").policy
    assert policy is not None
    assert (str(policy.baseline), policy.canaries) == ("1.1.0", ())
    check_refusals(load)


def check_refusals(load, *more: str) -> None:
    """Nothing was refused but what a server had begun when it was killed, and what the candidate failed."""
    # Envoy resets a stream whose server was killed between the parts of its answer, which gRPC calls INTERNAL.
    cut = sum("RST_STREAM" in message for message in load.refusals)
    assert set(load.codes) <= {"UNAVAILABLE", "INTERNAL", *more}, (load.codes, load.refusals)
    assert "INTERNAL" in more or load.codes["INTERNAL"] <= cut, (load.codes, load.refusals)
    assert not [message for message in load.refusals if "load" in message or "ready" in message], load.refusals


async def test_a_pause_and_a_rollback_outlive_their_drivers_and_hold_on_the_others_at_once(servers: Fleet) -> None:
    async with servers.load("back") as load:
        await servers.begin("back", STEPS | {"steps": [{"weight": 0.5, "soak_s": 600.0}], "shadow": None})
        await servers.until_in("back", "soaking")
        servers.hold("back paused:recorded")
        over = asyncio.Event()

        async def pause() -> None:
            while not over.is_set():
                with contextlib.suppress(grpc.aio.AioRpcError):  # refused where the store is slow, or killed with it
                    await servers.command(servers.driver("back") or NAMES[0], "back", pb.ROLLOUT_COMMAND_PAUSE)

        pausing = asyncio.create_task(pause())
        await servers.held("back paused:recorded")
        over.set()
        dead = servers.record("back").driver
        who = await servers.kill_held("back paused:recorded", "back aborting:recorded")
        paused = servers.rollout("back")
        await pausing
        await asyncio.to_thread(servers.start, who)
        await settled(lambda: servers.record("back").driver != dead, servers.logs)
        assert [pause.actor for pause in servers.rollout("back").pauses] == ["ann"]
        load.make.bad = True  # a verdict is looked for while it is paused
        held = await servers.held("back aborting:recorded")
        assert servers.policy("back").policy.canaries, "the verdict alone is recorded"
        who = await servers.kill_held("back aborting:recorded", "back aborting:applied")
        await settled(lambda: time.monotonic() - max(held, load.last["1.1.0"]) > 0.5, lambda: load.last)
        assert load.last["1.1.0"] - held < GOES_BACK_SECONDS
        await asyncio.to_thread(servers.start, who)
        await servers.kill_held("back aborting:applied")
        await servers.until_in("back", "rolled_back")
    rollout = servers.rollout("back")
    assert (rollout.step, rollout.step_s) == (paused.step, paused.step_s), "a pause is no progress"
    kinds = servers.kinds("back")
    assert kinds[kinds.index("pause") :] == ["pause", "verdict", "aborting", "rolled_back"]
    servers.check_evidence("back")
    check_refusals(load, "INTERNAL")


async def test_a_server_that_drives_nothing_may_die(servers: Fleet) -> None:
    async with servers.load("alone") as load:
        await servers.begin("alone", LONG)
        await servers.until_in("alone", "soaking")
        await settled(lambda: set(servers.rollout("alone").per_server.evidence) == set(NAMES))
        for _ in range(5):  # a driver without a core for as long as its lease is relieved, whoever else dies
            driver = servers.driver("alone")
            who = next(name for name in NAMES if name != driver)
            await asyncio.to_thread(servers.kill, who)
            before = servers.rollout("alone").step_requests
            await settled(lambda before=before: servers.rollout("alone").step_requests > before + 50, servers.logs)
            after = servers.driver("alone")
            await asyncio.to_thread(servers.start, who)
            if after == driver:
                break
        assert after == driver
        load.make.bad = True
        await servers.until_in("alone", "rolled_back")
    assert servers.kinds("alone")[-4:] == ["soaking", "verdict", "aborting", "rolled_back"]
    servers.check_evidence("alone")
    check_refusals(load, "INTERNAL")


async def in_force(servers: Fleet, name: str, model: str) -> tuple[str, int, str]:
    """Returns who is the baseline on a server, how many canaries there are, and where a rollback diverts to."""
    async with grpc.aio.insecure_channel(servers.servers[name].control) as channel:
        (traffic,) = (await ControlServiceStub(channel).GetTraffic(traffic_pb2.GetTrafficRequest(model=model))).models
    return traffic.policy.baseline, len(traffic.policy.canaries), traffic.diverted


async def seconds_until(what: Callable[[], Awaitable[bool]], since: float, why: Callable[[], object]) -> float:
    """Waits until `what` is so; returns for how long after `since` somebody who asked was told that it is not.

    A machine that is slow to ask, or to read the answer, adds nothing to it. What servers do until it is so takes a few
    questions of one another and of the store: five times the slowest of ours is taken off, milliseconds where there is
    nobody else.
    """
    late = slowest = 0.0
    while True:
        asked = time.monotonic()
        if await what():
            return late - 5 * slowest
        late, slowest = asked - since, max(slowest, time.monotonic() - asked)
        assert late < 100, why()
        await asyncio.sleep(0.02)


async def back_on_all(servers: Fleet, model: str, since: float) -> None:
    """Waits until the rollback is on record, and every server goes by it; that takes no longer than is promised."""

    async def recorded() -> bool:
        return str(servers.record(model).state) in ("aborting", "rolled_back")

    async def back() -> bool:
        return all([(await in_force(servers, name, model))[:2] == ("1.0.0", 0) for name in NAMES])

    async def by_the_record() -> bool:
        return not any([(await in_force(servers, name, model))[2] for name in NAMES])

    assert await seconds_until(recorded, since, servers.logs) < GOES_BACK_SECONDS
    assert await seconds_until(back, since, servers.logs) < GOES_BACK_SECONDS
    await servers.until_in(model, "rolled_back")
    await seconds_until(by_the_record, since, servers.logs)


@pytest.mark.parametrize(("model", "everybody"), [("cut", False), ("apart", True)], ids=["driver", "all"])
async def test_a_verdict_of_servers_that_are_cut_off_from_the_store_holds_and_is_recorded_later(
    servers: Fleet, model: str, everybody: bool
) -> None:
    """The driver loses its way to the store and then sees the candidate fail; or all of them do, without a word."""
    async with AsyncExitStack() as stack:
        load = await stack.enter_async_context(servers.load(model))
        await servers.begin(model, LONG)
        await servers.until_in(model, "soaking")
        await settled(lambda: servers.rollout(model).step_requests > 30, servers.logs)
        driver = servers.driver(model)
        cut = [proxy for name, proxy in servers.proxies.items() if everybody or name == driver]
        try:
            for proxy in cut:
                proxy.cut(silent=everybody)
            load.make.bad = True
            await settled(lambda: load.codes["INTERNAL"], servers.logs)
            # It is seen, and back on all of them, before the store is: as soon as one server's own requests say so.
            # Where the machine has other things to do a second alone has few requests, or none.
            await settled(lambda: load.streak > 100 and load.last["1.0.0"] - load.last["1.1.0"] > 1.0, servers.logs)
            if everybody:
                assert servers.record(model).state == "soaking"
            else:
                await settled(lambda: servers.record(model).state != "soaking", servers.logs)
        finally:
            for proxy in cut:
                proxy.restore()
        await back_on_all(servers, model, time.monotonic())
        assert time.monotonic() - load.last["1.1.0"] > 1.0, "nowhere did the candidate come back"
    assert servers.kinds(model)[-4:] == ["soaking", "verdict", "aborting", "rolled_back"]
    servers.check_evidence(model)
    check_refusals(load, "INTERNAL")


async def test_a_rollout_goes_on_after_postgresql_was_restarted(servers: Fleet, postgres_server) -> None:
    async with servers.load("restart") as load:
        await servers.begin("restart", CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 2.0}], "beta": 0.5})
        await servers.until_in("restart", "soaking")
        await asyncio.to_thread(postgres_server.stop)
        answered = load.answers.total()
        await settled(lambda: load.answers.total() > answered + 100, lambda: "it answers without the store")
        await asyncio.to_thread(postgres_server.start)
        await servers.until_in("restart", "succeeded")
    assert servers.kinds("restart") == [
        "start", "validating", "ramping", "soaking", "deciding", "promoting", "watching", "succeeded",
    ]  # fmt: skip
    servers.check_evidence("restart")
    check_refusals(load)
