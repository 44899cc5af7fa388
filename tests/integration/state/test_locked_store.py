"""While another process holds the state store's write lock: a rollback is in force at once, and on record later."""

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from semver import Version

from answer_wire import run
from locked_store import locked
from onnx_models import look_up, look_up_safely
from rollout_wire import FINAL, LONG, TICK, WATCHED, Lookups, clients, command, in_state, latest, settled, start, until
from routing_wire import control_of, policy, put
from started_servers import make_settings
from turnout.app.server import running
from turnout.rollout.engine.operators import commands, releases
from turnout.rollout.machine.attempt import Rollout
from turnout.routing.policy import Policy
from turnout.serving.versions.load_policy import Fallbacks
from turnout.state.database.engine import sqlite_url
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import control_pb2, traffic_pb2
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

pytest_plugins = ["postgres_fixture"]


@pytest.fixture(autouse=True)
def quick_to_give_up(monkeypatch):
    """Has commands wait for the store as long as they do outside of tests."""
    monkeypatch.setattr(commands, "_COMMAND_WAIT", 3.0)
    monkeypatch.setattr(releases, "_ROLLBACK_WAIT", 1.0)
    monkeypatch.setattr(commands.RolloutCommands.operate, "__defaults__", (3.0,))


@pytest.fixture
def pair(publish_model):
    """A baseline that always answers, and a candidate that raises on some requests."""
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up(), release=False)


def serving(models, **settings):
    return running(make_settings(models, rollout=TICK, **settings), make_logger("json", "error"))


async def complete(server):
    await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    return server


async def kept(models: Path) -> None:
    """Waits until the unrecorded rollback is in its file, which is written in the background: a disk may be slow."""
    await settled(lambda: list((models / ".turnout" / "diverted").rglob("*.json")))


async def test_a_verdict_is_in_force_within_a_tick_and_outlives_a_restart_until_it_is_on_record(pair, models) -> None:
    make = Lookups()
    async with serving(models) as server:
        await complete(server)
        async with clients(server, make) as seen:
            await start(server, "1.1.0", LONG)
            await until(server, in_state("soaking"))
            (active,) = server.parts.rollouts.engine.active
            await settled(lambda: active.rollout.evidence.accumulators["errors"].canary.requests > 20)
            async with locked(models):
                make.bad = True
                await settled(lambda: active.rollout.evidence.combined >= 100, lambda: active.rollout.evidence)
                decided = time.monotonic()
                await settled(lambda: "m" in server.parts.serving.policies.diverted)
                assert time.monotonic() - decided < 9, "while the store waits 10 s for the lock"
                await _all_from(seen, "1.0.0")
                traffic = await run(server, models, "traffic", "show", "m")
                assert "1.0.0 answers everything: a rollback is in force" in " ".join(traffic.out.split()), traffic.out
                assert "not recorded" in (await run(server, models, "traffic", "explain", "m")).out
                assert (await latest(server)).state == "soaking", "as it is recorded"
                seen.stop.set()
                await kept(models)
                async with serving(models) as other:  # as after a restart: it only knows what is kept
                    await complete(other)
                    assert other.parts.serving.policies.diverted == {"m": Version(1)}
                    async with clients(other, make) as again:
                        await _all_from(again, "1.0.0")
                        assert not again.codes
            last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back", last
    assert [event.kind for event in last.events][-3:] == ["verdict", "aborting", "rolled_back"]
    assert "is worse than" in last.verdict
    async with serving(models) as server:
        await complete(server)
        assert server.parts.serving.policies.diverted == {}
        assert server.parts.serving.policies.current["m"].state.policy == Policy(Version(1))


async def test_a_rollback_that_another_server_records_is_told_as_by_the_one_that_decided_it(pair, models) -> None:
    async with AsyncExitStack() as lock:
        async with serving(models) as server:
            await complete(server)
            make = Lookups()
            async with clients(server, make):
                await start(server, "1.1.0", LONG)
                await until(server, in_state("soaking"))
                (active,) = server.parts.rollouts.engine.active
                await settled(lambda: active.rollout.evidence.accumulators["errors"].canary.requests > 20)
                await lock.enter_async_context(locked(models))
                make.bad = True
                await settled(lambda: "m" in server.parts.serving.policies.diverted, lambda: active.rollout.evidence)
        async with serving(models) as other:
            await complete(other)
            assert (await latest(other)).state == "soaking", "it is not on record"
            assert other.parts.serving.policies.diverted == {"m": Version(1)}
            await lock.aclose()
            await until(other, in_state(*FINAL))
    with StateStore.open(sqlite_url(models / ".turnout" / "state.db")) as store:
        (record,) = store.rollouts("m", limit=1)
    rollout = Rollout.from_json(record.document)
    assert (rollout.state, rollout.cause, rollout.released) == ("rolled_back", "evidence", True)


