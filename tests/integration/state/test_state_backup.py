"""Backups of the state store, of either database into either, and the server that goes on with one."""

import json
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from semver import Version
from sqlalchemy import select

from command_line import run
from onnx_models import scaled
from postgres_fixture import PostgresServer
from rollout_wire import settled
from routing_wire import policy, put
from started_servers import StartServer
from turnout.errors import AlreadyExistsError, ChangeRefused, ConfigError, NotFoundError
from turnout.state.backup import Backup, back_up, restore
from turnout.state.database import migrations
from turnout.state.database.engine import Database, Location
from turnout.state.database.schema import METADATA
from turnout.state.servers import servers_snapshot
from turnout.state.store import StateStore
from wire import X, request, stub_of

pytest_plugins = ["postgres_fixture"]

V1, V2 = Version(1, 0, 0), Version(2, 0, 0)
PASSING = {"servers", "rollout_counts"}


def filled(url: str, models: int = 3) -> None:
    """Makes a store with something in most tables."""
    with StateStore.open(url) as store:
        for number in range(models):
            name = f"m{number}"
            store.release(name, V1, actor="ann", reason="naïve, 漢字")
            store.set_tag(name, "stable", V1, actor="ann", reason="")
            store.put_policy(name, {"baseline": "1.0.0"}, expected_epoch=0, action="set", actor="bob", reason="")


def tables(url: str) -> dict[str, list[tuple[object, ...]]]:
    with closing(Database(Location.parse(url))) as database, database.reading() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in METADATA.sorted_tables
            if table.name not in PASSING
        }


