"""What a withdrawn version means to a running server and its clients."""

import asyncio
import io
import json
from contextlib import redirect_stderr

import grpc
import pytest
from semver import Version

from onnx_models import scaled
from routing_wire import control_of, policy, put
from turnout.config import LoadLatest, ModelOverrides, Routing
from turnout.errors import ChangeRefused
from turnout_client import Client
from turnout_proto.v1 import control_pb2 as pb
from wire import X, refusal, request, stub_of

ONE, TWO = Version(1, 0, 0), Version(2, 0, 0)
YANK = {"model": "m", "version": "2.0.0", "actor": "ada", "reason": "it leaks"}
WARN = Routing(yanked_pins="warn")


@pytest.fixture
def two_versions(publish_model) -> str:
    """Publishes 1.0.0 and 2.0.0; returns the digest of the latter."""
    publish_model("m", "1.0.0", scaled(1))
    return publish_model("m", "2.0.0", scaled(2))


async def test_ranges_and_the_empty_selector_skip_a_yanked_version(two_versions, start_server) -> None:
    server = await start_server()
    async with control_of(server) as control, stub_of(server) as stub:
        assert (await control.YankVersion(pb.YankVersionRequest(**YANK))).changed is True
        for selector in ("", ">=1", "latest"):
            assert (await stub.Predict(request("m", selector, x=X))).route.version == "1.0.0"
        refused = await refusal(stub.Predict(request("m", "^2", x=X)))
        assert (await control.YankVersion(pb.YankVersionRequest(**YANK))).changed is False
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert "2.0.0 would do, but was yanked" in refused.message


async def test_pins_to_a_yanked_version_are_refused_with_the_reason(two_versions, start_server) -> None:
    server = await start_server()
    async with control_of(server) as control, stub_of(server) as stub:
        await control.YankVersion(pb.YankVersionRequest(**YANK))
        for selector in ("2.0.0", "v2.0.0", two_versions):
            refused = await refusal(stub.Predict(request("m", selector, x=X)))
            assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refused.message == "m 2.0.0 was yanked (it leaks); pins to it are refused"


async def test_where_it_is_set_so_pins_are_answered_and_warned(two_versions, start_server) -> None:
    stderr = io.StringIO()
    with redirect_stderr(stderr):
        server = await start_server(routing=WARN, model={"m": ModelOverrides(load=LoadLatest(1))})
        async with control_of(server) as control, stub_of(server) as stub:
            await control.YankVersion(pb.YankVersionRequest(**YANK | {"reason": "it leaks für immer"}))
            await server.services.catalog.wait_for(
                lambda snapshot: all(e.state.settled for e in snapshot.models["m"].versions.values())
            )
            for selector in ("2.0.0", two_versions, "2.0.0"):
                call = stub.Predict(request("m", selector, x=X))
                answer = await call
                assert (answer.route.version, answer.route.warning) == (
                    "2.0.0",
                    "m 2.0.0 was yanked (it leaks für immer)",
                )
                metadata = dict(await call.trailing_metadata())
                assert metadata["x-turnout-warning"] == "m 2.0.0 was yanked (it leaks f?r immer)"
            for _ in range(40):
                await stub.Predict(request("m", "2.0.0", x=X))
            plain = stub.Predict(request("m", x=X))
            assert (await plain).route.warning == ""
            assert "x-turnout-warning" not in dict(await plain.trailing_metadata())

            def ask() -> tuple[str, str]:
                with Client(str(server.grpc), transport="stream") as client:
                    answered = client.predict("m", {"x": X}, version="2.0.0")
                return answered.version, answered.warning

            assert await asyncio.to_thread(ask) == ("2.0.0", "m 2.0.0 was yanked (it leaks für immer)")

    def warnings() -> list[dict[str, str]]:
        lines = map(json.loads, stderr.getvalue().splitlines())
        return [line for line in lines if line["event"] == "answered with a warning"]

    async with asyncio.timeout(100):  # another thread writes them
        while len({line["selector"] for line in warnings()}) < 2:
            await asyncio.sleep(0.01)
    warned = warnings()
    assert {(line["selector"], line["version"]) for line in warned} == {("2.0.0", "2.0.0"), (two_versions, "2.0.0")}
    assert len(warned) < 15, "once a selector and state of the world, not once a request"


async def test_what_the_policy_a_rollout_or_a_tag_needs_is_not_yanked(two_versions, start_server) -> None:
    server = await start_server()
    release_writer = server.parts.rollouts.release_writer
    await put(server, policy("1.0.0", v2_0_0=0.1))
    await asyncio.to_thread(release_writer.set_tag, "m", "stable", TWO, actor="test", reason="")
    await server.parts.serving.manager.refresh()
    async with control_of(server) as control, stub_of(server) as stub:
        refused = await refusal(control.YankVersion(pb.YankVersionRequest(**YANK)))
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.message == (
            "2.0.0 of m is not yanked: it is a canary in the policy in force (epoch 1); take it out of the policy "
            "first: `turnout traffic set m`; the tag stable names it; move or delete the tag first: `turnout "
            "tag m stable OTHER` or `turnout tag m stable --delete`"
        )
        baseline = await refusal(control.YankVersion(pb.YankVersionRequest(**YANK | {"version": "1.0.0"})))
        assert "it is the baseline in the policy in force (epoch 1)" in baseline.message
        assert (await stub.Predict(request("m", "stable", x=X))).route.version == "2.0.0"

        await put(server, policy("1.0.0"))
        await control.DeleteTag(pb.DeleteTagRequest(model="m", tag="stable", expected_version="2.0.0"))
        assert (await control.YankVersion(pb.YankVersionRequest(**YANK))).changed is True