async def _all_from(seen, version: str) -> None:
    for _ in range(2):  # what was under way when it changed is let pass
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 30, lambda: seen)
    assert set(seen.answers) == {version}


@pytest.mark.parametrize("rolls", [True, False], ids=["rollout", "traffic"])
async def test_a_rollback_by_hand_is_in_force_at_once_and_on_record_later(pair, models, start_server, rolls) -> None:
    server = await start_server(rollout=TICK)
    make = Lookups()
    async with clients(server, make) as seen:
        if rolls:
            await start(server, "1.1.0", LONG)
            await until(server, in_state("soaking"))
        else:
            await put(server, policy("1.0.0", v1_1_0=0.5))
        async with locked(models):
            message = await asyncio.wait_for(run(server, models, "rollback", "m", "--reason", "I see smoke"), 60)
            if not rolls and message.code:
                pytest.fail(message.err)
            assert message.code == 0, message.err
            assert "recorded once the state store answers" in " ".join(message.out.split()), message.out
            await _all_from(seen, "1.0.0")
        await settled(lambda: not server.parts.serving.policies.diverted, lambda: server.parts.serving.policies)
        applied = server.parts.serving.policies.current["m"]
        assert applied.state.policy == Policy(Version(1))
        assert "I see smoke" in applied.reason
        if rolls:
            assert (await latest(server)).state == "rolled_back"
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 30)
        assert set(seen.answers) == {"1.0.0"}


@pytest.fixture(params=["sqlite", "postgresql"])
def unanswering(request, models):
    """The URL of a state store, and what keeps it from answering for as long as a context is entered."""
    if request.param == "sqlite":
        return "", lambda: locked(models)
    server = request.getfixturevalue("postgres_server")

    @asynccontextmanager
    async def stopped():
        await asyncio.to_thread(server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(server.start)

    return server.new_database(), stopped


async def release(server, *versions: str) -> None:
    """Releases versions in the state store of the test."""
    async with control_of(server) as control:
        for version in versions:
            await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version=version))