@pytest.fixture
def other_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Gives the URL of a new store in a database of a kind."""

    def give(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/restored/state.db"
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server.new_database()

    return give


@pytest.mark.parametrize("into", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_backup_holds_every_row_of_either_database_and_goes_into_either(
    state_url: str, into: str, other_url: Callable[[str], str], tmp_path: Path
) -> None:
    filled(state_url)
    file = tmp_path / "backup.db"
    made = back_up(state_url, file)
    assert (made.schema, made.events, made.models, made.revision) == (migrations.HEAD, 9, 3, 9)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    url = other_url(into)
    done = restore(file, url)
    assert (done.before, done.differences) == (None, ())
    assert tables(url) == tables(state_url)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*backup*")) == ["backup.db"]
    with StateStore.open(url) as store:  # it goes on where it was
        assert not store.audit().chain.faults
        store.release("m9", V1, actor="ann", reason="")
        assert store.revision() == 10


def test_a_store_with_more_rows_than_are_copied_at_once_comes_whole(
    monkeypatch: pytest.MonkeyPatch, state_url: str, tmp_path: Path
) -> None:
    monkeypatch.setattr("turnout.state.backup._ROWS", 4)
    filled(state_url, models=5)
    back_up(state_url, tmp_path / "backup.db")
    restore(tmp_path / "backup.db", f"sqlite:///{tmp_path}/restored.db")
    assert tables(f"sqlite:///{tmp_path}/restored.db") == tables(state_url)


def test_backups_while_others_write_are_each_of_one_moment(state_url: str, tmp_path: Path) -> None:
    filled(state_url, models=1)
    stop = threading.Event()

    def write() -> None:
        with StateStore.open(state_url) as store:
            for number in range(2000):
                if stop.is_set():
                    return
                store.release("busy", Version(1, 0, number), actor="ann", reason="x" * 500)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made: list[Backup] = []
        while len(made) < 6 or made[-1].events == made[0].events:
            assert writer.is_alive(), "it was not written meanwhile"
            made.append(back_up(state_url, tmp_path / f"{len(made)}.db"))
    finally:
        stop.set()
        writer.join()
    for number, one in enumerate(made):
        assert one.events == one.revision
        url = f"sqlite:///{tmp_path}/restored-{number}.db"
        restore(tmp_path / f"{number}.db", url)
        with StateStore.open(url) as store:
            audit = store.audit()
            assert (audit.chain.events, audit.chain.faults, audit.differences) == (one.events, (), ())


def _revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())


@pytest.mark.parametrize("revision", _revisions())
def test_a_store_of_any_earlier_release_is_backed_up_as_it_is_and_restored_as_this_one(
    revision: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with closing(Database(Location.parse(url))) as database, database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "UPDATE revision SET number = 2",
            "INSERT INTO standings VALUES ('magika', '3.2.0', 'released')",
            "INSERT INTO tags VALUES ('magika', 'stable', '3.2.0')",
            "INSERT INTO events VALUES "
            "(1, '2026-03-01T10:00:00.000250Z', 'magika', 'released', '3.2.0', 'ada', '', '{\"version\":\"3.2.0\"}'),"
            "(2, '2026-03-01T10:00:02.000250Z', 'magika', 'tag_set', 'stable', 'bob', 'faster', "
            '\'{"previous":null,"tag":"stable","version":"3.2.0"}\')',
        ):
            connection.exec_driver_sql(statement)
        command.upgrade(config, revision)
    made = back_up(url, tmp_path / "backup.db")
    assert (made.schema, made.events) == (revision, 2)
    with closing(Database(Location.parse(url))) as database, database.reading() as connection:
        assert migrations.installed(connection) == revision, "a backup changes nothing"
    done = restore(tmp_path / "backup.db", f"sqlite:///{tmp_path}/restored.db")
    assert (done.backup.schema, done.differences) == (migrations.HEAD, ())
    with StateStore.open(f"sqlite:///{tmp_path}/restored.db") as store:
        assert str(store.release_state().of("magika").tags["stable"]) == "3.2.0"
        assert store.audit().chain.faults == ()


@pytest.fixture
def backup_file(tmp_path: Path) -> Path:
    filled(f"sqlite:///{tmp_path}/made.db", 1)
    back_up(f"sqlite:///{tmp_path}/made.db", tmp_path / "backup.db")
    return tmp_path / "backup.db"


def test_what_is_no_sound_backup_is_refused_and_changes_nothing(backup_file: Path, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/state.db"

    def damaged(name: str, change: Callable[[Path], object]) -> Path:
        copy = tmp_path / f"{name}.db"
        shutil.copy(backup_file, copy)
        change(copy)
        return copy

    def sql(*statements: str) -> Callable[[Path], None]:
        def change(file: Path) -> None:
            with closing(sqlite3.connect(file)) as connection, connection:
                for statement in statements:
                    connection.execute(statement)

        return change

    def middle(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
        file.write_bytes(data)

    cases = [
        (tmp_path / "none.db", NotFoundError, "there is no file"),
        (tmp_path, NotFoundError, "there is no file"),
        (damaged("text", lambda f: f.write_text("a backup")), ConfigError, "not a backup of a state store"),
        (damaged("empty", lambda f: f.write_bytes(b"")), ConfigError, "not a backup of a state store"),
        (damaged("half", lambda f: f.write_bytes(f.read_bytes()[:9000])), ConfigError, "half.db is"),
        (damaged("middle", middle), ConfigError, "middle.db is"),
        (damaged("other", sql("DROP TABLE events")), ConfigError, "not a backup of a state store"),
        (damaged("later", sql("UPDATE alembic_version SET version_num = '0999'")), ConfigError, "knows none after"),
        (
            damaged("forged", sql("DROP TRIGGER events_no_update", "UPDATE events SET actor = 'eve' WHERE id = 2")),
            ConfigError,
            "is not what was written (event 2",
        ),
        (
            damaged("cut", sql("DROP TRIGGER events_no_delete", "DELETE FROM events WHERE id = 2")),
            ConfigError,
            "is not what was written (event",
        ),
    ]
    for file, kind, terms in cases:
        with pytest.raises(kind) as raised:
            restore(file, target)
        assert terms in raised.value.message, raised.value.message
    assert not (tmp_path / "state.db").exists()


def test_nothing_is_overwritten_unless_that_is_said_and_then_it_is_kept(backup_file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with StateStore.open(url) as store:
        store.release("mine", V1, actor="ann", reason="")
    mine = tables(url)
    with pytest.raises(AlreadyExistsError, match="name a new file"):
        back_up(url, backup_file)
    with pytest.raises(ChangeRefused, match="--replace keeps it in a file beside it"):
        restore(backup_file, url)
    assert tables(url) == mine
    done = restore(backup_file, url, replace=True)
    assert done.before == tmp_path / "state.db.before-restore-1"
    assert tables(url) == tables(f"sqlite:///{tmp_path}/made.db")
    assert restore(done.before, url, replace=True).before == tmp_path / "state.db.before-restore-2"
    assert tables(url) == mine


def test_where_there_is_nothing_to_back_up_or_no_room_for_it_that_is_said(backup_file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no state store"):
        back_up(f"sqlite:///{tmp_path}/none/state.db", tmp_path / "a.db")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        back_up(f"sqlite:///{tmp_path}/made.db", tmp_path / "none" / "a.db")


@pytest.mark.slow
def test_postgresql_is_never_replaced_and_another_release_s_is_not_read(
    postgres_server: PostgresServer, backup_file: Path, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    with pytest.raises(NotFoundError, match="there is no state store in postgresql"):
        back_up(url, tmp_path / "a.db")
    with pytest.raises(ChangeRefused, match="make an empty one"):
        restore(backup_file, url, replace=True)
    restore(backup_file, url)
    with pytest.raises(ChangeRefused, match="holds tables already"):
        restore(backup_file, url)
    with closing(Database(Location.parse(url))) as database, database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0005'")
    with pytest.raises(ConfigError, match="or with pg_dump"):
        back_up(url, tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()


def servers_on(url: str) -> list[str]:
    with closing(Database(Location.parse(url))) as database, database.reading() as connection:
        return [one.name for one in servers_snapshot(connection, "").servers]


async def test_a_server_is_backed_up_while_it_runs_and_another_goes_on_with_that(
    publish_model, models: Path, start_server: StartServer, tmp_path: Path
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3))
    server = await start_server(rollout={"tick_s": 0.1})
    epoch = (await put(server, policy("1.0.0"))).epoch
    store = f"sqlite:///{models}/.turnout/state.db"
    await settled(lambda: servers_on(store))
    file = tmp_path / "backup.db"
    done = run("state", "backup", file, "--models", models, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"] == 1
    refused = run("state", "restore", file, "--models", models, "--replace")
    assert refused.returncode == 1
    assert "servers run on sqlite:///" in refused.stderr
    assert "stop them first" in refused.stderr

    # The database is lost: the repository and the backup are what is left.
    elsewhere = f"sqlite:///{tmp_path}/elsewhere/state.db"
    restored = run("state", "restore", file, "--models", models, "--state", elsewhere)
    assert restored.returncode == 0, restored.stderr
    assert "turnout verify" in restored.stdout
    assert run("verify", "--models", models, "--state", elsewhere).returncode == 0
    again = await start_server(state=elsewhere)
    async with stub_of(again) as stub:
        answer = await stub.Predict(request("m", x=X))
    assert (answer.route.version, answer.route.epoch) == ("1.0.0", epoch)
