"""What operators change while a rollout runs: nothing of it is undone without a word, and it undoes no rollout so."""

import asyncio

import pytest
from semver import Version

from answer_wire import answered, check_printed, printed, run, until_answered
from onnx_models import scaled
from rollout_wire import CAREFREE, FINAL, LONG, TICK, WATCHED, in_state, latest, reached, settled, start, until
from routing_wire import ask, policy, put
from turnout.config import Settings
from turnout.errors import Conflict
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.state.store import StateStore

pytestmark = pytest.mark.slow

VALIDATES = LONG | {"metrics": ["p90"], "threshold_samples": 4000}
"""It waits for more requests than there are, and has put nothing in force yet."""

WATCHED_AT_ONCE = WATCHED | {"min_requests": 0}


@pytest.fixture
async def server(publish_model, start_server):
    for version, factor in (("1.0.0", 1), ("1.0.1", 1), ("1.1.0", 2), ("1.2.0", 3)):
        publish_model("m", version, scaled(factor), release=version == "1.0.0")
    return await start_server(rollout=TICK)


async def begin(server, state: str) -> None:
    """Rolls 1.1.0 out over 1.0.0, as far as `state`."""
    plan = {"validating": VALIDATES, "soaking": LONG, "watching": WATCHED_AT_ONCE}[state]
    await start(server, "1.1.0", plan)
    await until(server, reached("soaking" if state == "watching" else state))
    if state == "watching":
        await ask(server, [""] * 40)
        await until(server, in_state("watching"))


async def ticks(server, count: int = 5) -> None:
    for _ in range(count):
        await server.parts.rollouts.engine.wait(5)


async def done(server, models, *arguments: str, local: bool = False) -> str:
    message = await run(server, models, *arguments, local=local)
    assert message.code == 0, message.err
    return message.out


async def refused(server, models, *arguments: str, local: bool = False) -> str:
    message = await run(server, models, *arguments, local=local)
    assert message.code == 1, message.out
    return message.err


# Releases


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
@pytest.mark.parametrize("state", ["validating", "soaking", "watching"])
async def test_a_release_that_a_rollout_would_undo_is_refused_with_the_ways_out(server, models, state, local) -> None:
    await begin(server, state)
    before = await answered(server)
    error = await refused(server, models, "release", "m@1.2.0", local=local)
    assert f"a rollout runs (attempt 1, 1.1.0 over 1.0.0, {state})" in error
    for way in ("`turnout rollout abort m` first", "--supersede", "--no-traffic"):
        assert way in error
    await ticks(server)
    assert set(await answered(server)) == set(before)
    assert (await latest(server)).state == state


@pytest.mark.parametrize("local", [False, True], ids=["server", "store"])
@pytest.mark.parametrize("state", ["validating", "soaking", "watching"])
async def test_a_release_may_end_the_rollout(server, models, state, local) -> None:
    await begin(server, state)
    message = await done(server, models, "release", "m@1.2.0", "--supersede", "--reason", "a fix", local=local)
    last = (await until(server, in_state(*FINAL)))[-1]
    assert (last.state, last.verdict) == ("superseded", "1.2.0 was released: a fix")
    assert ("superseded", "1.2.0 answers plain requests: 1.2.0 was released: a fix") in [
        (e.kind, e.text) for e in last.events
    ]
    await settled(lambda: not server.parts.rollouts.engine.active)
    await until_answered(server, {"1.2.0": 100})
    await ticks(server)
    assert await answered(server) == {"1.2.0": 100}
    await check_printed(server, message)
    if state == "watching":
        assert set(await answered(server, "1.1 - 1.1")) == {"1.1.0"}, "what was promoted was not found to be bad"


