"""Releases, the policy and rollbacks keep in step: on a real server, by the commands that operators type."""

import asyncio
import time

import onnx
import pytest
from onnx import TensorProto
from semver import Version

from answer_wire import answered, check_printed, run
from onnx_models import identity, scaled
from rollout_wire import TICK, settled
from routing_wire import policy, put
from turnout.config import Settings
from turnout.registry.storage.repository import Repository
from turnout.rollout.changes.operations import Operations
from turnout.state.event_log.events import EventKind
from turnout.state.store import StateStore


@pytest.fixture
async def server(publish_model, start_server):
    """A model `m` with 1.0.0 released, and candidates of a patch, two minors and two majors."""
    for version, factor in (("1.0.0", 1), ("1.0.1", 1), ("1.1.0", 2), ("1.2.0", 3), ("2.0.0", 4)):
        publish_model("m", version, scaled(factor), release=version == "1.0.0")
    publish_model("m", "3.0.0", identity(TensorProto.INT32), release=False)
    return await start_server(rollout=TICK)


def epoch_of(server) -> int:
    applied = server.parts.serving.policies.current.get("m")
    return applied.epoch if applied else 0


async def done(server, models, *arguments: str, local: bool = False) -> str:
    """Runs a command that has to succeed, and holds what it says about answers against the answers."""
    message = await run(server, models, *arguments, local=local)
    assert message.code == 0, message.err
    if local:
        revision = revision_of(models)
        await settled(lambda: server.parts.serving.manager._inventory.revision >= revision)
        await server.parts.serving.traffic.refresh()
    await check_printed(server, message.out)
    return message.out


def revision_of(models) -> int:
    with StateStore.open(Settings(models=models).state_url) as store:
        return store.revision()


async def refused(server, models, *arguments: str, local: bool = False) -> str:
    message = await run(server, models, *arguments, local=local)
    assert message.code == 1, message.out
    return message.err


async def plain(server) -> set[str]:
    return set(await answered(server))


# Release


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_without_a_policy_the_highest_release_answers(server, models, local) -> None:
    await done(server, models, "release", "m@1.1.0", local=local)
    assert await plain(server) == {"1.1.0"}
    message = await done(server, models, "release", "m@1.0.1", local=local)
    assert "plain requests stay with 1.1.0" in message
    assert epoch_of(server) == 0


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_with_a_policy_a_higher_release_is_the_baseline_in_one_epoch(server, models, local) -> None:
    await put(server, policy("1.0.0"))
    message = await done(server, models, "release", "m@1.1.0", local=local)
    assert "answers plain requests in place of 1.0.0" in message
    assert (await plain(server), epoch_of(server)) == ({"1.1.0"}, 2)
    again = await done(server, models, "release", "m@1.1.0", local=local)
    assert "was released before; nothing changed" in again
    assert epoch_of(server) == 2


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_a_lower_release_answers_ranges_alone_and_says_so(server, models, local) -> None:
    await done(server, models, "release", "m@2.0.0")
    await put(server, policy("2.0.0"))
    message = await done(server, models, "release", "m@1.2.0", local=local)
    assert "for ranges; plain requests stay with 2.0.0" in message
    assert await plain(server) == {"2.0.0"}
    assert set(await answered(server, "^1")) == {"1.2.0"}


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
@pytest.mark.parametrize("has_policy", [True, False], ids=["policy", "none"])
async def test_without_traffic_plain_requests_stay_as_they_are(server, models, local, has_policy) -> None:
    if has_policy:
        await put(server, policy("1.0.0"))
    await done(server, models, "release", "m@2.0.0", "--no-traffic", local=local)
    assert await plain(server) == {"1.0.0"}
    assert set(await answered(server, "latest")) == {"2.0.0"}
    await done(server, models, "release", "m@2.0.0", local=local)  # told so now, it has the traffic too
    assert await plain(server) == {"2.0.0"}


async def test_a_prerelease_answers_only_ranges_that_name_it(server, models, publish_model) -> None:
    publish_model("m", "2.1.0-rc.1", scaled(9), release=False)
    await server.parts.serving.manager.refresh()
    await server.parts.serving.manager.load("m", Version.parse("2.1.0-rc.1"))
    await put(server, policy("1.0.0"))
    message = await done(server, models, "release", "m@2.1.0-rc.1")
    assert "plain requests stay with 1.0.0" in message
    assert set(await answered(server, "^2.1.0-rc.1")) == {"2.1.0-rc.1"}


