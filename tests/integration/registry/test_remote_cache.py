"""The cache of remote versions: what is brought to it, kept in it, and what it costs if it is damaged or emptied."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from semver import Version

from remote_stores import RemoteStore, StoppingProxy, put
from turnout.errors import (
    DigestMismatch,
    Exhausted,
    StoreUnavailable,
)
from turnout.registry.remote.cache import Cache
from turnout.registry.remote.repository import RemoteRepository
from turnout.registry.storage import attestations, in_use
from turnout.registry.storage.faults import StoreFault

pytest_plugins = ["remote_stores"]

V1, V2 = Version(1), Version(2)


def test_a_file_that_changed_in_the_cache_is_brought_anew_and_one_that_changed_where_it_lives_is_refused(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    result = put(repository, V1, 41, tmp_path)  # a registry keeps a file once, and other tests have others
    (entry,) = result.manifest.files
    cached = repository.fetch("m", V1) / entry.path
    good = cached.read_bytes()
    for damage in (b"x" * len(good), good[:-1], b""):
        cached.chmod(0o644)
        cached.write_bytes(damage)
        assert repository.verify("m", V1, expected=result.digest).digest == result.digest
        assert cached.read_bytes() == good
    (cached.parent / "stranger").write_bytes(b"x")
    cached.unlink()
    repository.verify("m", V1)
    assert sorted(path.name for path in cached.parent.iterdir()) == ["manifest.json", "model.onnx"]
    for damage in (b"x" * len(good), good[:-1]):
        store.overwrite_blob(entry.digest, damage)
        repository.verify("m", V1)  # what is here is right still
        with pytest.raises(DigestMismatch, match=r"m 1\.0\.0: model\.onnx is not what was published"):
            repository.verify_stored("m", V1)
        with closing(store.open(tmp_path / f"other{len(damage)}")) as other:
            with pytest.raises(
                DigestMismatch, match=r"m 1\.0\.0: model\.onnx is not what was published, where it lives"
            ):
                other.verify("m", V1)
            assert not other.directory("m", V1).exists()
            assert other.cache.used_bytes == 0


def test_a_version_that_leaves_the_cache_while_it_is_verified_is_brought_again(
    repository: RemoteRepository, tmp_path: Path
) -> None:
    result = put(repository, V1, 2, tmp_path)
    directory = repository.fetch("m", V1)
    made_room: list[int] = []

    def make_room(size: int) -> None:
        """Does what another process does that needs the room."""
        if not made_room:
            made_room.append(size)
            shutil.rmtree(directory)

    assert repository.verify("m", V1, expected=result.digest, progress=make_room).digest == result.digest
    assert made_room
    assert repository.verify("m", V1).digest == result.digest
    assert (directory / "manifest.json").exists()


def test_a_cache_that_somebody_emptied_is_empty_and_is_filled_again(
    repository: RemoteRepository, tmp_path: Path
) -> None:
    result = put(repository, V1, 2, tmp_path)
    assert repository.cache_use().bytes_kept == result.manifest.size
    shutil.rmtree(tmp_path / "cache")
    assert repository.cache_use().bytes_kept == 0, "so that metrics are still answered"
    assert repository.verify("m", V1, expected=result.digest).digest == result.digest
    assert repository.cache_use().bytes_kept == result.manifest.size


def test_many_signatures_of_a_version_hide_no_other_record_and_are_hidden_by_none(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.registry.remote.listing.MAX_FILES", 4)
    put(repository, V1, 2, tmp_path)
    for number in range(5):
        attestations.write(repository, "m", V1, f"bundle-{number:016x}.sigstore.json", b"{}")
        attestations.write(repository, "m", V1, f"a-{number}.json", b"{}")
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert len(dict(attestations.read(other, "m", V1, "bundle-"))) == 4
        assert len(dict(attestations.read(other, "m", V1, "a-"))) == 4


def test_a_record_that_cannot_be_copied_here_keeps_no_version_from_being_found(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    result = put(repository, V1, 2, tmp_path)
    with closing(store.open(tmp_path / "elsewhere")) as other:
        in_the_way = attestations.directory(other, "m", V1) / "environment.json"
        in_the_way.mkdir(parents=True)  # as with a full disk, nothing can be written there
        listing = other.scan()
        assert [one.digest for one in listing.published] == [result.digest]
        assert listing.away == "", "the store answers"
        in_the_way.rmdir()
        other.look_soon()
        assert in_the_way.name in dict(attestations.read(other, "m", V1, "environment")), "it is copied once that works"


def test_the_cache_keeps_what_is_loaded_and_lets_go_of_what_was_used_longest_ago(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    for number in range(1, 4):
        put(repository, Version(number), number, tmp_path)
    size = repository.find("m", V1).manifest.size
    with closing(store.open(tmp_path / "small", cache_max_bytes=2 * size)) as small:
        held = in_use.hold(small, "m", V1)
        assert held is not None
        try:
            small.verify("m", V2)
            os.utime(small.directory("m", V1), (1, 1))  # used longest ago, and loaded
            small.verify("m", Version(3))
            assert [small.directory("m", Version(n)).exists() for n in (1, 2, 3)] == [True, False, True]
            assert small.cache.used_bytes == 2 * size
            another = in_use.hold(small, "m", Version(3))
            try:
                with pytest.raises(Exhausted, match=r"repository\.cache_max_bytes"):
                    small.fetch("m", V2)
            finally:
                in_use.let_go(another)
        finally:
            in_use.let_go(held)
        small.fetch("m", V2)
        assert small.cache.used_bytes <= 2 * size
    with (
        closing(store.open(tmp_path / "tiny", cache_max_bytes=size - 1)) as tiny,
        pytest.raises(Exhausted, match=rf"m 1\.0\.0 has {size} bytes"),
    ):
        tiny.fetch("m", V1)


@pytest.mark.parametrize("fails", [False, True], ids=["the first arrives", "the first fails"])
def test_fetches_at_the_same_time_do_not_exceed_the_cache_together(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    for number in (1, 2):
        put(repository, Version(number), number, tmp_path)
    size = repository.find("m", V1).manifest.size
    settled, held, used = threading.Event(), [], []
    place = Cache._place

    def watched(self: Cache, staged: Path, directory: Path) -> None:
        used.append(self.used_bytes)
        place(self, staged, directory)

    monkeypatch.setattr(Cache, "_place", watched)  # all files of a version have arrived
    monkeypatch.setattr("turnout.registry.remote.cache.checkpoint", settled.set)  # called by who waits for room
    with (
        closing(store.open(tmp_path / "small", cache_max_bytes=2 * size - 1)) as one,
        closing(store.open(tmp_path / "small", cache_max_bytes=2 * size - 1)) as other,
    ):

        def load(repository: RemoteRepository, version: Version) -> None:
            with suppress(Exhausted, StoreUnavailable):
                held.append(in_use.hold(repository, "m", version))
            settled.set()

        second = threading.Thread(target=load, args=(other, V2))
        read = one._store.read_blob

        def slow(digest: str, size: int) -> Iterator[bytes]:
            second.start()
            assert settled.wait(60), "the second fetch has neither ended nor begun to wait"
            if fails:
                raise StoreFault("the store has gone away")
            yield from read(digest, size)

        with monkeypatch.context() as patched:
            patched.setattr(one._store, "read_blob", slow)
            if fails:
                with pytest.raises(StoreUnavailable):
                    one.fetch("m", V1)
            else:
                one.fetch("m", V1)
        if not fails:
            load(one, V1)
        second.join(60)
        assert not second.is_alive()
        try:
            assert set(used) == {size}, "the cache has room for one of them at a time"
            assert len(held) == 1, "there is room for one"
            assert not list((tmp_path / "small").glob("**/reserved-*"))
        finally:
            for hold in held:
                in_use.let_go(hold)


def test_room_that_a_killed_process_had_reserved_is_free(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    put(repository, V1, 1, tmp_path)
    size = repository.find("m", V1).manifest.size
    with closing(store.open(tmp_path / "small", cache_max_bytes=size)) as small:
        left = small.cache.home / ".staging" / "reserved-0"
        left.write_bytes(bytes(size))
        small.verify("m", V1)
        assert not left.exists()


def test_a_cache_is_its_users_alone_even_in_a_directory_that_is_open_to_all(store: RemoteStore, tmp_path: Path) -> None:
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o777)
    before = os.umask(0)
    try:
        with closing(store.open(home)):
            assert all(found.stat().st_mode & 0o077 == 0 for found in home.iterdir())
    finally:
        os.umask(before)


def test_processes_share_a_cache_and_bring_a_version_once(
    store: RemoteStore, repository: RemoteRepository, tmp_path: Path
) -> None:
    put(repository, V1, 2, tmp_path)
    gets: list[str] = []

    def reads_blob(method: str, path: str, _: bytes) -> bool:
        blob = repository.find("m", V1).manifest.files[0].digest.removeprefix("sha256:")
        if method == "GET" and blob in path and (store.kind != "gs" or "alt=media" in path or "/download/" in path):
            gets.append(path)
        return False

    with StoppingProxy(store.endpoint, stop_when=reads_blob) as proxy:
        near = [store.through(proxy).open(tmp_path / "shared") for _ in range(4)]
        threads = [threading.Thread(target=one.verify, args=("m", V1)) for one in near]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for one in near:
            assert (one.directory("m", V1) / "model.onnx").exists()
            one.close()
    assert len(gets) == 1
