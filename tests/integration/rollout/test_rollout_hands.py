"""Operators at a rollout: stale commands, freezes, strangers' changes, and `turnout rollback` in each situation."""

import grpc
import pytest
from semver import Version

from onnx_models import look_up, look_up_safely
from rollout_wire import (
    CAREFREE,
    FINAL,
    LONG,
    TICK,
    WATCHED,
    Lookups,
    clients,
    command,
    in_state,
    latest,
    settled,
    start,
    until,
)
from routing_wire import control_of, policy, put
from turnout.config import RepositorySettings, Settings
from turnout.state.store import StateStore
from turnout_proto.v1 import control_pb2, traffic_pb2
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

pytestmark = pytest.mark.slow

KEYLESS = [""] * 40


@pytest.fixture
async def server(publish_model, start_server):
    for version, model in (("1.0.0", look_up_safely()), ("1.1.0", look_up()), ("1.2.0", look_up_safely())):
        publish_model("m", version, model, release=version == "1.0.0")
    return await start_server(rollout=TICK)


async def freeze(server, frozen: bool) -> None:
    async with control_of(server) as control:
        change = traffic_pb2.TrafficChange(actor="bob", reason="holidays")
        await control.FreezeTraffic(traffic_pb2.FreezeTrafficRequest(model="m", frozen=frozen, change=change))


async def roll_back(server, version: str = "") -> pb.RollBackResponse:
    async with control_of(server) as control:
        request = pb.RollBackRequest(model="m", version=version, change=pb.RolloutChange(actor="ann", reason="enough"))
        return await control.RollBack(request)


async def refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def policy_of(server):
    applied = server.parts.serving.policies.current.get("m")
    return applied.state.policy if applied else None


# Commands


async def test_the_second_of_two_operators_is_refused_and_told_the_present_epoch(server) -> None:
    await start(server, "1.1.0", LONG)
    seen = (await until(server, in_state("soaking")))[-1].epoch
    after = await command(server, pb.ROLLOUT_COMMAND_PAUSE, actor="ann", expected_epoch=seen)
    error = await refused(command(server, pb.ROLLOUT_COMMAND_PROMOTE_FULL, actor="bob", expected_epoch=seen))
    assert error.code() is grpc.StatusCode.ABORTED
    assert f"is at epoch {after.epoch} by now (soaking), not {seen}" in error.details()
    now = await latest(server)
    assert (now.state, now.epoch) == ("soaking", after.epoch)
    assert now.pauses == ["paused by hand (ann)"]


async def test_an_epoch_outlives_the_counting(server) -> None:
    async with clients(server, Lookups()) as seen:
        await start(server, "1.1.0", LONG)
        epoch = (await until(server, in_state("soaking")))[-1].epoch
        await settled(lambda: seen.answers["1.1.0"] > 20)
        later = (await until(server, lambda r: r.metrics[0].canary_requests > 20))[-1]
    assert later.epoch == epoch
    await command(server, pb.ROLLOUT_COMMAND_ABORT, expected_epoch=epoch)


# Freezes


async def test_a_frozen_rollout_waits_says_so_and_goes_on_by_itself(server) -> None:
    async with clients(server, Lookups()):
        await start(
            server, "1.1.0", CAREFREE | {"steps": [{"weight": 0.25, "soak_s": 600.0}, {"weight": 0.5, "soak_s": 0.5}]}
        )
        await until(server, in_state("soaking"))
        await freeze(server, True)
        (active,) = server.parts.rollouts.engine.active
        await settled(lambda: active.rollout.idle_s > 0.3, lambda: active.rollout)
        await command(server, pb.ROLLOUT_COMMAND_PROMOTE)  # a word that cannot be put in force yet
        await settled(lambda: active.rollout.state == "ramping" and active.rollout.idle_s > 1, lambda: active.rollout)
        held = await latest(server)
        assert (held.step, list(held.pauses)) == (2, [])
        assert "the traffic is frozen" in held.lacking
        assert [c.weight for c in policy_of(server).canaries] == [2500]
        await freeze(server, False)
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "succeeded", last
    assert "pause" not in [event.kind for event in last.events]


