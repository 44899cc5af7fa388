"""kill -9 at each step of a publish to where versions live that do not live in a directory."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from processes import running, turnout
from published import RUN_NOTHING
from remote_stores import NEEDS_REGISTRY, RemoteStore, StoppingProxy, running_store
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.remote import oci
from turnout.registry.remote.repository import RemoteRepository
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.releases.adoption import AdoptionStore
from turnout.state.database.engine import sqlite_url
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

V1 = Version(1)

SETTLE = 60.0
"""Longer than a busy machine takes to write a tag. Nobody waits for so long, since no publisher here has a rival."""

NO_WAIT = """
import time
from types import SimpleNamespace
from turnout.registry.remote import oci
oci.time = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=lambda _: None)
"""
PUBLISH = (
    NO_WAIT
    + """
from turnout.__main__ import main
main()
"""
)


@pytest.fixture(scope="module", params=["s3", pytest.param("oci", marks=NEEDS_REGISTRY)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStore]:
    with running_store(request.param, tmp_path_factory.mktemp(request.param)) as store:
        yield store.apart()


def test_a_publish_that_is_killed_at_any_write_leaves_a_whole_version_or_none_and_the_next_one_succeeds(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a whole publish is the last one that the store sees of one: once before it, then after each.

    Each publish goes to a place of its own, or each would read what all before it have written.
    """
    cache, numbers = tmp_path / "cache", count(1)
    monkeypatch.setattr(oci, "time", oci.time)  # undone at the end
    exec(NO_WAIT, {})
    settles = {"TURNOUT_REPOSITORY__OCI_SETTLE_S": str(SETTLE)}
    StateStore.open(sqlite_url(tmp_path / "empty.db")).close()

    def place(name: str) -> tuple[RemoteStore, str, Path]:
        apart, state = store.apart(), tmp_path / f"{name}.db"
        shutil.copy(tmp_path / "empty.db", state)
        with closing(apart.open(tmp_path / "plans")) as opened:
            assert isinstance(opened, RemoteRepository)
            opened._store.replace("gates.toml", RUN_NOTHING.encode())
        # Other bytes each time: a registry's files are one pool for all of its repositories.
        return apart, sqlite_url(state), onnx_models.save(onnx_models.scaled(next(numbers)), tmp_path / f"{name}.onnx")

    at, state, source = place("whole")
    with StoppingProxy(store.endpoint) as proxy:
        environment = at.through(proxy).environment(cache, state) | settles
        with running(PUBLISH, "publish", "m", "1.0.0", source, log=tmp_path / "log", **environment) as process:
            process.join(120)
            assert process.exitcode == 0, (tmp_path / "log").read_text()
        writes = list(proxy.writes)
        assert any("manifest" in one for one in writes)
    seen: list[bool] = []
    for number in range(-1, len(writes)):
        at, state, file = place(f"step-{number}")
        with StoppingProxy(store.endpoint, stop_at=max(number, 0), forward_first=number >= 0) as proxy:
            environment = at.through(proxy).environment(cache, state) | settles
            log = tmp_path / f"{number}.log"
            with running(PUBLISH, "publish", "m", "1.0.0", file, log=log, **environment) as process:
                while process.is_alive() and not proxy.stopped.wait(0.05):
                    pass
                if not proxy.stopped.is_set():  # it found written what the first one wrote
                    assert process.exitcode == 0, log.read_text()
                    break
                process.kill()
                process.join(60)
                assert process.exitcode == -9
        with closing(at.open(tmp_path / "reader")) as reader:
            listing = reader.scan()
            assert not listing.problems
            seen.append(bool(listing.versions("m")))
            if seen[-1]:
                reader.verify_stored("m", V1)
                reader.verify("m", V1)
        with (
            closing(at.open(tmp_path / "elsewhere", oci_settle_s=SETTLE)) as other,
            StateStore.open(state) as log_of_all,
        ):
            recorder = AdoptionStore(other, log_of_all, "ada", "")
            done = publish(other, PublishRequest("m", V1, file), recorded=recorder.record)
            recorder.settle(done.created, Published(done.manifest, done.digest))
            assert done.created is not seen[-1]
            assert ("m", "1.0.0") in log_of_all.published(), "it is recorded, whoever was killed"
            assert other.verify_stored("m", V1).digest == done.digest
        for name, value in (at.environment(tmp_path / "last", state) | settles).items():
            monkeypatch.setenv(name, value)
        assert json.loads(turnout("verify", "--json").stdout)["ok"]
    assert seen == sorted(seen), "once it exists, it exists"
    assert True in seen
    assert False in seen
    assert len(seen) >= len(writes) - 2
    for root in (cache / "repositories").iterdir():  # one for each address of the store
        Repository(root).sweep()
        assert not list(root.glob(".staging/*/version")), "what the killed ones staged is swept"