async def test_what_is_frozen_is_not_released_into(server, models) -> None:
    await put(server, policy("1.0.0"))
    await done(server, models, "traffic", "freeze", "m")
    for version in ("1.1.0", "1.0.1"):
        assert "`turnout traffic freeze m --off`" in await refused(server, models, "release", f"m@{version}")
    await done(server, models, "traffic", "freeze", "m", "--off")
    await done(server, models, "release", "m@1.1.0")


async def test_canaries_set_by_hand_keep_their_share_and_one_that_is_released_becomes_the_baseline(
    server, models
) -> None:
    await put(server, policy("1.0.0", v1_1_0=0.2, v1_2_0=0.05))
    await done(server, models, "release", "m@1.1.0")
    assert set(await answered(server)) == {"1.1.0", "1.2.0"}
    applied = server.parts.serving.policies.current["m"].state.policy
    assert [(str(c.version), c.weight) for c in applied.canaries] == [("1.2.0", 500)]


async def test_a_release_that_a_canary_does_not_fit_is_refused(server, models) -> None:
    await put(server, policy("1.0.0", v1_1_0=0.2))
    assert "1.1.0, which has a part in the traffic of m, does not fit" in await refused(
        server, models, "release", "m@3.0.0"
    )
    assert epoch_of(server) == 1


async def test_what_a_server_has_not_loaded_yet_takes_over_once_it_is_ready(
    server, models, publish_model, start_server
) -> None:
    """A release in the state store moves the policy before any server has read the new version from disk."""
    await put(server, policy("1.0.0"))
    over = asyncio.Event()
    seen: set[str] = set()

    async def ask_on() -> None:
        while not over.is_set():
            seen.update(await answered(server))
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask_on())
    publish_model("m", "2.1.0", scaled(7), release=False)
    with StateStore.open(Settings(models=models).state_url) as store:
        await asyncio.to_thread(
            Operations(Repository(models), store).release, "m", Version(2, 1), actor="ann", reason=""
        )
    await settled(lambda: "2.1.0" in seen, lambda: seen)
    over.set()
    await asking
    assert seen == {"1.0.0", "2.1.0"}


async def test_a_publish_that_releases_follows_the_rule(server, models, tmp_path) -> None:
    await put(server, policy("1.0.0"))
    onnx.save(scaled(3), tmp_path / "new.onnx")
    message = await run(server, models, "publish", "m", "2.3.0", str(tmp_path / "new.onnx"), "--release", local=True)
    assert message.code == 0, message.err
    await settled(lambda: epoch_of(server) == 2)
    await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    await settled_plain(server, {"2.3.0"})


async def settled_plain(server, expected: set[str]) -> None:
    deadline = time.monotonic() + 100
    while (answering := await plain(server)) != expected:
        assert time.monotonic() < deadline, answering


# Withdraw


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
async def test_a_release_is_withdrawn(server, models, local) -> None:
    await done(server, models, "release", "m@1.1.0")
    message = await done(server, models, "withdraw", "m@1.1.0", "--reason", "too early", local=local)
    assert "m 1.1.0 is a candidate again" in message
    assert await plain(server) == {"1.0.0"}
    await put(server, policy("1.0.0"))
    assert "`turnout rollback m`" in await refused(server, models, "withdraw", "m@1.0.0", "--reason", "no")


# Rollback


async def test_rollbacks_go_back_one_by_one_and_never_to_what_was_gone_back_from(server, models) -> None:
    for version in ("1.1.0", "1.2.0"):
        await done(server, models, "release", f"m@{version}")
    await put(server, policy("1.2.0"))
    message = await done(server, models, "rollback", "m", "--reason", "bad")
    assert "m went back to 1.1.0; 1.2.0 is no longer released" in message
    assert await plain(server) == {"1.1.0"}
    assert set(await answered(server, "latest")) == {"1.1.0"}
    assert set(await answered(server, "^1.1")) == {"1.1.0"}
    assert set(await answered(server, "1.2.0")) == {"1.2.0"}, "pins still reach it"
    await done(server, models, "rollback", "m", "--reason", "bad too")
    assert await plain(server) == {"1.0.0"}
    error = await refused(server, models, "rollback", "m", "--reason", "further")
    assert "there is nothing to go back to" in error
    assert "1.1.0 is a candidate" in error
    assert await plain(server) == {"1.0.0"}
    await done(server, models, "release", "m@1.1.0")
    assert await plain(server) == {"1.1.0"}
    await done(server, models, "rollback", "m", "--reason", "still bad")
    assert await plain(server) == {"1.0.0"}


