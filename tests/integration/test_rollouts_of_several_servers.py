"""Several servers on one state store: one verdict, from what all of them saw."""

import json
from contextlib import AsyncExitStack

import pytest

from answer_wire import run
from onnx_models import look_up, look_up_safely
from rollout_wire import FINAL, LONG, TICK, Lookups, check_evidence, clients, in_state, settled, start, until
from routing_wire import policy, put, scrape

pytest_plugins = ["postgres_fixture"]

STATES = ["sqlite", "postgresql"]


@pytest.fixture
def pair(publish_model):
    """A baseline that always answers, and a candidate that raises on some requests."""
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up(), release=False)


def of(server):
    """What a server knows of the model's rollout."""
    return [r for r in server.services.rollouts.running if r.model == "m"]


async def test_what_another_server_saw_takes_the_candidate_back(pair, start_server) -> None:
    """The one that drives sees 12 healthy requests a second; of the other's, a third of the candidate's fail."""
    driver = await start_server(rollout=TICK)
    other = await start_server(rollout=TICK)
    bad = Lookups()
    async with AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(clients(driver, Lookups(), count=1, pause=0.08))
        busy = await stack.enter_async_context(clients(other, bad, count=4, pause=0.01))
        await start(driver, "1.1.0", LONG)
        await until(driver, in_state("soaking"))
        await settled(lambda: "m" in other.services.policies.current, lambda: "followed")
        assert [len(s.services.rollouts.active) for s in (driver, other)] == [1, 0]
        bad.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
        assert last.state == "rolled_back"
        assert not quiet.codes, "the driver's own requests all went well"
        await settled(lambda: not other.services.policies.current["m"].state.policy.canaries)
        harmed = busy.codes.total()
        for _ in range(2):
            busy.answers.clear()
            await settled(lambda: busy.answers.total() > 30)
        assert set(busy.answers) == {"1.0.0"}
        assert harmed < 200, busy.codes
    errors = next(m for m in last.metrics if m.name == "errors")
    assert errors.canary_bad >= 3
    await check_evidence(driver)


async def test_every_server_is_listed_with_what_it_has(pair, start_server, models) -> None:
    first = await start_server(rollout=TICK, server_name="ada")
    second = await start_server(rollout=TICK, server_name="bob")
    await put(first, policy("1.0.0", v1_1_0=0.1))
    await settled(lambda: {s.epochs.get("m") for s in first.services.rollouts.servers} == {1})
    said = await run(first, models, "servers", "m", "--json")
    listed = json.loads(said.out)
    assert listed["answered_by"] == "ada"
    assert [(s["name"], s["alive"]) for s in listed["servers"]] == [("ada", True), ("bob", True)]
    for one in listed["servers"]:
        (model,) = one["models"]
        assert sorted(model.pop("versions")) == ["1.0.0", "1.1.0"]
        assert model == {"model": "m", "epoch": 1, "behind": 0, "diverted": ""}
    shown = (await run(second, models, "servers")).out
    assert "ada" in shown
    assert "bob" in shown
    metrics = await scrape(first)
    assert metrics["turnout_servers", "state=alive"] == 2


async def test_a_server_that_is_bad_alone_is_found_and_named(pair, start_server) -> None:
    """Half of alpha is for each server's own part: what one node sees is not held against everybody's traffic."""
    good, node = Lookups(), Lookups()
    driver = await start_server(rollout=TICK, server_name="good")
    other = await start_server(rollout=TICK, server_name="bad")
    async with (
        clients(driver, good, count=3, pause=0.004),
        clients(other, node, count=1, pause=0.02),
    ):
        await start(driver, "1.1.0", LONG)
        await until(driver, in_state("soaking"))
        (active,) = driver.services.rollouts.active
        await settled(lambda: len(active.rollout.per_server.evidence) == 2, lambda: active.rollout.per_server)
        node.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
    assert last.state == "rolled_back"
    assert active.rollout.per_server.worse(active.rollout.servers_alpha) in (None, "bad")
    assert active.rollout.alpha == 0.005, "half is for all of it, half for the two parts"
