"""Rollouts whose state store has no room, or holds what cannot be read."""

import json
import os
import shutil
import subprocess

import grpc
import pytest
from semver import Version
from sqlalchemy import update

from onnx_models import look_up, look_up_safely, scaled
from rollout_wire import (
    CAREFREE,
    FINAL,
    LONG,
    TICK,
    WATCHED,
    Lookups,
    check_evidence,
    clients,
    command,
    in_state,
    latest,
    reached,
    settled,
    start,
    until,
    weight_of,
)
from routing_wire import ask, control_of, policy, put
from turnout.config import Settings
from turnout.routing.policy import Policy
from turnout.state.database import schema
from turnout.state.store import StateStore
from turnout_proto.v1 import control_pb2
from turnout_proto.v1 import rollout_pb2 as pb

pytestmark = pytest.mark.slow

KEYLESS = [""] * 40


@pytest.fixture
def pair(publish_model):
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up(), release=False)


@pytest.fixture
def plain_pair(publish_model):
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a disk of its own, which can be filled up."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(directory)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a disk of its own")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory) -> None:
    with (directory / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while ballast.write(b"\0" * size):
                    pass
            except OSError:
                continue


async def test_while_the_disk_is_full_no_traffic_goes_forward_and_afterwards_nothing_is_missing(
    plain_pair, start_server, small_disk
) -> None:
    server = await start_server(rollout=TICK, state=f"sqlite:///{small_disk}/state.db")
    await release_again(server)
    plan = CAREFREE | {"steps": [{"weight": 0.25, "soak_s": 1.0}, {"weight": 0.5, "soak_s": 1.0}]}
    await start(server, "1.1.0", plan)
    await until(server, reached("soaking"))
    (active,) = server.parts.rollouts.engine.active
    fill(small_disk)
    await settled(lambda: not active.saved)
    await ask(server, KEYLESS)
    await settled(lambda: active.rollout.step == 1, lambda: active.rollout)
    for _ in range(5):
        await server.parts.rollouts.engine.wait(10)
    assert weight_of(server) == 0.25
    assert active.rollout.state == "ramping", (
        "what is not recorded is not put in force, and what is not goes no further"
    )
    (small_disk / "ballast").unlink()
    await until(server, lambda r: r.step == 2 and r.state in ("soaking", "deciding"))
    await ask(server, KEYLESS)
    last = (await until(server, in_state(*FINAL)))[-1]
    assert [event.kind for event in last.events] == [
        "start", "validating", *("ramping", "soaking", "deciding") * 2, "promoting", "watching", "succeeded",
    ]  # fmt: skip
    await check_evidence(server)


@pytest.mark.parametrize(("plan", "state"), [(LONG, "soaking"), (WATCHED, "watching")], ids=["canary", "promoted"])
async def test_while_the_disk_is_full_a_verdict_holds_in_memory_and_is_recorded_once_there_is_room(
    pair, start_server, small_disk, plan, state
) -> None:
    server = await start_server(rollout=TICK, state=f"sqlite:///{small_disk}/state.db")
    await release_again(server)
    make = Lookups()
    async with clients(server, make, pause=0.005) as seen:
        await start(server, "1.1.0", plan)
        await until(server, in_state(state))
        (active,) = server.parts.rollouts.engine.active
        fill(small_disk)
        await settled(lambda: not active.saved)
        make.bad = True
        await settled(lambda: active.rollout.state == "aborting", lambda: active.rollout)
        await settled(lambda: "m" in server.parts.serving.policies.diverted)
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # what is asked for by hand does not undo it
            await command(server, pb.ROLLOUT_COMMAND_RESUME)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 50)
        seen.answers.clear()
        await settled(lambda: seen.answers.total() > 50)
        assert set(seen.answers) == {"1.0.0"}
        assert (await latest(server)).state == state, "as it is recorded"
        (small_disk / "ballast").unlink()
        last = (await until(server, in_state(*FINAL)))[-1]
        assert last.state == "rolled_back"
        assert [e.kind for e in last.events][-3:] == ["verdict", "aborting", "rolled_back"]
        await settled(lambda: "m" not in server.parts.serving.policies.diverted)
    await check_evidence(server)
    assert server.parts.serving.policies.current["m"].state.policy == Policy(Version(1))


async def release_again(server) -> None:
    """Releases the baseline in a state store of the test's own."""
    async with control_of(server) as control:
        await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version="1.0.0"))


async def test_a_record_that_cannot_be_read_stops_no_other_models_rollout(publish_model, start_server, models) -> None:
    for name in ("m", "other"):
        publish_model(name, "1.0.0", scaled(2))
        publish_model(name, "1.1.0", scaled(2), release=False)
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", LONG, model="other")
    await until(server, in_state("soaking"), model="other")
    with StateStore.open(Settings(models=models).state_url) as store:
        (record,) = store.rollouts("other")
        _rewrite(store, "other", dict(record.document) | {"schema": 99})
    await start(server, "1.1.0", LONG)
    assert (await until(server, in_state("soaking")))[-1].state == "soaking"


def _rewrite(store: StateStore, model: str, document) -> None:
    """Has a record be as a later release would have written it."""
    with store._database.writing() as connection:
        values = {"document": json.dumps(document), "driver": "a later release", "number": 10**6}
        connection.execute(update(schema.rollouts).where(schema.rollouts.c.model == model).values(**values))


async def test_a_reason_of_any_letters_stops_nothing(plain_pair, start_server) -> None:
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", LONG, actor="\N{ROCKET}" * 64, reason="\N{ROCKET}" * 256)
    await until(server, in_state("soaking"))
    await put(server, policy("1.0.0"), actor="\N{ROCKET}" * 64, reason="\N{ROCKET}" * 256)
    held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert "\N{ROCKET}" * 256 in held.pauses[0]
    before = server.parts.rollouts.engine.last_tick
    await settled(lambda: server.parts.rollouts.engine.last_tick > before)
