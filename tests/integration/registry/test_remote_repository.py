"""Versions that live in S3, Google Cloud Storage and an OCI registry: real servers of each, real models."""

import asyncio
import base64
import errno
import json
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from semver import Version

from remote_stores import CREDENTIALS, NEEDS_REGISTRY, RemoteStore, StoppingProxy, put
from started_servers import StartServer
from turnout.errors import (
    AlreadyExistsError,
    ChangeRefused,
    StoreUnavailable,
    TurnoutError,
    VersionNotFound,
)
from turnout.registry.publishing.publish import PublishRequest, PublishResult, publish
from turnout.registry.remote import oci
from turnout.registry.remote import repository as remote_module
from turnout.registry.remote.repository import RemoteRepository
from turnout.registry.storage import in_use
from turnout.rollout.plan import Plan
from turnout.state.database.engine import sqlite_url
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

pytest_plugins = ["remote_stores"]

V1, V2 = Version(1), Version(2)

_AWAY_SECONDS = {"s3": 8.0, "gs": 4.0, "oci": 8.0}
"""What a store may take to answer that is going to be away: gcsfs asks again and again for all of it."""


def test_what_one_machine_publishes_another_one_reads_byte_for_byte(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    result = put(repository, V1, 2, tmp_path)
    assert result.created
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert [one.digest for one in other.published()] == [result.digest]
        assert other.verify_stored("m", V1, expected=result.digest).digest == result.digest
        assert other.verify("m", V1, expected=result.digest).digest == result.digest
        ours, theirs = repository.fetch("m", V1), other.fetch("m", V1)
        assert (ours / "model.onnx").read_bytes() == (theirs / "model.onnx").read_bytes()
        assert other.cache.used_bytes == result.manifest.size


@pytest.fixture
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all requests that a proxy of the environment would be asked for fail."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            monkeypatch.setenv(spelled, "http://127.0.0.1:1")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_of_the_environment_comes_between_a_server_and_a_store_of_its_own_machine(
    store: RemoteStore, tmp_path: Path, host: str
) -> None:
    store.endpoint = store.endpoint.replace("127.0.0.1", host)
    with closing(store.open(tmp_path / "cache")) as repository:
        result = put(repository, V1, 2, tmp_path)
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert [one.digest for one in other.published()] == [result.digest]
        assert (other.fetch("m", V1) / "model.onnx").is_file()


@pytest.mark.usefixtures("no_way_out")
@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_nor_where_the_environment_says_where_the_store_is(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, store.endpoint)
    with closing(store.open(tmp_path / "cache", endpoint_url="")) as repository:
        assert put(repository, V1, 2, tmp_path).created


