"""The registry under fire: killed at every step, twenty at once, and no room left."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from processes import running
from published import RUN_NOTHING
from turnout.errors import Conflict, Exhausted, UnavailableError
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.signing.keys import PrivateKey
from turnout.registry.storage.repository import Repository
from turnout.releases.adoption import AdoptionStore
from turnout.releases.release import ReleaseStateWriter
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest_plugins = ["postgres_fixture"]

V1 = Version(1)
WHO = {"actor": "ada", "reason": ""}

# What follows forks off one process that has imported everything, and has done each thing once: a process for each of a
# hundred runs would import for a hundred seconds. Nothing in the parent starts a thread.
COMMON = """
import contextlib, gc, time, io, json, os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from turnout.cli.registry import audit, verify
from turnout.cli.releases import log
from turnout.cli.publish import command as publish, sign
from turnout.cli.main import application
from turnout.state.database import migrations
from typer.main import get_command

application = get_command(application())  # 0.1 s, once
sys.stdout = sys.stderr  # which is what whoever started this reads

def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            application([*map(str, arguments), "--json"])
        except SystemExit as end:
            return end.code or 0, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()

def in_child(work):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            text = json.dumps(work())
        except BaseException as error:
            import traceback
            text = json.dumps({"died": traceback.format_exc()})
        with os.fdopen(writer, "w") as pipe:
            pipe.write(text)
        os._exit(0)
    os.close(writer)
    return pid, os.fdopen(reader)

def end(child):
    pid, pipe = child
    with pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else {"killed": os.WTERMSIG(status)}

def alone():
    # What a process does once, such as its imports, was done in this one, and no child has to do it again.
    until = time.monotonic() + 60
    while len(os.listdir("/proc/self/task")) > 1:  # one that was joined is the kernel's for a moment longer
        assert time.monotonic() < until, "this process has threads, which no fork survives"
        time.sleep(0.01)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
"""

# A step is whatever changes something that outlives the process: a file of the repository, or a row of the state store.
KILLED = (
    COMMON
    + """
import shutil

folder, source, key, database = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.chmod", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def store_of(root):
    # A database of its own beside the repository: the file that was copied with it, or a copy of the template.
    return ["--models", root, *(["--state", f"{database}_{root.name}"] if database else [])]

def copy(root):
    shutil.copytree(folder / "template", root)
    if database:
        import psycopg
        server, _, template = database.rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {template}_{root.name} TEMPLATE {template}")