@pytest.mark.parametrize("state", ["validating", "soaking"])
async def test_a_hotfix_is_not_undone_and_undoes_nothing(server, models, state) -> None:
    """1.0.1 is higher than the baseline 1.0.0 and lower than the candidate."""
    await begin(server, state)
    assert "1.0.1 of m is not released" in await refused(server, models, "release", "m@1.0.1")
    await done(server, models, "rollout", "abort", "m")
    await until(server, in_state(*FINAL))
    await done(server, models, "release", "m@1.0.1")
    await ticks(server)
    assert await answered(server) == {"1.0.1": 100}


async def test_a_release_that_takes_no_traffic_leaves_the_rollout_alone(server, models) -> None:
    await begin(server, "soaking")
    message = await done(server, models, "release", "m@1.2.0", "--no-traffic")
    assert "for ranges; plain requests stay with 1.0.0" in message
    assert "1.1.0 (25%, canary of rollout 1); latest: 1.2.0" in message
    await ticks(server)
    assert (await latest(server)).pauses == []
    await check_printed(server, message)


async def test_a_release_of_the_candidate_names_promotion(server, models) -> None:
    await begin(server, "soaking")
    assert "`turnout rollout promote m --full`" in await refused(server, models, "release", "m@1.1.0")


async def test_a_release_that_an_older_turnout_recorded_ends_the_rollout_with_the_reason(server, models) -> None:
    await begin(server, "validating")
    with StateStore.open(Settings(models=models).state_url) as store:
        store.release("m", Version(1, 0, 1), actor="bob", reason="a fix")
    last = (await until(server, in_state(*FINAL)))[-1]
    assert last.state == "superseded"
    assert "a release made 1.0.1 the baseline" in last.verdict
    await until_answered(server, {"1.0.1": 100})
    await ticks(server)
    assert await answered(server) == {"1.0.1": 100}


# Everything else


@pytest.mark.parametrize("state", ["validating", "soaking", "watching"])
@pytest.mark.parametrize(
    "change",
    [
        ("traffic", "set", "m", "--baseline", "1.0.0", "--canary", "1.2.0=10%"),
        ("traffic", "set", "m", "--baseline", "1.0.1"),
        ("traffic", "revert", "m", "1"),
        ("traffic", "clear", "m"),
    ],
    ids=["canary", "baseline", "revert", "clear"],
)
async def test_what_somebody_sets_stays_set_and_the_rollout_says_who_it_was(server, models, state, change) -> None:
    await done(server, models, "release", "m@1.0.1", "--no-traffic")  # makes a policy, epoch 1
    await begin(server, state)
    message = await done(server, models, *change, "--actor", "bob", "--reason", "mine")
    mine = server.parts.serving.policies.current["m"].state.policy
    after = (await until(server, lambda r: bool(r.pauses) or r.state in FINAL or "revert" in change))[-1]
    await ticks(server)
    assert server.parts.serving.policies.current["m"].state.policy == mine
    if after.pauses:
        assert "by bob: mine" in after.pauses[0]
    await check_printed(server, message)


@pytest.mark.parametrize("state", ["validating", "soaking", "watching"])
@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("verb", ["yank", "withdraw"])
async def test_what_a_rollout_needs_is_not_taken_from_under_it(server, models, state, version, verb) -> None:
    await begin(server, state)
    message = await run(server, models, verb, f"m@{version}", "--reason", "no", local=True)
    if verb == "withdraw" and version == "1.1.0" and state != "watching":
        assert "was not released; nothing changed" in message.out
    else:
        assert message.code == 1, message.out
    await ticks(server, 2)
    assert (await latest(server)).state == state


async def test_tags_and_other_versions_are_no_matter_of_a_rollout(server, models) -> None:
    await begin(server, "soaking")
    for command in (
        ("tag", "m", "stable", "1.1.0"),
        ("yank", "m@1.2.0", "--reason", "leaks"),
        ("unyank", "m@1.2.0", "--reason", "no", "--i-know-why"),
    ):
        message = await done(server, models, *command, local=True)
        assert "1.0.0 (75%), 1.1.0 (25%, canary of rollout 1)" in message
    await ticks(server)
    now = await latest(server)
    assert (now.state, list(now.pauses)) == ("soaking", [])