def test_a_version_that_was_published_since_a_listing_of_just_now_is_found(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    put(repository, V1, 2, tmp_path)
    with closing(store.open(tmp_path / "elsewhere", remote_poll_s=600)) as reader:
        assert [str(found.manifest.version) for found in reader.published()] == ["1.0.0"]
        put(repository, V2, 3, tmp_path)
        # So that this machine may take its time: the listing counts as one of just now.
        reader._listing._listed_at = time.monotonic() + 60
        assert reader.find("m", V2).manifest.version == V2
        with pytest.raises(VersionNotFound):
            reader.find("m", Version(9))


def test_the_same_content_again_changes_nothing_and_other_content_is_refused(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    first = put(repository, V1, 2, tmp_path)
    with closing(store.open(tmp_path / "elsewhere")) as other:
        again = put(other, V1, 2, tmp_path)
        assert (again.created, again.digest) == (False, first.digest)
        with pytest.raises(AlreadyExistsError, match=first.digest):
            put(other, V1, 3, tmp_path)
        with pytest.raises(AlreadyExistsError, match="in case only"):
            publish(other, PublishRequest("M", V1, tmp_path / "2.onnx"))
        with pytest.raises(AlreadyExistsError, match="build metadata"):
            put(other, Version.parse("1.0.0+b"), 2, tmp_path)


def test_of_two_who_publish_one_version_at_once_one_wins_and_the_other_is_told_whose_it_is(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has looked and is about to write the manifest when the second does all that it has to."""
    results: dict[str, PublishResult | AlreadyExistsError] = {}
    settled = threading.Event()
    clock = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=lambda _: settled.wait(60))
    monkeypatch.setattr(oci, "time", clock)  # a tag is left alone until both are written

    def run(name: str, at: RemoteStore, factor: float) -> None:
        with closing(at.open(tmp_path / name, oci_settle_s=60)) as opened:
            try:
                results[name] = put(opened, V1, factor, tmp_path)
            except AlreadyExistsError as error:
                results[name] = error

    with (
        StoppingProxy(store.endpoint, stop_at=0, stop_when=_writes_version) as before,
        StoppingProxy(store.endpoint, stop_at=0, stop_when=_writes_version, forward_first=True) as after,
    ):
        first = threading.Thread(target=run, args=("first", store.through(before), 2.0))
        first.start()
        assert before.stopped.wait(60)
        second = threading.Thread(target=run, args=("second", store.through(after), 3.0))
        second.start()
        assert after.stopped.wait(60)
        after.go_on.set()
        before.go_on.set()
        assert before.passed.wait(60)
        settled.set()
        first.join(60)
        second.join(60)
    with closing(store.open(tmp_path / "reader")) as reader:
        stands = reader.find("m", V1).digest
    (winner,) = (name for name, one in results.items() if isinstance(one, PublishResult))
    (lost,) = (one for one in results.values() if isinstance(one, AlreadyExistsError))
    assert winner == ("first" if store.kind == "oci" else "second")  # who writes last, or who writes first
    assert results[winner].digest == stands  # type: ignore[union-attr]
    assert f"was published by another publisher at the same time: it exists with other content, published {stands}" in (
        lost.message
    )


def _writes_version(method: str, path: str, body: bytes) -> bool:
    """Tells whether a request makes a version exist."""
    place = path.partition("?")[0]
    named = place.endswith(("/m/1.0.0/manifest.json", "/manifests/m__1.0.0"))
    return (method == "PUT" and named) or (method == "POST" and b"/m/1.0.0/manifest.json" in body[:1000])


async def test_a_server_serves_what_is_published_while_it_runs_and_goes_on_while_the_store_is_away(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, start_server: StartServer
) -> None:
    put(repository, V1, 2, tmp_path)
    state = sqlite_url(tmp_path / "state.db")
    with StoppingProxy(store.endpoint) as proxy:
        settings = store.through(proxy).settings(tmp_path / "served", state, timeout_s=8)
        server = await start_server(**settings)
        catalog = server.services.catalog
        ready = await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V1) == "ready"), 60)
        assert await _answer(server, "1.0.0") == [2.0, 4.0, 6.0, 8.0]
        put(repository, V2, 3, tmp_path)  # by another machine, whose state store this server does not share
        await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V2) == "ready"), 60)
        assert await _answer(server, "2.0.0") == [3.0, 6.0, 9.0, 12.0]
        proxy.away = True
        await _until_available(server, "0")
        assert await _answer(server, "1.0.0") == [2.0, 4.0, 6.0, 8.0]
        async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
            answer = await client.get("/readyz", headers={"accept": "application/json"})
            assert answer.status_code == 200
            assert "the model repository" in answer.text
            assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in answer.text
        proxy.away = False
        await _until_available(server, "1")
        assert ready


async def test_a_rollout_is_started_as_soon_as_its_candidate_is_in_the_store(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, start_server: StartServer
) -> None:
    put(repository, V1, 2, tmp_path)
    settings = store.settings(tmp_path / "served", sqlite_url(tmp_path / "state.db"), remote_poll_s=3600.0)
    server = await start_server(**settings)
    await asyncio.wait_for(server.services.catalog.wait_for(lambda s: _state(s, V1) == "ready"), 60)
    await asyncio.to_thread(server.parts.base.store.release, "m", V1, actor="ann", reason="")
    await server.parts.serving.manager.refresh()  # lists the store: the next listing is not due for long
    put(repository, V2, 3, tmp_path)
    rollout = await server.parts.rollouts.engine.commands.start("m", V2, Plan.from_json({}), "ann", "")
    assert rollout.candidate == V2


async def test_a_server_starts_from_its_cache_while_the_store_is_away_and_loads_the_rest_when_it_is_back(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, start_server: StartServer
) -> None:
    put(repository, V1, 2, tmp_path)
    put(repository, V2, 3, tmp_path)
    with StoppingProxy(store.endpoint) as proxy:
        near, cache, state = store.through(proxy), tmp_path / "near", sqlite_url(tmp_path / "state.db")
        with closing(near.open(cache)) as before:
            before.verify("m", V1)  # and 2.0.0 was listed, and never brought here
        proxy.away = True
        server = await start_server(**near.settings(cache, state, timeout_s=_AWAY_SECONDS[store.kind]))
        catalog = server.services.catalog
        await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V1) == "ready" and _state(s, V2) == "failed"), 60)
        assert await _answer(server, "1.0.0") == [2.0, 4.0, 6.0, 8.0]
        proxy.away = False
        await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V2) == "ready"), 90)
        assert await _answer(server, "2.0.0") == [3.0, 6.0, 9.0, 12.0]


def test_a_store_that_is_away_and_was_never_listed_is_told_in_words_without_secrets(
    store: RemoteStore, tmp_path: Path
) -> None:
    with StoppingProxy(store.endpoint) as proxy:
        proxy.away = True
        with closing(store.through(proxy).open(tmp_path / "never", timeout_s=1)) as opened:
            with pytest.raises(OSError, match="does not answer") as away:
                opened.scan()
            assert away.value.errno == errno.EIO
            with pytest.raises(StoreUnavailable) as refused:
                opened.find("m", V1)
            with pytest.raises(TurnoutError) as publishing:
                put(opened, V1, 2, tmp_path)
    for text in (str(away.value), refused.value.message, publishing.value.message):
        assert not any(secret in text for secret in (*CREDENTIALS.values(), "127.0.0.1"))


def test_a_prune_takes_a_version_from_where_it_lives_and_what_it_leaves_is_found(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repository, V1, 2, tmp_path)
    kept = put(repository, V2, 3, tmp_path)
    in_use.remove(repository, "m", V1, 1.0)
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert [one.manifest.version for one in other.published()] == [V2]
        assert other.unused_files().digests == ()  # for a day: a publish may be under way
        monkeypatch.setattr(remote_module, "UNUSED_SECONDS", -5.0)
        unused = other.unused_files()
        if store.kind == "oci":
            assert unused.digests == ()  # the registry's own collection takes them
        else:
            assert len(unused.digests) == 1
            assert other.remove_unused(unused) == unused.size_bytes
            assert other.unused_files().digests == ()
        assert other.verify_stored("m", V2, expected=kept.digest)


async def test_a_signature_made_later_lets_a_version_in_at_once(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, start_server: StartServer
) -> None:
    from turnout.config import Signing
    from turnout.registry.signing.keys import PrivateKey
    from turnout.registry.signing.signer import KeySigner
    from turnout.releases.release import ReleaseStateWriter

    key = PrivateKey.create(tmp_path / "key.pem")
    put(repository, V1, 2, tmp_path)
    state = sqlite_url(tmp_path / "state.db")
    signing = Signing(signatures="require", trusted_keys=(str(key.public),))
    server = await start_server(**store.settings(tmp_path / "served", state, remote_poll_s=600), signing=signing)
    catalog = server.services.catalog
    await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V1) == "failed"), 60)
    with StateStore.open(state) as declared:
        ReleaseStateWriter(repository, declared).sign("m", V1, KeySigner(key), actor="ada", reason="")
    await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V1) == "ready"), 60)


async def test_a_read_only_server_needs_no_state_store_and_releases_what_is_there_and_what_comes(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, start_server: StartServer
) -> None:
    put(repository, V1, 2, tmp_path)
    server = await start_server(**store.settings(tmp_path / "served", ""), read_only=True)
    catalog = server.services.catalog
    await asyncio.wait_for(catalog.wait_for(lambda s: _state(s, V1) == "ready"), 60)
    assert str(catalog.snapshot.models["m"].model_releases.release_status(V1)) == "released"
    put(repository, V2, 3, tmp_path)
    put(repository, Version.parse("3.0.0-rc.1"), 4, tmp_path)
    released = ReleaseStatus.RELEASED
    await asyncio.wait_for(
        catalog.wait_for(lambda s: s.models["m"].model_releases.release_statuses == {V1: released, V2: released}), 60
    )
    with closing(store.open(tmp_path / "reader", read_only=True)) as reader, pytest.raises(ChangeRefused):
        put(reader, Version(4), 5, tmp_path)


@NEEDS_REGISTRY
@pytest.mark.parametrize("server", ["oci"], indirect=True)
def test_a_registry_is_told_who_asks_by_what_docker_login_wrote(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = "ada:secret-of-the-tests"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    login = tmp_path / "docker/config.json"
    with StoppingProxy(store.endpoint, credential=credential) as proxy:
        near = store.through(proxy)
        with closing(near.open(tmp_path / "nobody")) as nobody, pytest.raises(OSError, match="401") as refused:
            nobody.scan()
        auth = base64.b64encode(credential.encode()).decode()
        login.write_text(json.dumps({"auths": {"registry.test": {"auth": auth}}}))
        with closing(near.open(tmp_path / "ada")) as ada:
            for number in range(1, 4):  # more requests than one token does for, in the middle of an upload too
                put(ada, Version(number), number, tmp_path)
            assert ada.verify_stored("m", V1)
        login.write_text(json.dumps({"auths": {"registry.test": {"auth": auth[:-8]}}}))
        with closing(near.open(tmp_path / "wrong")) as wrong, pytest.raises(OSError, match="401") as no:
            wrong.scan()
    for caught in (refused, no):
        assert not any(secret in str(caught.value) for secret in (credential, auth, "secret", "127.0.0.1"))


def _state(snapshot: Any, version: Version) -> str:
    model = snapshot.models.get("m")
    return str(model.versions[version].state) if model is not None and version in model.versions else ""


async def _answer(server: Any, version: str) -> list[float]:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        data = np.arange(1, 5, dtype=np.float32)
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data.tolist()}]}
        answer = await client.post(f"/v2/models/m/versions/{version}/infer", json=body)
        assert answer.status_code == 200, answer.text
        values: list[float] = answer.json()["outputs"][0]["data"]
        return values


async def _until_available(server: Any, value: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client, asyncio.timeout(100):
        while True:
            text = (await client.get("/metrics")).text
            if f"turnout_repository_available {value}" in text or f"turnout_repository_available {value}.0" in text:
                return
            await asyncio.sleep(0.05)
