"""`turnout prune`: the plan first, then out of memory, then off the disk, and never used again."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from semver import Version
from typer.testing import CliRunner

from held import held_runs
from onnx_models import scaled, slow
from routing_wire import policy, put
from turnout.cli.main import application
from turnout.config import Runtime, Settings
from turnout.errors import AlreadyExistsError
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus
from turnout.state.rollouts import RolloutWrite
from turnout.state.store import StateStore
from wire import X, refusal, request, stub_of

EVERYTHING = ["--keep-releases", "1", "--newer-than", "0"]


@pytest.fixture
def five(publish_model) -> None:
    """Releases 1.0.0 to 5.0.0 of m."""
    for major in range(1, 6):
        publish_model("m", f"{major}.0.0", scaled(major))


def _prune(models: Path, *more: str, code: int = 0) -> dict:
    done = CliRunner().invoke(application(), ["prune", "--models", str(models), "--json", *EVERYTHING, *more])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def _on_disk(models: Path) -> set[str]:
    return {path.name for path in (models / "m").iterdir() if not path.name.startswith(".")}


def _adopt(models: Path) -> None:
    """Records the publications, as `turnout publish` does; the fixture publishes without."""
    assert CliRunner().invoke(application(), ["verify", "--models", str(models)]).exit_code == 0


def test_the_plan_is_shown_and_nothing_done_until_somebody_says_yes(five, models) -> None:
    _adopt(models)
    plan = _prune(models)
    assert plan["done"] is False
    goes = {one["version"]: one["goes"] for one in plan["plan"]}
    assert goes == {"5.0.0": False, "4.0.0": False, "3.0.0": True, "2.0.0": True, "1.0.0": True}
    reasons = {one["version"]: one["reasons"] for one in plan["plan"]}
    assert reasons["4.0.0"] == ["a rollback goes back to it"]
    assert plan["bytes"] == sum(one["bytes"] for one in plan["plan"] if one["goes"]) > 0
    assert _on_disk(models) == {f"{major}.0.0" for major in range(1, 6)}

    done = _prune(models, "--yes", "--reason", "room")
    assert [one["version"] for one in done["removed"]] == ["3.0.0", "2.0.0", "1.0.0"]
    assert done["freed_bytes"] == plan["bytes"]
    assert _on_disk(models) == {"4.0.0", "5.0.0"}
    assert [path.name for path in (models / ".staging").iterdir()] == [".lock"]


def test_a_pruned_number_is_never_used_again_and_the_log_says_who_and_still_verifies(five, models, tmp_path) -> None:
    _adopt(models)
    _prune(models, "--yes", "--actor", "ada", "--reason", "room")
    with StateStore.open(Settings(models=models).state_url) as store:
        events = store.events("m", 2)
        assert [(e.kind, e.subject, e.actor, e.reason) for e in events] == [
            ("pruned", "1.0.0", "ada", "room"), ("yanked", "1.0.0", "ada", "room"),
        ]  # fmt: skip
        assert store.audit().chain.faults == ()
        assert store.audit().differences == ()
        repository = Repository(models)
        offered = PublishRequest("m", Version(1), tmp_path / "m-9.onnx")
        import onnx

        onnx.save(scaled(9), offered.source)
        with pytest.raises(AlreadyExistsError, match="was yanked; publish under another version"):
            publish(repository, offered, yanked=lambda: store.release_state().of("m").yanked)
    assert CliRunner().invoke(application(), ["verify", "--models", str(models)]).exit_code == 0
    back = ["unyank", "m@1.0.0", "--i-know-why", "--reason", "x", "--models", str(models)]
    assert CliRunner().invoke(application(), back).exit_code == 1


async def test_running_servers_unload_what_goes_and_fail_no_other_request(five, models, start_server) -> None:
    server = await start_server()
    await put(server, policy("2.0.0", v5_0_0=0.1))
    stop = asyncio.Event()

    async def client() -> int:
        count = 0
        async with stub_of(server) as stub:
            while not stop.is_set():
                assert (await stub.Predict(request("m", x=X))).route.version in ("2.0.0", "5.0.0")
                count += 1
                await asyncio.sleep(0.004)
        return count

    busy = asyncio.create_task(client())
    done = await asyncio.to_thread(_prune, models, "--yes")
    assert {one["version"] for one in done["removed"]} == {"3.0.0", "4.0.0"}
    assert _on_disk(models) == {"1.0.0", "2.0.0", "5.0.0"}, "a rollback goes back to 1.0.0, and no more to 4.0.0"
    async with asyncio.timeout(100):
        left = {"1.0.0", "2.0.0", "5.0.0"}
        await server.services.catalog.wait_for(lambda s: set(map(str, s.models["m"].versions)) == left)
    stop.set()
    assert await busy > 0
    assert server.parts.serving.manager.presence.available
    assert not server.parts.serving.manager.presence.missing
    async with stub_of(server) as stub:
        assert (await refusal(stub.Predict(request("m", "4.0.0", x=X)))).code.name == "NOT_FOUND"


async def test_a_version_that_a_server_still_has_in_memory_is_not_removed_under_it(
    publish_model, models, start_server
) -> None:
    publish_model("m", "1.0.0", slow())
    for major in (2, 3):
        publish_model("m", f"{major}.0.0", scaled(major))
    server = await start_server(runtime=Runtime(runners=1, inline_threshold_us=0))
    async with stub_of(server) as stub, AsyncExitStack() as stack:
        go_on = stack.enter_context(held_runs(server, "m"))
        call = stub.Predict(request("m", "1.0.0", x=X, n=np.int64(1)))
        handle = server.services.catalog.snapshot.models["m"].versions[Version(1)].handle
        async with asyncio.timeout(100):
            while not handle.inflight:
                await asyncio.sleep(0.005)
        done = await asyncio.to_thread(lambda: _prune(models, "--yes", "--wait", "0", code=1))
        (refused,) = done["refused"]
        assert refused["version"] == "1.0.0"
        assert "is still in a server's memory" in refused["reason"]
        assert "1.0.0" in _on_disk(models)
        go_on.set()
        assert (await call).outputs, "the request under way was answered"
    async with asyncio.timeout(100):
        state = lambda s: s.models["m"].versions[Version(1)].state  # noqa: E731
        await server.services.catalog.wait_for(lambda s: state(s) is LifecycleState.UNLOADED)
    again = await asyncio.to_thread(_prune, models, "--yes")
    assert [one["version"] for one in again["removed"]] == ["1.0.0"]


def test_what_a_tag_came_to_name_since_the_plan_stays(five, models, monkeypatch) -> None:
    from turnout.releases.prune_plan import Keep
    from turnout.releases.pruner import Pruner

    _adopt(models)
    with StateStore.open(Settings(models=models).state_url) as store:
        pruner, keep = Pruner(Repository(models), store, Settings(models=models)), Keep(1, timedelta(0))
        plan = pruner.plan("m", keep, datetime.now(UTC))
        store.set_tag("m", "stable", Version(1), actor="ada", reason="")
        store.yank("m", Version(4), actor="ada", reason="it leaks", refuse=lambda _: None)
        removals = {str(r.version): r.refused for r in pruner.prune("m", plan, keep, 0, actor="ada", reason="room")}
    assert "the tag stable names it" in removals["1.0.0"]
    assert "a rollback goes back to it" in removals["3.0.0"], "4.0.0 was its target, and was yanked"
    assert removals["2.0.0"] == ""
    assert _on_disk(models) == {"1.0.0", "3.0.0", "4.0.0", "5.0.0"}


def test_ticks_of_ended_rollouts_go_after_their_time_and_those_of_running_ones_stay(models) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    with StateStore.open(Settings(models=models).state_url, now=lambda: clock[0]) as store:
        for attempt, final in ((1, True), (2, False)):
            document = {"candidate": "2.0.0", "previous": "1.0.0"}
            ticks = [{"n": n} for n in range(500)]
            write = RolloutWrite(attempt, 0, "done" if final else "ramping", final, document, "me", 60, (), ticks)
            store.put_rollout("m", write, actor="ada", reason="")
        assert store.expire_ticks(clock[0] - timedelta(days=90)) == 0
        clock[0] += timedelta(days=91)
        before = clock[0] - timedelta(days=90)
        assert [store.expire_ticks(before, most=300) for _ in range(3)] == [300, 200, 0]
        assert store.rollout_ticks("m", 1) == []
        assert len(store.rollout_ticks("m", 2)) == 500
        assert store.audit().differences == ()
        assert store.release_state().of("m").release_status(Version(1)) is ReleaseStatus.CANDIDATE
