"""A state store that is lost or damaged under a running server: told within seconds, and nothing pretends success."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import pytest
from semver import Version

from answer_wire import run
from onnx_models import scaled
from routing_wire import control_of, policy
from turnout.config import RepositorySettings, Settings
from turnout.errors import ConfigError, UnavailableError
from turnout.serving.versions.availability import Dependency
from turnout.state.store import StateStore
from turnout_proto.v1 import control_pb2 as pb
from turnout_proto.v1 import traffic_pb2
from wire import X, refusal, request, stub_of

ONE, TWO = Version(1), Version(2)


@pytest.fixture
def database(models: Path) -> Path:
    """The file of the state store."""
    return models / ".turnout" / "state.db"


@pytest.fixture
def serve(publish_model, start_server):
    """Starts a server of 1.0.0, which is released, and the candidate 2.0.0."""

    async def start():
        publish_model("m", "1.0.0", scaled(1))
        publish_model("m", "2.0.0", scaled(2), release=False)
        return await start_server(repository=RepositorySettings(poll_interval_s=0.05))

    return start


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.02)


def _reason(server) -> str:
    return server.parts.serving.availability.reasons.get(Dependency.STATE_STORE, "")


def _rewrite(database: Path, change: Callable[[bytes], bytes]) -> None:
    content = database.read_bytes()
    with database.open("r+b") as file:
        file.write(change(content))
        file.truncate(len(change(content)))


def _checkpoint(database: Path) -> None:
    """Brings all into the file itself, so that its pages are what is read."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _replace(database: Path) -> None:
    other = database.with_name("other.db")
    StateStore.open(f"sqlite:///{other}").close()
    other.rename(database)


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "its file is gone"),
    "with its directory": (lambda database: shutil.rmtree(database.parent), "its file is gone"),
    "moved away": (lambda database: database.rename(database.with_name("moved.db")), "its file is gone"),
    "replaced": (_replace, "its file was replaced"),
    "cut to nothing": (lambda database: os.truncate(database, 0), "its file was cut off"),
    "cut in half": (lambda database: os.truncate(database, database.stat().st_size // 2), "its file is damaged"),
    "overwritten": (
        lambda database: _rewrite(database, lambda data: data[:4096] + b"\xa5" * (len(data) - 4096)),
        "its file is damaged",
    ),
    "no database": (
        lambda database: _rewrite(database, lambda data: b"\0" * len(data)),
        "its file is",
    ),
    "without its write-ahead log": (
        lambda database: database.with_name("state.db-wal").unlink(),
        "its -wal or -shm file was removed",
    ),
}


@pytest.mark.parametrize("how", LOSSES)
async def test_a_store_that_is_lost_is_told_refuses_changes_and_serving_goes_on(capsys, serve, database, how) -> None:
    server = await serve()
    lose, says = LOSSES[how]
    _checkpoint(database)
    lose(database)
    async with control_of(server) as control, stub_of(server) as stub:
        # At once, whether or not it was noticed before.
        if how != "overwritten":
            message = await refusal(control.ReleaseVersion(pb.ReleaseVersionRequest(model="m", version="2.0.0")))
            assert message.code is grpc.StatusCode.UNAVAILABLE, message
        await _until(lambda: says in _reason(server))
        for change in (
            control.ReleaseVersion(pb.ReleaseVersionRequest(model="m", version="2.0.0")),
            control.YankVersion(pb.YankVersionRequest(model="m", version="2.0.0", reason="it leaks")),
            control.SetTag(pb.SetTagRequest(model="m", tag="stable", version="1.0.0")),
            control.SetTraffic(traffic_pb2.SetTrafficRequest(model="m", policy=policy("1.0.0"))),
            control.ListEvents(pb.ListEventsRequest(model="m")),
        ):
            message = await refusal(change)
            assert message.code is grpc.StatusCode.UNAVAILABLE
            assert message.message.startswith("the state store cannot be used: ")
            assert str(database) not in message.message
        assert (await stub.Predict(request("m", x=X))).route.version == "1.0.0"
        assert (await stub.Predict(request("m", "2.0.0", x=X))).route.version == "2.0.0"
    shown = await run(server, database, "show", "m")
    assert (shown.code, "2.0.0" in shown.out) == (0, True), shown.err
    async with httpx.AsyncClient() as client:
        ready = await client.get(f"http://{server.http}/readyz")
        metrics = (await client.get(f"http://{server.http}/metrics")).text
    assert (ready.status_code, ready.text.splitlines()[0]) == (200, "ready")
    assert says in ready.text
    assert "turnout_state_store_available 0.0" in metrics
    assert capsys.readouterr().err.count('"event": "state store unavailable"') >= 1
    assert not server.failed.done()


async def test_a_store_that_is_put_back_goes_on(capsys, serve, database) -> None:
    server = await serve()
    database.rename(database.with_name("moved.db"))
    await _until(lambda: "its file is gone" in _reason(server))
    database.with_name("moved.db").rename(database)
    await _until(lambda: not _reason(server))
    async with control_of(server) as control:
        assert (await control.ReleaseVersion(pb.ReleaseVersionRequest(model="m", version="2.0.0"))).changed
    assert capsys.readouterr().err.count('"event": "state store available again"') == 1


async def test_a_copy_of_the_store_in_its_place_goes_on_and_an_older_one_does_not(serve, database) -> None:
    server = await serve()
    _checkpoint(database)
    old = shutil.copy(database, database.with_name("old.db"))
    async with control_of(server) as control:
        await control.ReleaseVersion(pb.ReleaseVersionRequest(model="m", version="2.0.0"))
    await _until(lambda: server.services.catalog.snapshot.models["m"].model_releases.release_status(TWO) == "released")
    _checkpoint(database)
    same = shutil.copy(database, database.with_name("same.db"))
    await asyncio.to_thread(server.parts.rollouts.release_writer._store.revision)
    for path in ("state.db-wal", "state.db-shm"):
        database.with_name(path).unlink()
    Path(same).rename(database)
    await _until(lambda: not _reason(server))
    tag = server.parts.rollouts.release_writer._store.set_tag
    await asyncio.to_thread(tag, "m", "stable", ONE, actor="test", reason="")
    with StateStore.open(Settings(models=database.parent.parent).state_url) as store:
        assert store.release_state().of("m").tags == {"stable": ONE}
    Path(old).rename(database)
    await _until(lambda: "was replaced by one that does not continue the log" in _reason(server))
    with pytest.raises(UnavailableError, match="remove its -wal and -shm files"):
        await asyncio.to_thread(tag, "m", "stable", TWO, actor="test", reason="")


async def test_a_store_whose_tables_are_gone_is_told(serve, database) -> None:
    server = await serve()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE standings")
        connection.execute("UPDATE revision SET number = number + 1")
        connection.commit()
    await _until(lambda: "its tables are gone" in _reason(server))
    assert not server.failed.done()


async def test_a_start_with_versions_and_a_new_store_says_what_to_do(capsys, serve, start_server, database) -> None:
    await serve()
    for path in database.parent.iterdir():
        path.unlink()
    capsys.readouterr()
    again = await start_server()
    message = capsys.readouterr().err
    assert "the state store is new, and the repository holds 2 versions" in message
    assert "restore a backup" in message
    assert "turnout release NAME@VERSION" in message
    async with httpx.AsyncClient() as client:
        ready = await client.get(f"http://{again.http}/readyz")
    assert "the state store was new when this server started" in ready.text
    async with control_of(again) as control:
        await control.ReleaseVersion(pb.ReleaseVersionRequest(model="m", version="1.0.0"))
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{again.http}/readyz")).text == "ready\n"


@pytest.mark.parametrize("content", [b"\0" * 8192, b"not a database at all" * 1000])
def test_a_start_with_a_damaged_store_says_what_to_do(database, content) -> None:
    database.parent.mkdir(parents=True)
    database.write_bytes(content)
    with pytest.raises(ConfigError, match=r"restore a backup of it, or move it away and start anew"):
        StateStore.open(f"sqlite:///{database}")
