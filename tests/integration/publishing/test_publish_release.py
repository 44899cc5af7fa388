"""A publish that releases, and a look at the traffic, tell who answers from then on, as every other command does."""

import asyncio
import json
import shutil

import grpc
import pytest
from semver import Version
from typer.testing import CliRunner

from answer_wire import answered, check_printed, run
from onnx_models import scaled
from rollout_wire import TICK, settled
from routing_wire import policy, put
from turnout.cli.main import application
from turnout.config import Settings
from turnout.state.store import StateStore


@pytest.fixture
async def server(publish_model, start_server):
    """A model `m` with 1.0.0 released."""
    publish_model("m", "1.0.0", scaled(1))
    return await start_server(rollout=TICK)


@pytest.fixture
def file(tmp_path):
    """Another model's file."""
    path = tmp_path / "other.onnx"
    path.write_bytes(scaled(2).SerializeToString())
    return str(path)


async def followed(server, models) -> None:
    """Waits until the server has followed its state store."""
    with StateStore.open(Settings(models=models).state_url) as store:
        revision, published = store.revision(), {version for model, version in store.published() if model == "m"}
    await settled(lambda: server.parts.serving.manager._inventory.revision >= revision)
    await server.parts.serving.traffic.refresh()

    def loaded() -> bool:
        known = server.services.catalog.snapshot.model("m").versions.values()
        found = {entry.version_text for entry in known if entry.handle}
        return found >= published and len(found) == len(known)  # the files may be found later than the release

    await settled(loaded, limit=120)


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_a_publish_that_releases_tells_who_answers(server, models, file, local) -> None:
    await put(server, policy("1.0.0"))
    message = await run(server, models, "publish", "m", "1.1.0", file, "--release", local=local)
    assert message.code == 0, message.err
    assert "m 1.1.0 is released, and answers plain requests in place of 1.0.0" in message.out
    await followed(server, models)
    assert (await check_printed(server, message.out))[""] == {"1.1.0": 100}


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_a_publish_of_what_exists_releases_it_all_the_same(server, models, file, local) -> None:
    await put(server, policy("1.0.0"))
    assert (await run(server, models, "publish", "m", "1.1.0", file, local=local)).code == 0
    ranges = await run(server, models, "release", "m@1.1.0", "--no-traffic", local=local)
    assert "plain requests: 1.0.0; latest: 1.1.0" in ranges.out
    message = await run(server, models, "publish", "m", "1.1.0", file, "--release", "--json", local=local)
    assert message.code == 0, message.err
    answers = json.loads(message.out)["answers"]
    assert [part["version"] for part in answers["plain"]] == ["1.1.0"]
    assert set(answers["selectors"]) == {"latest", "^1"}


async def test_a_publish_without_a_release_tells_of_none(server, models, file) -> None:
    message = await run(server, models, "publish", "m", "1.1.0", file, "--json")
    assert "answers" not in json.loads(message.out)


@pytest.mark.parametrize("canary", [False, True], ids=["no policy", "canary"])
async def test_a_look_at_the_traffic_tells_who_answers(server, models, publish_model, canary) -> None:
    if canary:
        publish_model("m", "1.1.0", scaled(2), release=False)
        await server.parts.serving.manager.load("m", Version.parse("1.1.0"))
        await put(server, policy("1.0.0", v1_1_0=0.25))
    message = await run(server, models, "traffic", "show", "m")
    assert message.code == 0, message.err
    assert (await check_printed(server, message.out))[""] == ({"1.0.0": 75, "1.1.0": 25} if canary else {"1.0.0": 100})


_COMMANDS = {
    "release": ["m@1.0.0"],
    "withdraw": ["m@1.0.0", "--reason", "x"],
    "rollback": ["m", "--reason", "x"],
    "traffic": ["set", "m", "--baseline", "1.0.0"],
    "rollout": ["abort", "m"],
}


@pytest.mark.parametrize(
    ("command", "local"),
    [(name, False) for name in _COMMANDS]
    + [("release", True), ("withdraw", True), ("yank", True), ("tag", True), ("prune", True)],
)
async def test_nobody_goes_by_the_name_of_a_rollout(server, models, command, local) -> None:
    arguments = (
        _COMMANDS.get(command)
        or {
            "yank": ["m@1.0.0", "--reason", "x"],
            "tag": ["m", "stable", "1.0.0"],
            "prune": ["m", "--yes"],
        }[command]
    )
    message = await run(server, models, command, *arguments, "--actor", "turnout rollout 3", local=local)
    assert (message.code, "names that begin with 'turnout rollout' are those of rollouts" in message.err) == (
        1,
        True,
    ), message


async def test_a_client_of_the_protocol_does_not_go_by_the_name_of_a_rollout_either(server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await put(server, policy("1.0.0"), actor="turnout rollout 3")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("command", [["models"], ["show", "m"]], ids=["models", "show"])
async def test_the_default_that_is_shown_is_the_baseline(server, models, publish_model, command) -> None:
    publish_model("m", "1.1.0", scaled(2), release=False)
    assert (await run(server, models, "release", "m@1.1.0", "--no-traffic", local=True)).code == 0
    await followed(server, models)
    for local in (True, False):
        message = json.loads((await run(server, models, *command, "--json", local=local)).out)
        assert message.get("models", [message])[0]["default_version"] == "1.0.0", local


async def test_a_server_tells_which_answers_it_has_not_loaded(models, publish_model, start_server) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0", "3.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model={"m": {"load": ["1.0.0", "3"]}})
    await server.parts.serving.manager.refresh()
    await settled(lambda: not server.parts.serving.manager._tasks)
    await server.parts.serving.manager.unload("m", Version(2))
    message = await run(server, models, "traffic", "show", "m")
    assert "1.1.0 is not loaded here, so ^1 gets 1.0.0" in message.out
    assert "2.0.0 is not loaded here, so ^2 gets no version" in message.out
    assert set(await answered(server, "^1")) == {"1.0.0"}


async def test_a_state_store_that_is_made_beside_versions_is_told_of(models, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1), release=False)
    shutil.rmtree(models / ".turnout", ignore_errors=True)
    arguments = ["release", "m@1.0.0", "--models", str(models)]
    first = await asyncio.to_thread(CliRunner().invoke, application(), arguments)
    assert (first.exit_code, "a new state store was created, since there was none" in first.stderr) == (0, True)
    again = await asyncio.to_thread(CliRunner().invoke, application(), arguments)
    assert (again.exit_code, again.stderr) == (0, "")


async def test_requests_that_nothing_splits_are_not_shown_as_none(server, models) -> None:
    await put(server, policy("1.0.0"))
    await answered(server)
    (row,) = [
        line
        for line in (await run(server, models, "traffic", "show", "m")).out.splitlines()
        if line.startswith("1.0.0")
    ]
    assert row.split() == ["1.0.0", "baseline", "100%", "100%"]
