"""Rollouts where the world is not as it should be: no traffic, late ticks, jumping clocks, broken files."""

import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import grpc
import pytest

from onnx_models import scaled
from rollout_wire import (
    CAREFREE,
    FINAL,
    LONG,
    QUICK,
    TICK,
    check_evidence,
    command,
    in_state,
    latest,
    settled,
    start,
    until,
    weight_of,
)
from routing_wire import ask, control_of
from started_servers import make_settings
from turnout.app.server import running
from turnout.rollout.clock import SYSTEM_CLOCK, Clock
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import control_pb2
from turnout_proto.v1 import rollout_pb2 as pb

pytestmark = pytest.mark.slow

KEYLESS = [""] * 40


@pytest.fixture
def plain_pair(publish_model):
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)


@asynccontextmanager
async def one_server(models, clock: Clock = SYSTEM_CLOCK):
    """A server whose life is the context's."""
    async with running(make_settings(models, rollout=TICK), make_logger("json", "error"), clock) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        yield server


# Traffic


async def test_without_any_traffic_it_waits_says_so_and_goes_on_by_hand(plain_pair, start_server) -> None:
    server = await start_server(rollout=TICK)
    plan = QUICK | {"validating_s": 0.5, "step_deadline_s": 0.8}
    await start(server, "1.1.0", plan)
    held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert (held.state, weight_of(server)) == ("validating", 0.0)
    assert "only 0 of the 50 requests" in held.pauses[0]
    await command(server, pb.ROLLOUT_COMMAND_RESUME, actor="ann")
    again = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert again.state == "validating"
    await command(server, pb.ROLLOUT_COMMAND_PROMOTE, actor="ann")
    held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert (held.state, held.step, weight_of(server)) == ("deciding", 1, 0.25)
    assert "the canary had 0 of 20 requests" in held.pauses[0]
    await command(server, pb.ROLLOUT_COMMAND_PROMOTE_FULL, actor="ann", reason="I know it")
    last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "succeeded"
    kinds = [event.kind for event in last.events]
    assert [k for k in kinds if k in ("pause", "resume", "promote", "promote_full")] == [
        "pause", "resume", "pause", "promote", "pause", "promote_full",
    ]  # fmt: skip


async def test_a_handful_of_requests_is_no_ground_to_promote_on(plain_pair, start_server) -> None:
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", CAREFREE | {"step_deadline_s": 0.8, "min_requests": 100})
    await until(server, lambda r: bool(r.pauses))  # so that all of them come before the deadline of the next try
    answers = await ask(server, KEYLESS)
    met = sum(a.role == "canary" for a in answers)
    assert 8 <= met <= 12
    await command(server, pb.ROLLOUT_COMMAND_RESUME)
    held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert (held.state, held.step) == ("deciding", 1)
    assert f"the canary had {met} of 100 requests" in held.pauses[0]


async def test_a_handful_of_requests_suffices_where_the_plan_says_so(plain_pair, start_server) -> None:
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", CAREFREE)
    for step in (1, 2):
        await until(server, lambda r, step=step: r.state in ("soaking", "deciding") and r.step == step)
        await ask(server, KEYLESS)
    last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "succeeded"


# Time


async def test_a_server_that_stood_still_made_no_progress_and_lost_nothing(plain_pair, start_server) -> None:
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    rollouts = server.parts.rollouts.engine
    await rollouts.wait(10)
    (active,) = rollouts.active
    sent = sum(answer.role == "canary" for answer in await ask(server, KEYLESS))
    assert sent
    before, ticks = active.rollout.step_s, []
    tick = rollouts.tick

    async def counted() -> None:
        await tick()
        ticks.append(active.rollout.step_s)

    rollouts.tick = counted  # to see each of them
    time.sleep(2)  # noqa: ASYNC251 - the fault: the loop stands still
    await settled(lambda: len(ticks) >= 2)
    assert ticks[0] - before <= 3 * TICK["tick_s"] * 2, "one look may have been under way"

    def counted_requests() -> int:
        return active.rollout.evidence.accumulators["errors"].canary.requests

    await settled(lambda: counted_requests() == sent, lambda: (counted_requests(), sent))
    await server.parts.rollouts.engine.wait(10)
    await check_evidence(server)


