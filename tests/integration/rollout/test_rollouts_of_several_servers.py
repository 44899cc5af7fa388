"""Several servers on one state store: one verdict, from what all of them saw."""

import asyncio
import json
import shutil
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import grpc
import pytest
from semver import Version

from answer_wire import run
from onnx_models import look_up, look_up_safely
from rollout_wire import (
    CAREFREE,
    FINAL,
    LONG,
    TICK,
    Lookups,
    check_evidence,
    clients,
    command,
    in_state,
    latest,
    settled,
    start,
    until,
    weight_of,
)
from routing_wire import control_of, policy, put, scrape
from started_servers import make_settings
from tcp_proxy import TcpProxy
from turnout.app.server import running
from turnout.errors import Conflict
from turnout.rollout.clock import SYSTEM_CLOCK
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import control_pb2
from turnout_proto.v1 import rollout_pb2 as pb

pytest_plugins = ["postgres_fixture"]


@dataclass
class Ahead:
    """A machine's clocks, whose time of day is wrong by so many seconds."""

    seconds: float

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + timedelta(seconds=self.seconds)


async def stop_ticking(server) -> None:
    """Ends the side task that drives rollouts, from one moment to the next."""
    for task in [task for task in asyncio.all_tasks() if task.get_name() == "rollouts"]:
        if task.get_coro().cr_frame.f_locals["self"] is server.parts.rollouts.engine:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture(autouse=True)
def longer_leases(monkeypatch):
    """Not 0.4 seconds with such short ticks: a busy machine lets a server stand still for that long, and longer."""
    monkeypatch.setattr("turnout.rollout.clock._LEASE_TICKS", 25)


@pytest.fixture
def pair(publish_model):
    """A baseline that always answers, and a candidate that raises on some requests."""
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up(), release=False)


async def test_what_another_server_saw_takes_the_candidate_back(pair, start_server) -> None:
    """The one that drives sees 12 healthy requests a second; of the other's, a third of the candidate's fail."""
    driver = await start_server(rollout=TICK)
    other = await start_server(rollout=TICK)
    bad = Lookups()
    async with AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(clients(driver, Lookups(), count=1, pause=0.08))
        busy = await stack.enter_async_context(clients(other, bad, count=4, pause=0.01))
        await start(driver, "1.1.0", LONG)
        await until(driver, in_state("soaking"))
        await settled(lambda: "m" in other.parts.serving.policies.current, lambda: "followed")
        assert [len(s.parts.rollouts.engine.active) for s in (driver, other)] == [1, 0]
        bad.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
        assert last.state == "rolled_back"
        assert not quiet.codes, "the driver's own requests all went well"
        await settled(lambda: not other.parts.serving.policies.current["m"].state.policy.canaries)
        harmed = busy.codes.total()
        for _ in range(2):
            busy.answers.clear()
            await settled(lambda: busy.answers.total() > 30)
        assert set(busy.answers) == {"1.0.0"}
        assert harmed < 200, busy.codes
    errors = next(m for m in last.metrics if m.name == "errors")
    assert errors.canary_bad >= 3
    await check_evidence(driver)


async def test_thresholds_and_a_shadow_stage_need_no_traffic_on_the_server_that_drives(
    publish_model, start_server
) -> None:
    """As of workers, if the only client's connection is another's."""
    for version in ("1.0.0", "1.1.0"):
        publish_model("m", version, look_up_safely(), release=version == "1.0.0")
    driver = await start_server(rollout=TICK)
    other = await start_server(rollout=TICK)
    stage = {"rate": 1.0, "duration_s": 0.5, "agreement": 0.9, "min_samples": 20}
    plan = LONG | {"metrics": ["errors", "p90"], "shadow": stage, "validating_s": 30.0}
    async with clients(other, Lookups()) as seen:
        await settled(lambda: seen.answers.total() > 100)
        await start(driver, "1.1.0", plan)
        last = (await until(driver, lambda rollout: rollout.state == "soaking" or bool(rollout.pauses)))[-1]
        assert not last.pauses
        assert [len(s.parts.rollouts.engine.active) for s in (driver, other)] == [1, 0]
        (lane,) = other.parts.serving.shadows.of("m")
        copies = next(m for m in last.metrics if m.name == "disagreement").canary_requests
        assert 20 <= copies <= lane.ledger.compared
        await check_evidence(driver)


