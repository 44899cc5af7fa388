"""Stores that hiccup: requests that are refused once, answers that are lost, listings that take many attempts."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from semver import Version

from http_endpoint import Endpoint, answer, listening
from remote_stores import ENVIRONMENT, RemoteStore, StoppingProxy, put
from turnout.config import RepositoryUrl
from turnout.errors import StoreUnavailable
from turnout.registry.remote import oci
from turnout.registry.remote.objects import ObjectStore
from turnout.registry.remote.repository import RemoteRepository
from turnout.registry.storage.faults import StoreFault

pytest_plugins = ["remote_stores"]

V1 = Version(1)


def once(fault: str, where: Callable[[str, str], bool] = lambda *_: True) -> Callable[[str, str, bytes], str]:
    """Returns a fault that happens to each different request once."""
    seen: set[tuple[str, str, str]] = set()
    lock = threading.Lock()

    def happens(method: str, path: str, body: bytes) -> str:
        if path.partition("?")[0].endswith("/o"):  # the parts of an upload to GCS have a new boundary each time
            body = b"".join(sorted(line for line in body.splitlines() if not line.startswith(b"--")))
        request = method, path.partition("/uploads/")[0], hashlib.sha256(body).hexdigest()
        with lock:
            new = request not in seen
            seen.add(request)
        return fault if new and where(method, path) else ""

    return happens


@contextmanager
def counted(store: RemoteStore) -> Iterator[tuple[RemoteStore, list[str]]]:
    """Yields the store behind a proxy, and the requests that it got so far."""
    asked: list[str] = []
    with StoppingProxy(store.endpoint, fault=lambda method, path, _: asked.append(f"{method} {path}") or "") as proxy:
        yield store.through(proxy), asked


@pytest.mark.parametrize("fault", ["busy", "cut"])
def test_a_publish_outlives_a_hiccup_of_each_write(store: RemoteStore, tmp_path: Path, fault: str) -> None:
    recorded = []
    with StoppingProxy(store.endpoint, fault=once(fault, lambda method, _: method not in ("GET", "HEAD"))) as proxy:
        with closing(store.through(proxy).open(tmp_path / "cache")) as repository:
            result = put(repository, V1, 2, tmp_path, recorded=recorded.append)
        assert result.created, "it did not exist, whoever's answer was lost"
        assert [one.digest for one in recorded] == [result.digest]
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert other.verify_stored("m", V1, expected=result.digest).digest == result.digest
        assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("server", ["s3", "oci"], indirect=True)  # GCS' library waits for seconds
@pytest.mark.parametrize("fault", ["busy", "cut"])
def test_a_version_is_listed_and_fetched_though_each_request_fails_once(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, fault: str
) -> None:
    put(repository, V1, 2, tmp_path)
    with (
        StoppingProxy(store.endpoint, fault=once(fault)) as proxy,
        closing(store.through(proxy).open(tmp_path / "elsewhere")) as other,
    ):
        assert other.verify("m", V1).manifest.version == V1


@pytest.mark.parametrize("server", ["s3", "oci"], indirect=True)
def test_a_listing_that_fails_has_not_been_for_nothing(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that refuses all requests after some, as registries with a quota do, is listed after some attempts."""
    for number in range(1, 5):
        put(repository, Version(number), number, tmp_path)
    monkeypatch.setattr(oci, "_SURE_SECONDS", 0.0)  # a test does not wait until a tag counts as known
    left = 0
    lock = threading.Lock()

    def quota(*_: object) -> str:
        nonlocal left
        with lock:
            left -= 1
            return "" if left >= 0 else "busy"

    with (
        StoppingProxy(store.endpoint, fault=quota) as proxy,
        closing(store.through(proxy).open(tmp_path / "elsewhere")) as reader,
    ):
        for _ in range(12):
            left = {"s3": 4, "oci": 8}[store.kind]  # fewer than there are manifests to read
            with suppress(StoreFault):
                reader._listing.look_now()
                break
        assert len(reader.published()) == 4


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_what_a_process_has_read_no_other_one_reads_again(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    put(repository, V1, 2, tmp_path)
    with counted(store) as (through, asked):
        for expected in (4, 1):  # the list, the manifest and two records; the list
            asked.clear()
            with closing(through.open(tmp_path / "elsewhere")) as other:
                assert len(other.published()) == 1
            assert len(asked) == expected, asked
        (record,) = (tmp_path / "elsewhere").glob("repositories/*/m/.attestations/1.0.0/environment.json")
        record.chmod(0o644)
        record.write_text("changed")
        asked.clear()
        with closing(through.open(tmp_path / "elsewhere")) as other:
            other.scan()
        assert len(asked) == 2, "a copy that changed is made again"
        assert record.read_text() != "changed"


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_processes_that_share_a_cache_do_not_copy_what_the_other_one_has_copied(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    put(repository, V1, 2, tmp_path)
    with (
        counted(store) as (through, asked),
        closing(through.open(tmp_path / "both")) as one,
        closing(through.open(tmp_path / "both")) as other,
    ):
        for each in (one, other, one, other) * 2:  # both begin with an empty cache, and then see each other's files
            asked.clear()
            each.look_soon()
            each.scan()
    assert len(asked) == 1, asked  # the list


@pytest.mark.parametrize("server", ["s3", "oci"], indirect=True)
def test_a_store_that_does_not_come_back_makes_a_publish_unavailable_not_misconfigured(
    store: RemoteStore, tmp_path: Path
) -> None:
    with (
        StoppingProxy(store.endpoint, fault=lambda method, *_: "" if method in ("GET", "HEAD") else "busy") as proxy,
        closing(store.through(proxy).open(tmp_path / "cache")) as repository,
        pytest.raises(StoreUnavailable, match="the store of the repository answers with an error: 503"),
    ):
        put(repository, V1, 2, tmp_path)


async def test_a_listing_of_a_bucket_that_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
    page = b"<ListBucketResult>" + more + b"</ListBucketResult>"
    async with listening(Endpoint(answer(200, page, Content_Type="application/xml"))) as bucket:
        store = ObjectStore(RepositoryUrl.parse("s3://bucket/models"), bucket.url, 60.0, 1000)
        with pytest.raises(StoreFault, match="does not end"):
            await asyncio.wait_for(asyncio.to_thread(store.documents), 100)
        assert len(bucket.asked) == 2