def publishing(root, die_at):
    def run():
        steps = []  # whether each was one of the store
        def step(of_store):
            steps.append(of_store)
            if len(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        def audited(name, arguments):
            if name == "open":
                path, _, flags = arguments
                if isinstance(path, (str, bytes)) and str(root) in os.fsdecode(path) and flags & WRITING:
                    step(False)
            elif name in CHANGES:
                step(False)
        def executed(connection, cursor, statement, *_):
            if not statement.startswith(("SELECT", "PRAGMA")):
                step(True)
        sys.addaudithook(audited)
        event.listen(Engine, "before_cursor_execute", executed)
        event.listen(Engine, "commit", lambda c: step(True))
        code, out, err = command(*publish_arguments(root))
        return {"code": code, "err": err, "steps": steps}
    return run

def look(root):
    code, out, err = command("verify", *store_of(root))
    return {"code": code, "err": err, **json.loads(out)}

def afterwards(root):
    # In one process, which is another than the one that died.
    return {"seen": look(root), "again": publishing(root, 0)(), "final": look(root)}

def publish_arguments(root):
    return "publish", "m", "1.0.0", source, *store_of(root), "--sign-key", key, "--release"

copy(folder / "first")
code, out, err = command(*publish_arguments(folder / "first"))
assert code == 0, err
assert look(folder / "first")["ok"]
alone()
copy(folder / "whole")
whole = end(in_child(publishing(folder / "whole", 0)))
print(json.dumps(whole))
# Each step of the store, and each state of the store with a file half done; with SQLite, each step of files as well.
chosen = [n for n, kind in enumerate(whole["steps"], 1) if not database or True in whole["steps"][max(0, n - 2) : n]]
for die_at in [*chosen, len(whole["steps"]) + 1]:
    root = folder / str(die_at)
    copy(root)
    first = end(in_child(publishing(root, die_at)))
    print(json.dumps({"step": die_at, "first": first, **end(in_child(lambda: afterwards(root)))}), flush=True)
"""
)

CROWD = (
    COMMON
    + """
models, state, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
START = os.pipe()

def wait_for_all():
    os.close(START[1])
    os.read(START[0], 1)  # end of file once the parent lets go

def publisher(number):
    def run():
        wait_for_all()
        version = f"1.{number // 2}.0"
        source = folder / f"{number}.onnx"
        code, out, err = command("publish", "m", version, source, "--models", models, "--state", state)
        return {"code": code, "version": version, "err": err and json.loads(err)["error"]["kind"]}
    return run

def mover(name):
    def run():
        wait_for_all()
        won = []
        for place in range(5):
            arguments = ("tag", "t", "stable", f"1.0.{place + 1}", "--expect", f"1.0.{place}", "--actor", name)
            code, out, err = command(*arguments, "--models", models, "--state", state)
            won.append("moved" if code == 0 else json.loads(err)["error"]["kind"])
        return won
    return run

warm = ("--models", folder / "warm", "--state", f"sqlite:///{folder}/warm.db")
assert command("publish", "m", "1.0.0", folder / "0.onnx", *warm)[0] == 0
assert command("tag", "m", "stable", "1.0.0", *warm)[0] == 0
if state.startswith("postgresql"):
    import sqlalchemy.dialects.postgresql.psycopg
alone()
publishers = [in_child(publisher(number)) for number in range(20)]
movers = [in_child(mover(name)) for name in ("left", "right")]
os.close(START[1])
print(json.dumps({"publishers": [end(c) for c in publishers], "movers": [end(c) for c in movers]}))
"""
)


def run(program: str, *arguments: str | Path, log: Path) -> list[dict]:
    """Runs one of the programs above to its end, and returns what it printed."""
    with running(program, *arguments, log=log) as process:
        process.join(580)
        assert process.exitcode == 0, log.read_text()
    return [json.loads(line) for line in log.read_text().splitlines()]


def left_over(root: Path) -> list[str]:
    """What publishes left in the staging directory, beside the lock."""
    return [name for name in os.listdir(root / ".staging") if name != ".lock"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_publish_that_is_killed_at_any_step_is_wholly_there_or_not_at_all(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    PrivateKey.create(tmp_path / "key.pem")
    folder = tmp_path / "repositories"
    template = folder / "template"
    template.mkdir(parents=True)
    (template / "gates.toml").write_text(RUN_NOTHING)
    shared = "" if database == "sqlite" else request.getfixturevalue("postgres_server").new_database()
    StateStore.open(shared or f"sqlite:///{template}/.turnout/state.db").close()
    whole, *killed, last = run(KILLED, folder, source, tmp_path / "key.pem", shared, log=tmp_path / "log")
    assert (whole["code"], last["first"]) == (0, whole), "there is no step after the last"
    died_at = [one["step"] for one in killed]
    of_store = [number for number, kind in enumerate(whole["steps"], 1) if kind]
    assert set(died_at) >= set(of_store) | ({*range(1, len(whole["steps"]) + 1)} if database == "sqlite" else set())
    assert len(of_store) > 10
    assert len(died_at) > len(of_store)
    for one in killed:
        where = f"killed at step {one['step']}"
        assert one["first"] == {"killed": 9}, where
        # Half a version is a fault, or a directory that is none; a version without its event is recorded by verify.
        assert "died" not in one, one["died"]
        assert one["seen"]["ok"] is True, (where, one["seen"])
        assert one["again"]["code"] == 0, (where, one["again"])
        final = one["final"]
        assert final["ok"] is True, (where, final)
        (version,) = final["versions"]
        assert list(version["signatures"].values()) == ["unknown key"], where
        assert final["log"]["recorded"] == final["log"]["unrecorded"] == [], where
    before = [bool(one["seen"]["versions"]) for one in killed]
    assert before == sorted(before), "there is one step before which the version is not there and after which it is"
    assert True in before
    recorded = [one["step"] for one in killed if (one["seen"]["log"] or {}).get("recorded")]
    assert recorded, "some died between the rename and the event, and verify recorded them"
    for root in folder.iterdir():
        if root == template:
            continue
        Repository(root).sweep()
        assert left_over(root) == []


def test_twenty_publishers_and_two_movers_of_one_tag_lose_nothing(state_url: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "gates.toml").write_text(RUN_NOTHING)
    repository = Repository(models)
    for number in range(20):
        onnx_models.save(onnx_models.scaled(number), tmp_path / f"{number}.onnx")
    with StateStore.open(state_url) as store:
        for patch in range(6):
            recorder = AdoptionStore(repository, store, "ada", "")
            wanted = PublishRequest("t", Version(1, 0, patch), tmp_path / "1.onnx")
            publish(repository, wanted, recorded=recorder.record)
        ReleaseStateWriter(repository, store).set_tag("t", "stable", V1, **WHO)
    (found,) = run(CROWD, models, state_url, tmp_path, log=tmp_path / "log")

    outcomes: dict[str, list[str]] = {}
    for one in found["publishers"]:
        assert "died" not in one, one
        outcomes.setdefault(one["version"], []).append(one["err"] or "published")
    assert len(outcomes) == 10
    assert all(sorted(pair) == ["AlreadyExists", "published"] for pair in outcomes.values()), outcomes

    left, right = found["movers"]
    moved = [(a == "moved") + (b == "moved") for a, b in zip(left, right, strict=True)]
    assert set(left) | set(right) <= {"moved", "Conflict"}
    with StateStore.open(state_url) as store:
        audit = store.audit()
        history = store.tag_history("t", "stable")[::-1]
        published = [event.subject for event in store.events(limit=1000) if event.kind == "published"]
    assert (audit.chain.faults, audit.differences) == ((), ())
    assert sorted(published) == sorted([f"1.{n}.0" for n in range(10)] + [f"1.0.{n}" for n in range(6)])
    assert [event.payload["previous"] for event in history] == [None, *(e.payload["version"] for e in history[:-1])]
    assert len(history) == 1 + sum(moved)
    assert max(moved) == 1, "nobody moved it from a place that it had left"
    for one in repository.published():
        repository.verify(one.manifest.model, one.manifest.version, expected=one.digest)
    assert left_over(models) == []


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of so many bytes."""
    path.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """Leaves no byte free on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
        try:
            while True:
                file.write(b"\0" * 512)
        except OSError:
            return filler


def tags_until_full(store: StateStore) -> int:
    """Sets tags until the disk of the store is full, and returns how many were answered."""
    for number in range(10_000):  # what is written ahead has some room of its own
        try:
            store.set_tag("m", f"t{number}", V1, actor="ada", reason="r" * 1024)
        except UnavailableError as error:
            if error.message != "the state store cannot be used: its disk is full":
                raise
            return number
    raise AssertionError("the disk never was full")


def test_a_full_disk_is_told_and_keeps_nothing_of_the_version(tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.matmul(800), tmp_path / "big.onnx")
    with small_disk(tmp_path / "disk", "2m") as disk:
        repository = Repository(disk / "models")
        with pytest.raises(Exhausted, match="no room left"):
            publish(repository, PublishRequest("m", V1, source))
        assert repository.scan().published == ()
        assert left_over(repository.root) == []
        small = onnx_models.save(onnx_models.scaled(1), tmp_path / "small.onnx")
        assert publish(repository, PublishRequest("m", V1, small)).created, "what fits is published"
        state = f"sqlite:///{tmp_path}/state.db"
        StateStore.open(state).close()
        command = [sys.executable, "-m", "turnout", "publish", "m", "2.0.0", str(source)]
        command += ["--models", str(repository.root), "--state", state]
        message = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (message.returncode, message.stderr) == (1, "error: the repository has no room left for this version\n")


def test_a_full_disk_of_the_state_store_loses_no_change_that_was_answered(tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.scaled(1), tmp_path / "m.onnx")
    repository = Repository(tmp_path / "models")
    with small_disk(tmp_path / "disk", "2m") as disk, StateStore.open(f"sqlite:///{disk}/state.db") as store:
        recorder = AdoptionStore(repository, store, "ada", "")
        publish(repository, PublishRequest("m", V1, source), recorded=recorder.record)
        fill(disk)
        answered = tags_until_full(store)
        with pytest.raises(
            UnavailableError, match=r"m 2\.0\.0 is published, but the log does not say so: .* disk is full"
        ):
            publish(repository, PublishRequest("m", Version(2), source), recorded=recorder.record)
        repository.verify("m", Version(2))
        (disk / "filler").unlink()
        assert len(store.release_state().of("m").tags) == answered
        assert store.audit().chain.faults == ()
        assert store.audit().differences == ()
        recorder.settle(created=False)
        assert set(store.published()) == {("m", "1.0.0"), ("m", "2.0.0")}
        with pytest.raises(Conflict):
            store.set_tag("m", "t0", V1, expect="9.9.9", **WHO)