async def test_a_shadow_that_is_given_up_on_another_server_pauses_its_rollout_and_is_tried_again_there(
    publish_model, start_server
) -> None:
    for version in ("1.0.0", "1.1.0"):
        publish_model("m", version, look_up_safely(), release=version == "1.0.0")
    driver = await start_server(rollout=TICK)
    other = await start_server(rollout=TICK, server_name="bob")
    stage = {"rate": 1.0, "duration_s": 0.5, "agreement": 0.9, "min_samples": 10_000_000}
    async with clients(driver, Lookups()), clients(other, Lookups()):
        await start(driver, "1.1.0", LONG | {"shadow": stage})
        await settled(lambda: other.parts.serving.shadows.of("m"))
        (lane,) = other.parts.serving.shadows.of("m")
        await settled(lambda: lane.ledger.judged and lane.ledger.compared)
        lane._break("a run hangs")
        paused = (await until(driver, lambda rollout: bool(rollout.pauses)))[-1]
        assert paused.state == "shadowing"
        assert "1.1.0 takes no more copies (a run hangs); to resume is to try again (on bob)" in paused.pauses[0]
        await command(driver, pb.ROLLOUT_COMMAND_RESUME, reason="it was the machine")
        await settled(lambda: not lane.closed)
        compared = lane.ledger.compared
        await settled(lambda: lane.ledger.compared > compared + 20)
        assert not (await latest(driver)).pauses


async def test_every_server_is_listed_with_what_it_has(pair, start_server, models) -> None:
    first = await start_server(rollout=TICK, server_name="ada")
    second = await start_server(rollout=TICK, server_name="bob")
    await put(first, policy("1.0.0", v1_1_0=0.1))
    await settled(lambda: {s.epochs.get("m") for s in first.parts.rollouts.engine.servers} == {1})
    listed = json.loads((await run(first, models, "servers", "m", "--json")).out)
    assert listed["answered_by"] == "ada"
    assert [(s["name"], s["alive"]) for s in listed["servers"]] == [("ada", True), ("bob", True)]
    for one in listed["servers"]:
        (model,) = one["models"]
        assert sorted(model.pop("versions")) == ["1.0.0", "1.1.0"]
        assert model == {"model": "m", "epoch": 1, "behind": 0, "diverted": ""}
    table = (await run(second, models, "servers")).out
    assert "ada" in table
    assert "bob" in table
    metrics = await scrape(first)
    assert metrics["turnout_servers", "state=alive"] == 2


async def test_a_server_that_is_bad_alone_is_found_and_named(pair, start_server) -> None:
    """Half of alpha is for each server's own part: what one node sees is not held against everybody's traffic."""
    good, node = Lookups(), Lookups()
    driver = await start_server(rollout=TICK, server_name="good")
    other = await start_server(rollout=TICK, server_name="bad")
    async with (
        clients(driver, good, count=3, pause=0.004),
        clients(other, node, count=1, pause=0.02),
    ):
        await start(driver, "1.1.0", LONG)
        await until(driver, in_state("soaking"))
        (active,) = driver.parts.rollouts.engine.active
        await settled(lambda: len(active.rollout.per_server.evidence) == 2, lambda: active.rollout.per_server)
        node.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert active.rollout.per_server.worse(active.rollout.servers_alpha) in (None, "bad")
    assert active.rollout.alpha == 0.005, "half is for all of it, half for the two parts"


async def soaking(server, plan=LONG) -> None:
    await start(server, "1.1.0", plan)
    await until(server, in_state("soaking"))


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request, models):
    """URL of a state store that several servers share; "" for the repository's own SQLite file."""
    if request.param == "sqlite":
        return ""
    return request.getfixturevalue("postgres_server").new_database()


async def release_again(server, version="1.0.0") -> None:
    """Releases the baseline in a state store of the test's own."""
    async with control_of(server) as control:
        await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version=version))