@pytest.mark.parametrize(("plan", "state"), [(LONG, "soaking"), (WATCHED, "watching")], ids=["canary", "promoted"])
async def test_a_frozen_rollout_is_still_rolled_back(server, plan, state) -> None:
    make = Lookups()
    async with clients(server, make, pause=0.005):
        await start(server, "1.1.0", plan)
        await until(server, in_state(state))
        await freeze(server, True)
        make.bad = True
        last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert str(policy_of(server).baseline) == "1.0.0"
    assert server.parts.serving.policies.current["m"].state.frozen


async def test_a_rollback_that_a_freeze_refuses_holds_in_memory_until_it_is_recorded(server) -> None:
    """Promoted past all steps, the version before was the baseline of no policy: a freeze does not know it."""
    make = Lookups()
    async with clients(server, make, pause=0.005) as seen:
        await start(server, "1.1.0", WATCHED | {"threshold_samples": 1})
        await command(server, pb.ROLLOUT_COMMAND_PROMOTE_FULL)
        await until(server, in_state("watching"))
        await freeze(server, True)
        make.bad = True
        await until(server, in_state("aborting"))
        await settled(lambda: "m" in server.parts.serving.policies.diverted)
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 50)
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 50)
        assert set(seen.answers) == {"1.0.0"}
        with pytest.raises(AssertionError, match="NOT_FOUND"):  # as once it is recorded
            await ask_lookups(server, ">=1.1")
        await freeze(server, False)
        assert (await until(server, in_state(*FINAL)))[-1].state == "rolled_back"
    assert "m" not in server.parts.serving.policies.diverted


# Strangers


async def test_somebody_elses_change_pauses_it_with_who_and_why_and_resume_takes_it_for_granted(server) -> None:
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    await put(server, policy("1.0.0", v1_2_0=0.1), actor="bob", reason="a trial of mine")
    held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert "someone else changed the traffic: epoch" in held.pauses[0]
    assert "by bob: a trial of mine" in held.pauses[0]
    assert str(policy_of(server).canaries[0].version) == "1.2.0", "it is not undone"
    await command(server, pb.ROLLOUT_COMMAND_RESUME, actor="ann")
    (active,) = server.parts.rollouts.engine.active
    await settled(
        lambda: {str(c.version): c.weight for c in policy_of(server).canaries} == {"1.2.0": 1000, "1.1.0": 2500}
    )
    await settled(lambda: active.rollout.step_s > 0.3)
    assert not (await latest(server)).pauses


@pytest.mark.parametrize("what", [pb.ROLLOUT_COMMAND_RESUME, pb.ROLLOUT_COMMAND_PROMOTE])
async def test_a_rollout_does_not_undo_another_baseline_that_somebody_chose(server, what) -> None:
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    async with control_of(server) as control:
        await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version="1.2.0", no_traffic=True))
    await put(server, policy("1.2.0"), actor="bob")
    await until(server, lambda r: bool(r.pauses))
    error = await refused(command(server, what))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "1.2.0 is the baseline of m by now" in error.details()
    await command(server, pb.ROLLOUT_COMMAND_ABORT)
    assert (await until(server, in_state(*FINAL)))[-1].state == "rolled_back"
    assert str(policy_of(server).baseline) == "1.2.0"


# Rollbacks


async def test_a_rollback_ends_a_rollout_in_a_step(server) -> None:
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    done = await roll_back(server)
    assert (done.baseline, done.sentence) == (
        "1.0.0", "all traffic of m goes to 1.0.0; the rollout of 1.1.0 (attempt 1) has ended",
    )  # fmt: skip
    last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert [(e.kind, e.actor) for e in last.events][-3:] == [("rollback", "ann"), ("aborting", ""), ("rolled_back", "")]
    assert {a.version for a in await ask_lookups(server)} == {"1.0.0"}


async def test_a_rollback_while_it_waits_for_traffic_ends_it(server) -> None:
    await start(server, "1.1.0", LONG | {"metrics": ["p90"], "threshold_samples": 4000})
    await until(server, in_state("validating"))
    assert (await roll_back(server)).baseline == "1.0.0"
    assert (await until(server, in_state(*FINAL)))[-1].state == "rolled_back"