@dataclass
class JumpingClock:
    """The machine's clocks, each so many seconds ahead; how often each was read tells that a server goes by them."""

    day: float = 0.0
    measured: float = 0.0
    reads: Counter[str] = field(default_factory=Counter)

    def monotonic(self) -> float:
        self.reads["monotonic"] += 1
        return SYSTEM_CLOCK.monotonic() + self.measured

    def now(self) -> datetime:
        self.reads["now"] += 1
        return SYSTEM_CLOCK.now() + timedelta(seconds=self.day)


@pytest.mark.parametrize(
    ("day", "measured"), [(86_400.0, 0.0), (-86_400.0, 0.0), (0.0, 3600.0)], ids=["ahead", "back", "suspended"]
)
async def test_a_clock_that_jumps_neither_hurries_nor_stops_a_rollout(plain_pair, start_server, day, measured) -> None:
    clock = JumpingClock()
    server = await start_server(rollout=TICK, clock=clock)
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    (active,) = server.parts.rollouts.engine.active
    before = active.rollout.step_s
    clock.day, clock.measured = day, measured
    clock.reads.clear()
    for _ in range(5):
        await server.parts.rollouts.engine.wait(10)
    assert clock.reads["now"] > 0
    assert clock.reads["monotonic"] > 0
    (same,) = server.parts.rollouts.engine.active
    assert same is active, "its own lease is no matter of the clock"
    assert before < same.rollout.step_s < before + 60
    await command(server, pb.ROLLOUT_COMMAND_ABORT)
    assert (await until(server, in_state(*FINAL)))[-1].state == "rolled_back"


async def test_a_clock_set_back_leaves_no_rollout_to_nobody(plain_pair, models) -> None:
    clock = JumpingClock(day=86_400.0)
    async with one_server(models, clock) as server:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
    clock.day = 0.0
    async with one_server(models, clock) as server:
        await settled(lambda: server.parts.rollouts.engine.active, lambda: "its lease lasts until tomorrow")
        await command(server, pb.ROLLOUT_COMMAND_ABORT)
        assert (await until(server, in_state(*FINAL)))[-1].state == "rolled_back"


# The candidate


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("plan", [LONG, LONG | {"threshold_samples": 4000, "metrics": ["p90"]}], ids=["step", "before"])
async def test_no_version_of_a_rollout_is_unloaded_by_hand(plain_pair, start_server, version, plan) -> None:
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", plan)
    await until(server, in_state("soaking", "validating"))
    async with control_of(server) as control:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await control.UnloadVersion(control_pb2.UnloadVersionRequest(model="m", version=version))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not (await latest(server)).pauses


async def test_a_candidate_whose_bytes_changed_fails_with_the_reason_and_the_baseline_serves(
    plain_pair, models
) -> None:
    async with one_server(models) as server:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
    file = models / "m" / "1.1.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    async with one_server(models) as server:
        last = (await until(server, in_state(*FINAL)))[-1]
        assert last.state == "failed"
        assert "1.1.0 cannot be served" in last.verdict
        assert "model.onnx is not what was published" in last.verdict
        assert {answer.version for answer in await ask(server, KEYLESS)} == {"1.0.0"}
        assert [e.kind for e in last.events][-3:] == ["verdict", "aborting", "failed"]


async def test_a_candidate_that_refuses_what_the_baseline_takes_is_blamed_after_a_restart_too(
    plain_pair, models
) -> None:
    """The baseline's own check of a request is needed for that, and is there only once the baseline is loaded."""
    async with one_server(models) as server:
        await start(server, "1.1.0", LONG)
        await until(server, in_state("soaking"))
    async with one_server(models) as server:
        await settled(lambda: server.parts.rollouts.engine.active)
        (active,) = server.parts.rollouts.engine.active
        await settled(lambda: active.counters._canary.baseline is not None)