async def test_a_policy_may_name_what_was_released_on_another_server_a_moment_ago(pair, start_server) -> None:
    seldom = {"poll_interval_s": 60.0, "watch": False}
    first, second = [await start_server(repository=seldom) for _ in range(2)]
    await release_again(first, "1.1.0")
    entry = second.services.catalog.snapshot.model("m").versions[Version.parse("1.1.0")]
    assert entry.release_status is ReleaseStatus.CANDIDATE, "this server knows nothing of it yet"
    await put(second, policy("1.1.0"))
    assert str(second.parts.serving.policies.current["m"].state.policy.baseline) == "1.1.0"


async def test_a_rollout_is_resumed_on_a_server_that_has_not_followed_what_paused_it(pair, start_server) -> None:
    first = await start_server(rollout=TICK)
    second = await start_server(rollout=TICK, repository={"poll_interval_s": 60.0, "watch": False})
    async with clients(first, Lookups(), count=1):
        await soaking(first)
        await put(first, policy("1.0.0", v1_1_0=0.1))
        await until(first, lambda rollout: bool(rollout.pauses))
        await command(second, pb.ROLLOUT_COMMAND_RESUME)
        (active,) = second.parts.rollouts.engine.active
        number = active.number
        await settled(lambda: active.number > number + 3, lambda: active.rollout)
        assert not (await latest(second)).pauses, "it would be paused again by the change that the resume accepted"


async def test_clocks_that_differ_by_90_seconds_move_no_lease_and_lose_no_count(pair, start_server, state) -> None:
    """Leases and ticks go by the state store's clock."""
    ahead, behind = (Ahead(seconds) for seconds in (90.0, -90.0))
    driver = await start_server(rollout=TICK, state=state, clock=behind)
    await release_again(driver)
    other = await start_server(rollout=TICK, state=state, clock=ahead)
    third = await start_server(rollout=TICK, state=state)
    make = Lookups()
    async with AsyncExitStack() as stack:
        for server in (driver, other, third):
            await stack.enter_async_context(clients(server, make, count=1, pause=0.005))
        await soaking(driver)
        (active,) = driver.parts.rollouts.engine.active
        await settled(lambda: len(active.rollout.per_server.evidence) == 3, lambda: active.rollout.per_server)
        await settled(lambda: active.rollout.step_requests > 40, lambda: active.rollout)
        for server in (other, third):
            assert server.parts.rollouts.engine.active == [], "whoever began it drives it"
        assert [s.alive for s in third.parts.rollouts.engine.servers] == [True] * 3
        assert driver.parts.rollouts.engine.late_counts == 0
        make.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert [event.kind for event in last.events] == [
        "start", "validating", "ramping", "soaking", "verdict", "aborting", "rolled_back",
    ]  # fmt: skip
    await check_evidence(driver)


