"""`turnout tag`, `yank`, `unyank` and `log` do and print the same through a server as on its state store."""

import asyncio
import json
from collections.abc import Iterator

import pytest

import command_line
from answer_wire import Said, answered, check_printed, run
from onnx_models import scaled
from turnout.config import Auth, Settings
from turnout.state.store import StateStore

HERE, THERE = "fares", "tolls"
"""The model that is changed on the state store, and the model that is changed through the server."""

CHANGES = (
    ("tag", "MODEL", "stable", "1.0.0", "--expect", "none"),
    ("tag", "MODEL", "stable", "2.0.0", "--expect", "1.0.0", "--reason", "two quiet weeks"),
    ("tag", "MODEL", "stable", "2.0.0"),
    ("tag", "MODEL", "stable", "1.0.0", "--expect", "1.0.0"),
    ("tag", "MODEL", "latest", "1.0.0"),
    ("tag", "MODEL", "beta", "7.0.0"),
    ("tag", "MODEL", "beta", "--delete"),
    ("yank", "MODEL@2.0.0", "--reason", "it leaks"),
    ("tag", "MODEL", "stable", "--delete", "--expect", "1.0.0"),
    ("tag", "MODEL", "stable", "--delete", "--expect", "2.0.0"),
    ("yank", "MODEL@2.0.0", "--reason", ""),
    ("yank", "MODEL@2.0.0", "--reason", "it leaks"),
    ("yank", "MODEL@2.0.0", "--reason", "it still leaks"),
    ("yank", "MODEL@9.0.0", "--reason", "it leaks"),
    ("yank", "other@2.0.0", "--reason", "it leaks"),
    ("unyank", "MODEL@2.0.0", "--reason", "it was the driver"),
    ("unyank", "MODEL@2.0.0", "--reason", "", "--i-know-why"),
    ("unyank", "MODEL@2.0.0", "--reason", "it was the driver", "--i-know-why"),
    ("unyank", "MODEL@2.0.0", "--reason", "it was the driver"),
    ("yank", "MODEL@1.0.0", "--reason", "too old", "--actor", "rollout/1"),
    ("yank", "MODEL@1.0.0", "--reason", "too old"),
)
"""Changes, some of them refused, each after those before it."""

READS = (
    ("log",),
    ("log", HERE),
    ("log", HERE, "--limit", "2"),
    ("log", "nobody"),
    ("log", "--head"),
    ("tag", HERE, "stable", "--history"),
    ("tag", HERE, "beta", "--history"),
)


@pytest.fixture
async def server(publish_model, start_server):
    """Two equal models with two releases each."""
    for model in (HERE, THERE):
        for version, factor in (("1.0.0", 1), ("2.0.0", 2)):
            publish_model(model, version, scaled(factor))
    return await start_server()


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
async def test_a_change_prints_the_same_through_a_server_as_on_the_store(server, models, form) -> None:
    for change in CHANGES:
        here, there = [
            await run(server, models, *_terms(change, model), *form, local=model == HERE) for model in (HERE, THERE)
        ]
        assert here.code == there.code, (change, here, there)
        # Only a command that reads a repository says which one it is.
        assert _about(there) == _about(here).replace(f" (in the repository {models})", ""), change
        if there.code == 0 and not form:
            await check_printed(server, there.out, THERE)
    with StateStore.open(Settings(models=models).state_url) as store:
        recorded = [[(e.kind, e.reason, e.actor) for e in store.events(model)] for model in (HERE, THERE)]
        assert store.release_state().of(HERE).release_statuses == store.release_state().of(THERE).release_statuses
    assert recorded[0] == recorded[1]
    assert len(recorded[0]) == len({"tag", "move", "delete", "yank", "unyank", "yank again"}) + 4, "published, released"


async def test_a_change_through_a_server_is_in_force_when_it_returns(server, models) -> None:
    assert await answered(server, "2.0.0", HERE) == {"2.0.0": 100}
    assert (await run(server, models, "yank", "fares@2.0.0", "--reason", "it leaks")).code == 0
    assert await answered(server, "", HERE) == {"1.0.0": 100}
    assert (await run(server, models, "tag", HERE, "stable", "1.0.0")).code == 0
    assert await answered(server, "stable", HERE) == {"1.0.0": 100}


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
async def test_the_log_reads_the_same_through_a_server_as_on_the_store(server, models, form) -> None:
    for change in CHANGES:
        await run(server, models, *_terms(change, HERE))
    for command in READS:
        here, there = [await run(server, models, *command, *form, local=local) for local in (True, False)]
        assert (there.code, there.out, there.err) == (here.code, here.out, here.err), command
        assert there.code == 0, there.err
    shown = [
        json.loads((await run(server, models, "show", HERE, "--json", local=local)).out) for local in (True, False)
    ]
    assert shown[0]["events"] == shown[1]["events"] != []


async def test_a_log_that_is_too_long_for_one_answer_is_refused_with_the_limit(server, models) -> None:
    refused = await run(server, models, "log", "--limit", "1001")
    assert (refused.code, refused.err) == (1, "error: limit: expected at most 1,000\n")


async def test_the_data_listener_has_no_log(server) -> None:
    shown = await asyncio.to_thread(command_line.run, "show", HERE, "--server", str(server.grpc))
    assert shown.returncode == 0, shown.stderr
    assert "CHANGE" not in shown.stdout


async def test_a_token_changes_and_reads_its_own_models_only(publish_model, models, start_server, monkeypatch) -> None:
    for model in (HERE, THERE):
        publish_model(model, "1.0.0", scaled(1))
    create = ("token", "create", "ann", "--role", "operate", "--model", HERE, "--json")
    made = await asyncio.to_thread(command_line.run, *create, "--models", str(models))
    server = await start_server(auth=Auth(enabled=True, loopback=False))
    monkeypatch.setenv("TURNOUT_TOKEN", json.loads(made.stdout)["token"])
    moved = await run(server, models, "tag", HERE, "stable", "1.0.0", "--actor", "bob")
    assert moved.code == 0, moved.err
    own = await run(server, models, "log", HERE, "--limit", "1", "--json")
    assert [event["actor"] for event in json.loads(own.out)["events"]] == ["token:ann"]
    for command in (("log",), ("log", THERE), ("log", "--head"), ("tag", THERE, "stable", "1.0.0")):
        refused = await run(server, models, *command)
        assert refused.code == 1, command
        assert "lacks the role" in refused.err, refused.err


def _terms(change: tuple[str, ...], model: str) -> Iterator[str]:
    return (term.replace("MODEL", model) for term in change)


def _about(said: Said) -> str:
    """Returns what a command printed, as if it were about MODEL; of a JSON error only its message."""
    text = said.err if said.code else said.out
    if text.startswith("{") and said.code:
        text = json.loads(text)["error"]["message"]
    return text.replace(HERE, "MODEL").replace(THERE, "MODEL")
