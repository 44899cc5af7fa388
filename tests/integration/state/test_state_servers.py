"""Where servers meet in the state store: reports, counts, and who may write what."""

import asyncio
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from onnx_models import scaled
from turnout.config import Settings
from turnout.errors import Conflict
from turnout.rollout.engine.exchange.peers import OtherServers
from turnout.state.database import schema
from turnout.state.event_log.events import time_text
from turnout.state.rollouts import RolloutWrite
from turnout.state.servers import CountRecord, ServerReport, ServersSnapshot
from turnout.state.store import StateStore

pytest_plugins = ["postgres_fixture"]

ADA = ServerReport("ada", "one", {"epochs": {"m": 1}}, 60.0)


@pytest.fixture
def store(state_url: str):
    # A server whose clock is a day off: nothing here goes by it.
    with closing(StateStore.open(state_url, now=lambda: datetime.now(UTC) + timedelta(days=1))) as opened:
        yield opened


def write(number: int, *, final: bool = False, counted: dict[str, int] | None = None) -> RolloutWrite:
    return RolloutWrite(1, number, "soaking", final, {"a": 1}, "ada", 20.0, counted=counted or {})


def counts(*keys: tuple[int, str]) -> list[CountRecord]:
    return [CountRecord.of("m", 1, tick, server, {"tick": tick}) for tick, server in keys]


def servers_snapshot(store: StateStore) -> ServersSnapshot:
    return store.running_rollouts()[1]


def counts_on_record(store: StateStore) -> list[tuple[int, str]]:
    return [(one.tick, one.server) for one in servers_snapshot(store).counts]


def test_a_report_told_twice_is_there_once(store) -> None:
    revision = store.revision()
    for _ in range(2):
        assert store.report_server(ADA, counts((7, "ada"), (8, "ada")))
    met = servers_snapshot(store)
    assert [(one.name, one.document) for one in met.servers] == [("ada", {"epochs": {"m": 1}})]
    assert counts_on_record(store) == [(7, "ada"), (8, "ada")]
    assert abs((met.now - datetime.now(UTC)).total_seconds()) < 60, "by the database's clock"
    assert abs((met.servers[0].seen - met.now).total_seconds()) < 60
    assert store.revision() == revision, "what servers tell one another is not a change"


@pytest.mark.parametrize("ago", [timedelta(seconds=90), timedelta(hours=-2)], ids=["silent", "clock-set-back"])
def test_a_name_has_one_server_at_a_time_and_that_of_a_killed_one_is_free_again(store, ago: timedelta) -> None:
    twin = ServerReport("ada", "two", {}, 60.0)
    assert store.report_server(ADA, ())
    assert not store.report_server(twin, counts((7, "ada")))
    assert counts_on_record(store) == [], "nothing of it is written"
    with store._database.writing() as connection:
        connection.execute(update(schema.servers).values(seen=time_text(datetime.now(UTC) - ago)))
    others = OtherServers(1.0)
    others.update(servers_snapshot(store), 0.0)
    assert [one.alive for one in others.servers] == [False]
    assert store.report_server(twin, ())
    store.leave_server("ada", "one")
    assert [one.instance for one in servers_snapshot(store).servers] == ["two"]
    store.leave_server("ada", "two")
    assert servers_snapshot(store).servers == []


def test_counts_go_with_the_write_that_took_them_and_not_without_it(store) -> None:
    store.put_rollout("m", write(0), actor="ada", reason="")
    store.report_server(ADA, counts((7, "ada"), (7, "bob"), (8, "ada"), (9, "bob")))
    with pytest.raises(Conflict):
        store.put_rollout("m", write(5, counted={"ada": 8}), actor="ada", reason="")
    assert len(counts_on_record(store)) == 4
    store.put_rollout("m", write(1, counted={"ada": 8, "bob": 7}), actor="ada", reason="")
    assert counts_on_record(store) == [(9, "bob")]
    store.put_rollout("m", write(2, final=True), actor="ada", reason="")
    assert counts_on_record(store) == []


def test_a_lease_ends_by_the_databases_clock(store) -> None:
    record = store.put_rollout("m", write(0), actor="ada", reason="")
    assert abs((record.driven_until - datetime.now(UTC)).total_seconds() - 20) < 60


def test_servers_that_are_gone_and_counts_of_ended_rollouts_are_let_go(store) -> None:
    store.put_rollout("m", write(0, final=True), actor="ada", reason="")
    store.report_server(ADA, counts((7, "ada")))  # it came after the end
    assert store.expire_servers(3600.0) == 1
    assert counts_on_record(store) == []
    assert len(servers_snapshot(store).servers) == 1
    assert store.expire_servers(0.0) == 1
    assert servers_snapshot(store).servers == []
    assert store.report_server(ADA, ())
    with store._database.writing() as connection:  # the database's clock was set back by a day
        connection.execute(update(schema.servers).values(seen=time_text(datetime.now(UTC) + timedelta(days=1))))
    assert store.expire_servers(3600.0) == 1


def test_counts_come_to_whoever_drives_the_rollout_and_to_nobody_else(store) -> None:
    store.put_rollout("m", write(0), actor="ada", reason="")
    store.report_server(ADA, counts((7, "ada"), (7, "bob")))
    assert [(one.tick, one.server) for one in store.running_rollouts("ada")[1].counts] == [(7, "ada"), (7, "bob")]
    records, met = store.running_rollouts("bob")
    assert ([one.model for one in records], met.counts) == (["m"], [])


def test_counts_of_several_rollouts_are_written_at_once_and_one_that_another_server_wrote_hinders_none(store) -> None:
    for model in ("m", "n", "o"):
        store.put_rollout(model, write(0), actor="ada", reason="")
    store.report_server(ADA, counts((7, "bob"), (8, "bob")))
    store.put_rollout("n", write(1), actor="bob", reason="")
    revision = store.revision()
    ticked = replace(write(1, counted={"bob": 7}), ticks=[{"requests": 3}])
    found = store.put_counts([("m", ticked), ("n", ticked), ("o", ticked)])
    assert [None if one is None else one.number for one in found] == [2, None, 2]
    assert [[body for *_, body in store.rollout_ticks(model, 1)] for model in ("m", "n", "o")] == [
        [{"requests": 3}], [], [{"requests": 3}],
    ]  # fmt: skip
    assert counts_on_record(store) == [(8, "bob")], "what was taken goes with it"
    assert store.revision() == revision, "nothing happened to them"
    with pytest.raises(ValueError, match="has to be told"):
        store.put_counts([("m", replace(write(2), state="aborting"))])
    assert store.rollouts("m")[0].state == "soaking"


async def test_a_server_with_nothing_to_tell_does_not_write_at_every_tick(publish_model, start_server, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(rollout={"tick_s": 0.05})
    ticks, seen, documents = 0, set(), []
    with closing(StateStore.open(Settings(models=models).state_url)) as store:
        began = time.monotonic()

        async def tick() -> None:
            nonlocal ticks
            ticks += 1
            await server.parts.rollouts.engine.wait(5)
            for server_row in servers_snapshot(store).servers:  # none before its first report
                seen.add(server_row.seen)
                documents.append(server_row.document)

        while ticks < 30 or not documents:
            await tick()
        seconds = time.monotonic() - began
        assert 1 <= len(seen) <= seconds / 0.5 + 2, "alive for 2 s each"
        assert documents[-1]["versions"] == {"m": ["1.0.0"]}
        publish_model("m", "1.1.0", scaled(2))
        async with asyncio.timeout(60):
            while "1.1.0" not in documents[-1]["versions"]["m"]:
                await tick()