async def answered_by(server, selector: str) -> str:
    """Returns who answers a selector, or the code of the refusal."""
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        try:
            message = await PredictionServiceStub(channel).Predict(
                request("m", selector, index=np.array([1])), timeout=60
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return message.route.version


AFTER = {"": "1.0.0", "latest": "1.0.0", "^1": "1.0.0", "^1.1": "NOT_FOUND", "1.1.0": "1.1.0"}
"""Who answers once 1.1.0 is rolled back and no longer released, whether that is on record or not."""


async def test_a_rollback_by_hand_without_a_policy_does_not_wait_for_the_store(
    pair, models, unanswering, monkeypatch
) -> None:
    """The highest release answers, and ranges and `latest` leave what was gone back from as plain requests do."""
    monkeypatch.setitem(StateStore.open.__func__.__kwdefaults__, "lock_wait", 200.0)
    state, away = unanswering
    async with serving(models, state=state) as server:
        await complete(server)
        await release(server, "1.0.0", "1.1.0")
        await settled(lambda: server.parts.serving.policies.fallbacks.get("m", Fallbacks()).nearest == Version(1))
        assert server.parts.serving.policies.current.get("m") is None
        assert await answered_by(server, "") == "1.1.0"
        async with away():
            # Much sooner than the store would give up.
            message = await asyncio.wait_for(run(server, models, "rollback", "m", "--reason", "I see smoke"), 100)
            assert message.code == 0, message.err
            assert "recorded once the state store answers" in " ".join(message.out.split()), message.out
            assert {selector: await answered_by(server, selector) for selector in AFTER} == AFTER
            traffic = " ".join((await run(server, models, "traffic", "show", "m")).out.split())
            assert "1.0.0 answers everything: a rollback is in force" in traffic
            explained = (await run(server, models, "traffic", "explain", "m")).out
            assert "1.1.0 counts as not released" in " ".join(explained.split())
            if not state:  # as after a restart: it only knows what is kept
                await kept(models)
                async with serving(models, state=state) as other:
                    await complete(other)
                    assert {selector: await answered_by(other, selector) for selector in AFTER} == AFTER
        await settled(lambda: not server.parts.serving.policies.diverted, lambda: server.parts.serving.policies)
        assert server.parts.serving.policies.current.get("m") is None, "no policy came of it"
        assert {selector: await answered_by(server, selector) for selector in AFTER} == AFTER
        known = server.services.catalog.snapshot.model("m").versions
        assert {str(v): str(e.release_status) for v, e in known.items()} == {"1.0.0": "released", "1.1.0": "candidate"}


async def test_a_rollout_that_is_rolled_back_without_a_policy_does_not_wait_for_the_store(
    pair, models, unanswering
) -> None:
    """Somebody cleared the policy of a candidate that was promoted: its release is all that has it answer."""
    state, away = unanswering
    async with AsyncExitStack() as stack, serving(models, state=state) as server:
        await complete(server)
        await release(server, "1.0.0")
        seen = await stack.enter_async_context(clients(server, Lookups()))
        await start(server, "1.1.0", WATCHED | {"max_pause_s": 0.3})
        await until(server, in_state("watching"))
        (active,) = server.parts.rollouts.engine.active
        catalog = server.services.catalog
        await settled(lambda: str(catalog.snapshot.model("m").versions[Version(1, 1)].release_status) == "released")
        async with AsyncExitStack() as outage:
            async with (
                server.parts.rollouts.engine._rollouts.exclusive(),
                control_of(server) as control,
            ):  # between two ticks
                await control.ClearTraffic(traffic_pb2.ClearTrafficRequest(model="m"))
                await outage.enter_async_context(away())
            assert await answered_by(server, "") == "1.1.0", "the highest release"
            await settled(lambda: active.rollout.state == "aborting", lambda: active.rollout)
            assert server.parts.serving.policies.diverted == {"m": Version(1)}
            await _all_from(seen, "1.0.0")
            assert {selector: await answered_by(server, selector) for selector in AFTER} == AFTER
        last = (await until(server, in_state(*FINAL)))[-1]
        assert last.state == "rolled_back"
        await settled(lambda: not server.parts.serving.policies.diverted, lambda: server.parts.serving.policies)
        assert {selector: await answered_by(server, selector) for selector in AFTER} == AFTER
        assert not seen.codes, seen.codes


async def test_an_abort_by_hand_is_in_force_at_once_and_other_commands_are_refused(pair, models, start_server) -> None:
    server = await start_server(rollout=TICK)
    async with clients(server, Lookups()) as seen:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        async with locked(models):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asyncio.wait_for(command(server, pb.ROLLOUT_COMMAND_PROMOTE), 60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            message = await asyncio.wait_for(command(server, pb.ROLLOUT_COMMAND_ABORT, reason="enough"), 60)
            assert message.state == "aborting"
            await _all_from(seen, "1.0.0")
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert "enough" in last.verdict


async def test_a_command_waits_for_what_a_tick_asked_of_the_store(pair, models, start_server) -> None:
    server = await start_server(rollout=TICK)
    rollouts = server.parts.rollouts.engine
    async with clients(server, Lookups()):
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
        for what, paused in ((pb.ROLLOUT_COMMAND_PAUSE, True), (pb.ROLLOUT_COMMAND_RESUME, False)):
            async with AsyncExitStack() as lock:
                await lock.enter_async_context(locked(models))
                await settled(lambda: rollouts.commands._store_timeout._late)
                asked = asyncio.create_task(command(server, what, reason="let me see"))
                done, _ = await asyncio.wait([asked], timeout=0.5)
                assert not done, asked.result()
                await lock.aclose()
                message = await asyncio.wait_for(asked, 60)
            assert bool(message.pauses) == paused, message
            assert bool((await latest(server)).pauses) == paused
    kinds = [event.kind for event in (await latest(server)).events]
    assert (kinds.count("pause"), kinds.count("resume")) == (1, 1), kinds
    assert len(kinds) == len(set(kinds)), "nothing is told twice"


async def test_a_command_waits_where_the_server_has_not_heard_of_the_rollout_yet(pair, models, monkeypatch) -> None:
    async with serving(models) as server, serving(models) as other:
        await complete(server)
        await complete(other)
        store, heard = other.parts.rollouts.engine._presence.store, asyncio.Event()
        in_thread = StateStore.in_thread

        async def late(self, call, *args, **kwargs):
            if self is store and call == store.running_rollouts:
                await heard.wait()
            return await in_thread(self, call, *args, **kwargs)

        monkeypatch.setattr(StateStore, "in_thread", late)
        await settled(lambda: other.parts.rollouts.engine._rollouts._reads._late)
        async with clients(server, Lookups()):
            await start(server, "1.1.0", LONG)
            await until(server, in_state("soaking"))
            asked = asyncio.create_task(command(other, pb.ROLLOUT_COMMAND_PAUSE, reason="let me see"))
            done, _ = await asyncio.wait([asked], timeout=0.5)
            assert not done, asked.result()
            heard.set()
            assert (await asyncio.wait_for(asked, 60)).pauses