async def test_without_a_policy_a_rollback_takes_the_last_release_back(server, models) -> None:
    await done(server, models, "release", "m@1.1.0")
    await done(server, models, "rollback", "m", "--reason", "bad")
    assert (await plain(server), epoch_of(server)) == ({"1.0.0"}, 0)
    await done(server, models, "release", "m@1.2.0")
    assert await plain(server) == {"1.2.0"}, "without a policy, releases go on as before"


async def test_a_rollback_takes_canaries_set_by_hand_along_and_says_the_truth(server, models) -> None:
    await done(server, models, "release", "m@1.1.0")
    await put(server, policy("1.0.0"))
    await put(server, policy("1.1.0", v1_2_0=0.05))
    message = await done(server, models, "rollback", "m", "--reason", "bad")
    assert await answered(server) == {"1.0.0": 100}
    assert "plain requests: 1.0.0;" in message


async def test_a_rollback_skips_what_was_yanked(server, models) -> None:
    for version in ("1.1.0", "1.2.0"):
        await done(server, models, "release", f"m@{version}")
    await done(server, models, "yank", "m@1.1.0", "--reason", "leaks", local=True)
    await done(server, models, "rollback", "m", "--reason", "bad")
    assert await plain(server) == {"1.0.0"}


async def test_what_is_gone_back_from_may_stay_released(server, models) -> None:
    await put(server, policy("1.0.0"))
    await done(server, models, "release", "m@1.1.0")
    await done(server, models, "rollback", "m", "--reason", "load", "--keep-released")
    assert await plain(server) == {"1.0.0"}
    assert set(await answered(server, "latest")) == {"1.1.0"}
    await refused(server, models, "rollback", "m", "--reason", "again")
    assert await plain(server) == {"1.0.0"}


async def test_a_rollback_is_taken_in_a_freeze_and_recorded_with_its_reason(server, models) -> None:
    await done(server, models, "release", "m@1.1.0")
    await put(server, policy("1.1.0"))
    await done(server, models, "traffic", "freeze", "m")
    await done(server, models, "rollback", "m", "--reason", "customers complain")
    assert await plain(server) == {"1.0.0"}
    with StateStore.open(Settings(models=models).state_url) as store:
        policy_event, withdrawn = reversed(store.events("m", 2))
        assert (policy_event.kind, withdrawn.kind) == (EventKind.POLICY_CHANGED, EventKind.WITHDRAWN)
        assert (withdrawn.subject, withdrawn.reason) == ("1.1.0", "customers complain")
        assert not store.audit().differences


async def test_a_version_that_is_not_ready_is_not_gone_back_to(server, models) -> None:
    await put(server, policy("1.0.0"))
    await done(server, models, "release", "m@1.1.0")
    assert (await run(server, models, "unload", "m@1.0.0")).code == 0
    assert "`turnout load m@1.0.0` first" in await refused(server, models, "rollback", "m", "--reason", "bad")
    assert await plain(server) == {"1.1.0"}


# What the others print


async def test_every_command_says_who_answers_what_and_is_right(server, models) -> None:
    await done(server, models, "traffic", "set", "m", "--baseline", "1.0.0", "--canary", "1.1.0=10%")
    await done(server, models, "traffic", "ramp", "m", "1.1.0=30%")
    await done(server, models, "tag", "m", "stable", "1.0.1", local=True)
    await done(server, models, "tag", "m", "stable", "--delete", local=True)
    await done(server, models, "yank", "m@1.2.0", "--reason", "leaks", local=True)
    await done(server, models, "unyank", "m@1.2.0", "--reason", "no", "--i-know-why", local=True)
    await done(server, models, "traffic", "revert", "m", "1")
    await done(server, models, "traffic", "clear", "m")