async def test_a_driver_that_dies_is_succeeded_by_another_and_the_evidence_goes_on(pair, start_server, state) -> None:
    """Its task is gone from one moment to the next, as by kill -9: it tells nobody, and releases nothing."""
    other = await start_server(rollout=TICK, state=state)
    await release_again(other)
    driver = await start_server(rollout=TICK, state=state)
    make = Lookups()
    async with AsyncExitStack() as stack:
        for server in (driver, other):
            await stack.enter_async_context(clients(server, make, count=2))
        await soaking(driver)
        (active,) = driver.parts.rollouts.engine.active
        await settled(lambda: active.rollout.step_requests > 40, lambda: active.rollout)
        await stop_ticking(driver)
        seen = active.rollout.evidence.accumulators["errors"].canary.requests
        await settled(lambda: other.parts.rollouts.engine.active, lambda: "nobody takes it up")
        (taken,) = other.parts.rollouts.engine.active
        make.bad = True
        last = (await until(other, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    errors = next(m for m in last.metrics if m.name == "errors")
    assert errors.canary_requests >= seen * 0.8, "what was recorded goes on"
    assert taken.rollout.verdict
    await check_evidence(other)


async def test_a_driver_that_lost_its_lease_gets_no_row(pair, start_server, state) -> None:
    """It stands still for longer than a lease, and goes on as if nothing had been."""
    driver = await start_server(rollout=TICK, state=state)
    await release_again(driver)
    async with clients(driver, Lookups()):
        await soaking(driver)
    (stale,) = driver.parts.rollouts.engine.active
    async with driver.parts.rollouts.engine._rollouts.exclusive():
        other = await start_server(rollout=TICK, state=state)
        await settled(lambda: other.parts.rollouts.engine.active, lambda: "nobody takes it up")
        await command(other, pb.ROLLOUT_COMMAND_PAUSE, reason="theirs")
        paused = await latest(other)
        writer = driver.parts.rollouts.engine._commits._writer
        stale.rollout = replace(stale.rollout, reason="mine")
        with pytest.raises(Conflict, match="written by another server"):
            await writer.save(stale, 5.0)
        with pytest.raises(Conflict, match="written by another server"):
            await driver.parts.rollouts.engine._enforcement._withdraw(stale)
        assert (await latest(other)).epoch == paused.epoch
    await settled(lambda: not driver.parts.rollouts.engine.active)
    assert list((await latest(driver)).pauses) == list(paused.pauses)
    await command(driver, pb.ROLLOUT_COMMAND_ABORT)  # whichever server is asked


@pytest.mark.parametrize(
    "other_command", [pb.ROLLOUT_COMMAND_ABORT, pb.ROLLOUT_COMMAND_PROMOTE_FULL], ids=["abort", "promote"]
)
async def test_an_abort_that_comes_second_is_answered_by_what_the_rollout_has_ended_as(
    pair, start_server, state, monkeypatch: pytest.MonkeyPatch, other_command: int
) -> None:
    """The driver ends the rollout while this server is about to record that it does."""
    driver, asked = await start_server(rollout=TICK, state=state), await start_server(rollout=TICK, state=state)
    await release_again(driver)
    plan = CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 600.0}], "watch_s": 0.0}
    async with clients(driver, Lookups()):
        await start(driver, "1.1.0", plan)
        await until(asked, in_state("soaking"))
        commits = asked.parts.rollouts.engine._commits
        decide = commits.decide

        async def late(*given: object) -> None:
            monkeypatch.undo()
            await command(driver, other_command, reason="theirs")
            await until(driver, in_state(*FINAL))
            await decide(*given)

        monkeypatch.setattr(commits, "decide", late)
        if other_command == pb.ROLLOUT_COMMAND_ABORT:
            ended = await command(asked, pb.ROLLOUT_COMMAND_ABORT, reason="mine")
            assert (ended.state, ended.verdict) == ("rolled_back", "theirs")
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="no rollout of m is active"):
                await command(asked, pb.ROLLOUT_COMMAND_ABORT, reason="mine")
            assert (await latest(asked)).state == "succeeded"


async def test_a_rollback_reaches_every_server_within_two_seconds(pair, start_server, state) -> None:
    """PostgreSQL tells of it; an SQLite file is looked at often."""
    often = {"poll_interval_s": 30.0 if state else 0.25, "watch": False}
    servers = [await start_server(rollout={"tick_s": 5.0}, state=state, repository=often) for _ in range(3)]
    await release_again(servers[0])
    seconds = []
    while not seconds or seconds[-1] >= 2.0:
        assert len(seconds) < 5, "a machine that stood still does not do so each time"
        await put(servers[0], policy("1.0.0", v1_1_0=0.5))
        for server in servers:
            await settled(lambda server=server: weight_of(server) == 0.5)
        began = time.monotonic()
        await put(servers[1], policy("1.0.0"))
        for server in servers:
            await settled(lambda server=server: weight_of(server) == 0.0)
        seconds.append(time.monotonic() - began)


