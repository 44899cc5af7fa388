"""A yank of what a rollback would go back to says so, and what is left to go back to."""

import asyncio

import grpc
import pytest
from semver import Version

from onnx_models import scaled
from routing_wire import control_of, policy, put
from turnout.config import Settings
from turnout.registry.storage.repository import Repository
from turnout.releases.release import ReleaseStateWriter
from turnout.state.store import StateStore
from turnout_proto.v1 import control_pb2 as pb
from wire import refusal


@pytest.fixture
def three(publish_model) -> None:
    for major in (1, 2, 3):
        publish_model("m", f"{major}.0.0", scaled(major))


async def _yank(control, version: str) -> list[str]:
    request = pb.YankVersionRequest(model="m", version=version, reason="it leaks")
    return list((await control.YankVersion(request)).warnings)


async def test_a_yank_of_the_rollback_s_target_names_the_next_and_the_last_one_says_that_none_is_left(
    three, start_server
) -> None:
    server = await start_server()
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        await put(server, policy(version))
    async with control_of(server) as control:
        (message,) = await _yank(control, "2.0.0")
        assert message.startswith("a rollback of m would have gone back to 2.0.0; now it goes back to 1.0.0")
        (message,) = await _yank(control, "1.0.0")
        assert message == ("a rollback of m would have gone back to 1.0.0; now there is no version left to go back to")


async def test_a_yank_of_what_no_rollback_goes_back_to_says_nothing(three, publish_model, start_server) -> None:
    publish_model("m", "4.0.0", scaled(4), release=False)
    server = await start_server()
    await put(server, policy("3.0.0"))
    async with control_of(server) as control:
        assert await _yank(control, "4.0.0") == []


def test_releases_alone_have_a_way_back_too(three, models) -> None:
    with StateStore.open(Settings(models=models).state_url) as store:
        release_writer = ReleaseStateWriter(Repository(models), store)
        assert release_writer.rollback_target("m").targets == (Version(2), Version(1))
        release_writer.yank("m", Version(2), actor="ada", reason="it leaks")
        back = release_writer.rollback_target("m")
        assert back.targets == (Version(1),)
        assert "now it goes back to 1.0.0" in back.yank_warning("m", Version(2))
        assert back.yank_warning("m", Version(1)) == "", "it was not yanked"


@pytest.mark.parametrize("frozen", [False, True])
async def test_whoever_follows_the_advice_of_a_refused_unload_gets_there(three, start_server, frozen) -> None:
    """The commands that the refusal names, run as they stand."""
    server = await start_server()
    await put(server, policy("1.0.0", {"3.0.0": 0.5}, v2_0_0=0.25))
    traffic = server.parts.serving.traffic
    if frozen:
        from turnout.routing.traffic import ChangeOrigin

        await traffic.freeze("m", True, ChangeOrigin("ada", "for the weekend"))
    async with control_of(server) as control:
        canary = await refusal(control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="2.0.0")))
        assert canary.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "`turnout traffic set m --shadow 3.0.0=50%`" in canary.message
        await _run(server, canary.message)
        await control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="2.0.0"))
        shadow = await refusal(control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="3.0.0")))
        await _run(server, shadow.message)
        baseline = await refusal(control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="1.0.0")))
        await _run(server, baseline.message, OTHER="3.0.0")
        await control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="1.0.0"))


async def test_whoever_follows_the_advice_about_a_rollout_gets_there(three, start_server) -> None:
    from turnout.config import RolloutSettings
    from turnout.rollout.plan import Plan

    server = await start_server(rollout=RolloutSettings(tick_s=0.05))
    await put(server, policy("1.0.0"))
    plan = Plan.from_json({"steps": [{"weight": 0.1, "soak_s": 600}]})
    await server.parts.rollouts.engine.commands.start("m", Version(2), plan, "ada", "")
    async with control_of(server) as control, asyncio.timeout(100):
        refused = await refusal(control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="2.0.0")))
        assert "`turnout rollout abort m --attempt 1`" in refused.message
        await _run(server, refused.message)
        while server.parts.rollouts.engine.running:
            await asyncio.sleep(0.02)
        await control.UnloadVersion(pb.UnloadVersionRequest(model="m", version="2.0.0"))


async def _run(server, message: str, **names: str) -> None:
    """Runs the commands that a message names up to the first alternative, with names in place of its capitals."""
    from typer.testing import CliRunner

    from turnout.cli.main import application

    commands = message.split(", another released version")[0].split("`")[1::2]
    for command in commands:
        terms = [names.get(term, term) for term in command.split()[1:]]
        done = await asyncio.to_thread(
            CliRunner().invoke, application(), [*terms, "--server", str(server.control), "--reason", "as it says"]
        )
        assert done.exit_code == 0, f"{command}: {done.output}"