async def test_a_yanked_version_gets_no_part_in_a_policy(two_versions, start_server) -> None:
    server = await start_server()
    async with control_of(server) as control:
        await control.YankVersion(pb.YankVersionRequest(**YANK))
    with pytest.raises(grpc.aio.AioRpcError, match=r"2\.0\.0 was yanked"):
        await put(server, policy("1.0.0", v2_0_0=0.1))


async def test_other_servers_and_commands_are_followed_by_themselves(two_versions, start_server) -> None:
    server = await start_server()
    release_writer = server.parts.rollouts.release_writer
    async with stub_of(server) as stub, asyncio.timeout(100):
        await asyncio.to_thread(release_writer.yank, "m", TWO, actor="test", reason="it leaks")
        while (await stub.Predict(request("m", x=X))).route.version != "1.0.0":
            await asyncio.sleep(0.01)


async def test_bringing_a_version_back_takes_the_flag_and_makes_it_a_candidate(two_versions, start_server) -> None:
    server = await start_server()
    async with control_of(server) as control, stub_of(server) as stub:
        await control.YankVersion(pb.YankVersionRequest(**YANK))
        back = YANK | {"reason": "it was the driver"}
        assert (await refusal(control.UnyankVersion(pb.UnyankVersionRequest(**back)))).fields == ("i_know_why",)
        changed = await control.UnyankVersion(pb.UnyankVersionRequest(**back, i_know_why=True))
        assert changed.changed is True
        await server.parts.serving.manager.load("m", TWO)
        assert (await stub.Predict(request("m", "2.0.0", x=X))).route.version == "2.0.0"
        assert (await stub.Predict(request("m", x=X))).route.version == "1.0.0"


async def test_a_tag_is_moved_over_the_wire_only_from_where_it_is_expected(two_versions, start_server) -> None:
    server = await start_server()
    async with control_of(server) as control:
        move = {"model": "m", "tag": "stable", "actor": "ada", "reason": "faster"}
        await control.SetTag(pb.SetTagRequest(**move, version="1.0.0", expected_version=""))
        late = await refusal(control.SetTag(pb.SetTagRequest(**move, version="2.0.0", expected_version="")))
        assert late.code is grpc.StatusCode.ABORTED
        assert late.message == "the tag 'stable' of m names 1.0.0 already (set by ada: faster); look again"
        await control.SetTag(pb.SetTagRequest(**move, version="2.0.0", expected_version="1.0.0"))
        gone = await refusal(control.DeleteTag(pb.DeleteTagRequest(model="m", tag="stable", expected_version="1.0.0")))
        assert gone.code is grpc.StatusCode.ABORTED


async def test_a_rollout_that_runs_holds_on_to_both_its_versions(two_versions, start_server) -> None:
    from turnout.rollout.plan import Plan

    plan = Plan.from_json({"steps": [{"weight": 0.1, "soak_s": 600}]})
    server = await start_server()
    parts = server.parts
    await put(server, policy("1.0.0"))
    await parts.rollouts.engine.commands.start("m", TWO, plan, "ada", "")
    for version, part in ((TWO, "is to make it the baseline"), (ONE, "may have to go back to it")):
        with pytest.raises(ChangeRefused, match=rf"rollout 1 {part}; abort the rollout, or wait for its end"):
            await asyncio.to_thread(parts.rollouts.release_writer.yank, "m", version, actor="ada", reason="now")


async def test_a_rollout_of_a_version_that_was_yanked_in_this_moment_is_not_begun(
    two_versions, start_server, monkeypatch
) -> None:
    from turnout.rollout.plan import Plan

    plan = Plan.from_json({"steps": [{"weight": 0.1, "soak_s": 600}]})
    server = await start_server()
    parts = server.parts
    await put(server, policy("1.0.0"))
    await asyncio.to_thread(parts.rollouts.release_writer.yank, "m", TWO, actor="ada", reason="it leaks")
    # What the server knew a moment before: it looks at its own snapshot first, which may be older than the yank.
    monkeypatch.setattr(parts.rollouts.engine._serving, "_known_refusals", lambda model, candidate: [])
    with pytest.raises(ChangeRefused, match=r"^2\.0\.0 of m was yanked$"):
        await parts.rollouts.engine.commands.start("m", TWO, plan, "ada", "")
    assert parts.rollouts.engine.running == []
