"""Rollouts whose record this release cannot read: they harm nothing else, and there is a way out that messages name."""

import json

import pytest
from sqlalchemy import select, update

from answer_wire import answered, check_printed, run
from onnx_models import scaled
from rollout_wire import FINAL, LONG, TICK, in_state, latest, settled, start, until
from routing_wire import scrape
from turnout.config import Settings
from turnout.state.database import schema
from turnout.state.store import StateStore

pytestmark = pytest.mark.slow

WAY_OUT = "`turnout rollout abort m --discard`"


def changed(**changes):
    return lambda body: json.dumps({**body, **changes})


def planned(**changes):
    return lambda body: json.dumps({**body, "plan": {**body["plan"], **changes}})


def without(key):
    return lambda body: json.dumps({k: v for k, v in body.items() if k != key})


MUTATIONS = {
    "a later schema": changed(schema=99),
    "a later state": changed(state="canarying"),
    "an unknown key of the plan": planned(sparkle=True),
    "a plan of another kind": changed(plan=[1, 2]),
    "no plan": without("plan"),
    "no candidate": without("candidate"),
    "a candidate that is none": changed(candidate="newest"),
    "a step beyond the plan": changed(step=99),
    "a weight beyond 1": changed(weight=7),
    "a number that is none": changed(epoch="many"),
    "a pause that is none": changed(pauses=[["operator"] * 9]),
    "evidence of nothing": changed(evidence={}),
    "infinite evidence": lambda body: json.dumps({**body, "evidence": {**body["evidence"], "left": float("inf")}}),
    "another model's": changed(model="n"),
    "another attempt's": changed(attempt=9),
    "half of it": lambda body: json.dumps(body)[: len(json.dumps(body)) // 2],
    "nothing": lambda _: "",
    "a list": lambda _: "[]",
    "null": lambda _: "null",
    "too deep": lambda _: "[" * 100_000,
}


@pytest.fixture
async def server(publish_model, start_server):
    for version, factor in (("1.0.0", 1), ("1.1.0", 2), ("1.2.0", 3)):
        publish_model("m", version, scaled(factor), release=version == "1.0.0")
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    return server


def documents(models) -> list[tuple[str, str]]:
    """State and document of each rollout, as they are in the database."""
    with StateStore.open(Settings(models=models).state_url) as store, store._database.reading() as connection:
        table = schema.rollouts.c
        return [tuple(row) for row in connection.execute(select(table.state, table.document).order_by(table.attempt))]


async def damage(server, models, mutation) -> str:
    """Has the record of the rollout be another one; returns it, once the server has seen it."""
    with StateStore.open(Settings(models=models).state_url) as store:
        (record,) = store.rollouts("m")
        text = mutation(dict(record.document))
        with store._database.writing() as connection:
            values = {"document": text, "number": 10**6}
            connection.execute(update(schema.rollouts).where(schema.rollouts.c.model == "m").values(**values))
    await settled(lambda: server.parts.rollouts.engine.unreadable)
    return text


async def refused(server, models, *arguments: str, local: bool = False) -> str:
    message = await run(server, models, *arguments, local=local)
    assert message.code == 1, message.out
    return message.err


@pytest.mark.parametrize("name", MUTATIONS)
async def test_it_is_told_harms_nothing_and_can_be_ended(server, models, name) -> None:
    text = await damage(server, models, MUTATIONS[name])
    assert set(await answered(server)) == {"1.0.0", "1.1.0"}, "the policy as it is stored"
    status = await run(server, models, "rollout", "status", "m")
    assert WAY_OUT in status.out
    assert WAY_OUT in (await run(server, models, "rollout", "status")).out
    assert (await scrape(server))["turnout_rollout_unreadable", "model=m"] == 1
    for command in (
        ("rollout", "abort", "m"),
        ("rollout", "watch", "m"),
        ("rollout", "promote", "m"),
        ("rollout", "start", "m", "--to", "1.2.0"),
        ("rollout", "explain", "m"),
        ("release", "m@1.2.0"),
    ):
        assert WAY_OUT.removesuffix("`") in await refused(server, models, *command), command
    assert "--discard" in await refused(server, models, "yank", "m@1.1.0", "--reason", "bad", local=True)
    message = await run(
        server, models, "rollout", "abort", "m", "--discard", "--actor", "ann", "--reason", "a downgrade"
    )
    assert message.code == 0, message.err
    await check_printed(server, message.out)
    assert documents(models) == [("failed", text)]
    assert (await latest_told(server)).state == "failed"
    again = await run(server, models, "rollout", "abort", "m", "--discard")
    assert (again.code, "no active rollout of m is unreadable" in again.err) == (1, True)
    back = await run(server, models, "rollback", "m", "--reason", "to be sure")
    assert back.code == 0, back.err
    assert await answered(server) == {"1.0.0": 100}
    begun = await run(server, models, "rollout", "start", "m", "--to", "1.2.0")
    assert begun.code == 0, begun.err
    await until(server, in_state("validating", "soaking", "ramping"))
    with StateStore.open(Settings(models=models).state_url) as store:
        assert not store.audit().differences


async def latest_told(server):
    return (await until(server, in_state(*FINAL)))[-1]


@pytest.mark.parametrize("name", ["a later schema", "half of it", "an unknown key of the plan"])
async def test_a_rollback_needs_no_plan(server, models, name) -> None:
    text = await damage(server, models, MUTATIONS[name])
    message = await run(server, models, "rollback", "m", "--reason", "customers complain")
    assert message.code == 0, message.err
    assert await answered(server) == {"1.0.0": 100}
    assert documents(models) == [("failed", text)]
    assert not server.parts.rollouts.engine.unreadable


async def test_what_can_be_read_is_not_discarded(server, models) -> None:
    assert "abort it without --discard" in await refused(server, models, "rollout", "abort", "m", "--discard")
    assert (await latest(server)).state == "soaking"


async def test_a_policy_that_cannot_be_read_is_told_and_replaced(server, models) -> None:
    """The same lock-out, by the other document: a policy of a later release."""
    with StateStore.open(Settings(models=models).state_url) as store:
        record = store.policies()["m"]
        store.put_policy(
            "m", {**record.document, "schema": 99}, expected_epoch=record.epoch, action="set", actor="bob", reason=""
        )
    await settled(lambda: server.parts.serving.traffic._unreadable)
    assert set(await answered(server)) == {"1.0.0", "1.1.0"}
    assert "`turnout traffic set m --baseline VERSION`" in await refused(server, models, "release", "m@1.2.0")
    message = await run(server, models, "traffic", "set", "m", "--baseline", "1.0.0")
    assert message.code == 0, message.err
    assert await answered(server) == {"1.0.0": 100}