async def test_a_rollback_to_another_version_than_the_rollouts_is_refused(server) -> None:
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    error = await refused(roll_back(server, "1.2.0"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "goes back to 1.0.0: abort it first" in error.details()


async def test_a_rollback_after_promotion_withdraws_the_release_so_that_ranges_do_not_meet_it(server) -> None:
    async with clients(server, Lookups()):
        await start(server, "1.1.0", WATCHED)
        await until(server, in_state("watching"))
    assert {a.version for a in await ask_lookups(server, ">=1.1")} == {"1.1.0"}
    assert (await roll_back(server)).baseline == "1.0.0"
    await until(server, in_state(*FINAL))
    assert {a.version for a in await ask_lookups(server)} == {"1.0.0"}
    with pytest.raises(AssertionError, match="NOT_FOUND"):
        await ask_lookups(server, ">=1.1")
    error = await refused(roll_back(server))  # the baseline before is the one that was rolled back
    assert "there is nothing to go back to" in error.details()
    assert "1.1.0 is a candidate" in error.details()
    error = await refused(roll_back(server, "1.1.0"))
    assert "1.1.0 is a candidate: release it before it becomes the baseline" in error.details()


async def test_a_rollback_without_a_rollout_goes_to_the_baseline_before(server) -> None:
    async with clients(server, Lookups()):
        await start(server, "1.1.0", CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.2}], "watch_s": 0.2})
        assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
    assert (await roll_back(server)).baseline == "1.0.0"
    assert {a.version for a in await ask_lookups(server)} == {"1.0.0"}


async def test_without_anything_to_go_back_to_a_rollback_is_refused(server) -> None:
    error = await refused(roll_back(server))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no other version was the baseline of m before" in error.details()


async def test_without_watching_the_version_before_has_no_traffic_left(server) -> None:
    async with clients(server, Lookups()):
        await start(server, "1.1.0", CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.2}], "watch_s": 0})
        assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
    assert policy_of(server).canaries == ()


async def ask_lookups(server, selector: str = ""):
    """Sends forty requests; returns their routes."""
    routes = []
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub, make = PredictionServiceStub(channel), Lookups()
        for number in range(40):
            request = make(number)
            request.version = selector
            try:
                routes.append((await stub.Predict(request)).route)
            except grpc.aio.AioRpcError as error:
                raise AssertionError(f"{error.code().name}: {error.details()}") from error
    return routes


@pytest.fixture
async def unaware(publish_model, start_server):
    """A server that has not noticed what was published, released and withdrawn since it started."""
    publish_model("m", "1.0.0", look_up_safely())
    started = await start_server(rollout=TICK, repository=RepositorySettings(watch=False, poll_interval_s=1000.0))
    await settled(lambda: started.services.catalog.snapshot.models["m"].versions[Version(1)].state == "ready")
    return started


async def test_a_rollout_is_planned_and_started_as_soon_as_its_candidate_is_published(unaware, publish_model) -> None:
    publish_model("m", "1.1.0", look_up(), release=False)
    async with control_of(unaware) as control:
        planned = await control.PlanRollout(pb.PlanRolloutRequest(model="m", version="1.1.0", plan_json="{}"))
    assert not planned.refusals
    publish_model("m", "1.2.0", look_up(), release=False)
    assert (await start(unaware, "1.2.0", LONG)).candidate == "1.2.0"


async def test_a_rollout_is_started_as_soon_as_its_candidate_is_no_longer_yanked(
    unaware, publish_model, models
) -> None:
    publish_model("m", "1.1.0", look_up(), release=False)
    with StateStore.open(Settings(models=models).state_url) as store:
        store.yank("m", Version(1, 1), refuse=lambda uses: None, actor="ann", reason="it leaks")
        error = await refused(start(unaware, "1.1.0", LONG))
        assert (error.code(), "was yanked" in error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        store.unyank("m", Version(1, 1), actor="ann", reason="it does not")
    assert (await start(unaware, "1.1.0", LONG)).candidate == "1.1.0"


async def test_a_candidate_that_does_not_exist_is_still_not_found(unaware) -> None:
    for model, version, told in (
        ("m", "9.0.0", r"no version of m is '9\.0\.0'; there are: 1\.0\.0"), ("other", "1.0.0", "no model"),
    ):  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError, match=told) as caught:
            await start(unaware, version, LONG, model=model)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