async def test_while_postgresql_is_away_a_verdict_holds_and_it_is_on_record_once_it_is_back(
    pair, start_server, postgres_server
) -> None:
    state = postgres_server.new_database()
    server = await start_server(rollout=TICK, state=state)
    await release_again(server)
    make = Lookups()
    async with clients(server, make) as seen:
        await soaking(server)
        (active,) = server.parts.rollouts.engine.active
        await settled(lambda: active.rollout.step_requests > 50, lambda: active.rollout)
        await asyncio.to_thread(postgres_server.stop)
        try:
            make.bad = True
            await settled(lambda: "m" in server.parts.serving.policies.diverted, lambda: active.rollout)
            for _ in range(2):
                seen.answers.clear()
                await settled(lambda: seen.answers.total() > 30)
            assert set(seen.answers) == {"1.0.0"}
        finally:
            await asyncio.to_thread(postgres_server.start)
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    await settled(lambda: not server.parts.serving.policies.diverted)
    assert weight_of(server) == 0.0
    await check_evidence(server)


@pytest.mark.parametrize("somebody", [False, True], ids=["a rollout", "somebody"])
async def test_a_rollback_that_could_not_be_recorded_yields_to_people_and_not_to_rollouts(
    pair, models, start_server, postgres_server, tmp_path, somebody
) -> None:
    """A server that is cut off from the store, and shares no repository, goes back by hand; the other one moves on."""
    state = postgres_server.new_database()
    apart = tmp_path / "apart"
    shutil.copytree(models, apart)
    driver = await start_server(rollout=TICK, state=state)
    await release_again(driver)
    with TcpProxy(postgres_server.port) as proxy:
        settings = make_settings(apart, rollout=TICK, state=state.replace(str(postgres_server.port), str(proxy.port)))
        async with running(settings, make_logger("json", "error")) as cut:
            async with clients(driver, Lookups()):
                await soaking(driver)
                await settled(lambda: weight_of(cut) == 0.25)
                proxy.cut()
                message = await run(cut, apart, "rollback", "m", "--reason", "I see smoke")
                assert message.code == 0, message.err
                assert "m" in cut.parts.serving.policies.diverted
                if somebody:
                    await put(driver, policy("1.0.0", v1_1_0=0.1), actor="bob", reason="mine")
                else:
                    await command(driver, pb.ROLLOUT_COMMAND_PROMOTE)
                    await settled(lambda: weight_of(driver) == 0.5)
                proxy.restore()
                await settled(lambda: not cut.parts.serving.policies.diverted, lambda: cut.parts.serving.policies)
                for server in (driver, cut):
                    share = 0.1 if somebody else 0.0
                    await settled(lambda server=server, share=share: weight_of(server) == share)
            if not somebody:
                assert (await latest(driver)).state == "rolled_back"
                assert "I see smoke" in driver.parts.serving.policies.current["m"].reason


async def test_the_consoles_first_page_lists_the_servers(pair, start_server) -> None:
    first = await start_server(rollout=TICK, server_name="ada")
    await start_server(rollout=TICK, server_name="bob")
    await settled(lambda: len(first.parts.rollouts.engine.servers) == 2)
    text = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://{first.http}/console", timeout=100).read().decode()
    )
    assert "Servers on this state store" in text
    assert "ada" in text
    assert "bob" in text


@pytest.mark.slow
async def test_counts_reach_a_driver_that_the_state_store_answers_slowly(pair, start_server, postgres_server) -> None:
    """As over a long distance: no read of the driver ends within the time for which a tick waits for it."""
    state, seldom = postgres_server.new_database(), {"tick_s": 2.0}
    with TcpProxy(postgres_server.port) as proxy, StateStore.open(state) as near:
        far = state.replace(str(postgres_server.port), str(proxy.port))
        driver = await start_server(rollout=seldom, state=far)
        other = await start_server(rollout=seldom, state=far)
        await release_again(driver)
        bad = Lookups()
        async with clients(driver, Lookups(), count=1) as quiet, clients(other, bad) as busy:
            await start(driver, "1.1.0", LONG)
            await until(driver, in_state("soaking"))
            await settled(lambda: weight_of(other) > 0)
            proxy.delay = 0.1
            bad.bad = True
            await settled(lambda: near.rollouts("m")[0].final, lambda: near.rollouts("m")[0].state)
            proxy.delay = 0.0
            assert busy.codes
        assert not quiet.codes, "the driver's own requests all went well"
        assert near.rollouts("m")[0].state == "rolled_back"
        await check_evidence(driver)