# Rollbacks


@pytest.mark.parametrize("state", ["validating", "soaking", "watching"])
async def test_a_rollback_ends_rollouts_and_canaries_and_the_release_too(server, models, state) -> None:
    await begin(server, state)
    if state == "soaking":
        await done(server, models, "traffic", "ramp", "m", "1.2.0=5%")
    message = await done(server, models, "rollback", "m", "--reason", "enough")
    assert "plain requests: 1.0.0; latest: 1.0.0; ^1: 1.0.0" in message
    assert (await latest(server)).state == "rolled_back"
    await ticks(server)
    assert await answered(server) == {"1.0.0": 100}
    assert await answered(server, ">=1.1") == {}
    assert (
        "no other version was the baseline of m before"
        in (error := await refused(server, models, "rollback", "m", "--reason", "again"))
        or "nothing to go back to" in error
    )
    assert await answered(server) == {"1.0.0": 100}


async def test_a_finished_rollout_is_gone_back_from_with_latest_and_ranges(server, models) -> None:
    await start(
        server, "1.1.0", CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.1}], "watch_s": 0, "min_requests": 0}
    )
    asking = asyncio.create_task(_ask_on(server))
    assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
    asking.cancel()
    await done(server, models, "traffic", "ramp", "m", "1.2.0=5%")
    message = await done(server, models, "rollback", "m", "--reason", "bad")
    assert printed(message) == {"": {"1.0.0": 100}, "latest": {"1.0.0": 100}, "^1": {"1.0.0": 100}}
    await check_printed(server, message)
    error = await refused(server, models, "rollback", "m", "--reason", "bad")
    assert "1.1.0 is a candidate" in error
    assert await answered(server) == {"1.0.0": 100}
    message = await done(server, models, "release", "m@1.1.0")
    assert await answered(server) == {"1.1.0": 100}
    await check_printed(server, message)


async def _ask_on(server) -> None:
    while True:
        await ask(server, [""] * 20)
        await server.parts.rollouts.engine.wait(1)


async def test_an_abort_beside_another_canary_says_who_has_what(server, models) -> None:
    await begin(server, "soaking")
    await done(server, models, "traffic", "ramp", "m", "1.2.0=5%")
    await done(server, models, "rollout", "abort", "m", "--reason", "enough")
    last = (await until(server, in_state(*FINAL)))[-1]
    assert "plain requests: 1.0.0 (95%), 1.2.0 (5%, canary): enough" in last.events[-1].text
    assert await answered(server) == {"1.0.0": 95, "1.2.0": 5}


# Races


async def test_a_change_between_a_ticks_look_and_its_put_is_not_undone(server) -> None:
    await begin(server, "soaking")
    rollouts = server.parts.rollouts.engine
    async with rollouts._rollouts.exclusive():  # no tick meanwhile
        (active,) = rollouts.active
        await put(server, policy("1.0.0"), actor="bob", reason="mine")
        await rollouts._enforcement.apply(active, 1.0)
        assert server.parts.serving.policies.current["m"].actor == "bob"
    await until(server, lambda r: bool(r.pauses))
    assert await answered(server) == {"1.0.0": 100}


async def test_a_rollout_that_was_ended_elsewhere_puts_nothing_in_force_any_more(server, models) -> None:
    """Without a policy no epoch moves where a rollout is superseded: its own number tells."""
    await begin(server, "validating")
    rollouts = server.parts.rollouts.engine
    async with rollouts._rollouts.exclusive():
        (active,) = rollouts.active
        await done(server, models, "release", "m@1.2.0", "--supersede", local=True)
        change = ChangeOrigin("turnout rollout 1", "", rollout=(1, active.number))
        with pytest.raises(Conflict, match="has been written by another server"):
            await server.parts.serving.traffic.put("m", Policy(Version(1)), change)
    await settled(lambda: not rollouts.active)
    await until_answered(server, {"1.2.0": 100})
