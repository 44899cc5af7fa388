"""A state store that has lost its latest changes, as a PostgreSQL replica that becomes the primary may have."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from onnx_models import scaled
from published import Publish
from rollout_wire import settled
from routing_wire import ask, control_of, policy, put
from started_servers import StartServer
from turnout_proto.v1 import control_pb2
from turnout_proto.v1 import rollout_pb2 as pb


def lose(models: Path, since: int) -> None:
    """Removes all changes after revision `since` from the state store."""
    with closing(sqlite3.connect(models / ".turnout" / "state.db")) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DELETE FROM policies WHERE revision > ?", [since])
        connection.execute("DELETE FROM events WHERE id > ?", [since])
        connection.execute("DELETE FROM standings WHERE version = '1.1.0'")
        connection.execute("UPDATE revision SET number = ?", [since])


@pytest.mark.parametrize("epochs", [0, 1])
async def test_a_server_follows_a_store_that_lost_its_latest_changes(
    models: Path, publish_model: Publish, start_server: StartServer, epochs: int
) -> None:
    for version, factor in (("1.0.0", 2.0), ("1.1.0", 3.0)):
        publish_model("m", version, scaled(factor), release=version == "1.0.0")
    server = await start_server()
    store, policies, catalog = server.parts.base.store, server.parts.serving.policies, server.services.catalog
    for _ in range(epochs):
        await put(server, policy("1.0.0"))
    kept = store.revision()
    async with control_of(server) as control:
        await control.ReleaseVersion(control_pb2.ReleaseVersionRequest(model="m", version="1.1.0"))
    await put(server, policy("1.1.0"))
    assert {one.version for one in await ask(server, [""] * 4)} == {"1.1.0"}
    lose(models, kept)
    await settled(lambda: ("m" in policies.current) == bool(epochs) and server_epoch(server) == epochs)
    await settled(lambda: catalog.snapshot.model("m").model_releases == store.release_state().of("m"))
    assert {one.version for one in await ask(server, [""] * 4)} == {"1.0.0"}
    await put(server, policy("1.0.0", v1_1_0=0.5))
    assert server_epoch(server) == epochs + 1 == store.policies()["m"].epoch
    assert {one.version for one in await ask(server, [""] * 20)} == {"1.0.0", "1.1.0"}
    async with control_of(server) as control:
        await control.RollBack(pb.RollBackRequest(model="m", version="1.0.0"))
    assert {one.version for one in await ask(server, [""] * 20)} == {"1.0.0"}


def server_epoch(server) -> int:
    applied = server.parts.serving.policies.current.get("m")
    return 0 if applied is None else applied.epoch
