"""Stores versions in a container registry, by the OCI distribution specification, as artifacts of one repository.

    NAME:MODEL__VERSION       a version: its manifest.json is the artifact's config, whose digest is the version's
                              digest; its files are the layers, under their digests
    NAME:_doc_KEY_CONTENT     a small document, tagged by the hashes of its name and of its content

No registry has a conditional write of a tag, so a version is created by comparing after the write: the tag is read,
written, left alone for as long as any publisher may take between reading and writing, and read again. The last writer
has won, and all others detect this and fail.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from turnout.config import RepositoryUrl
from turnout.registry.manifest.digest import bytes_digest, read_canonical
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.remote.keys import ManifestKey, manifest_key, parse_key
from turnout.registry.remote.oci_artifacts import (
    CREATED,
    FILE_TYPE,
    KEY,
    MANIFEST_TYPE,
    digest_text,
    document_artifact,
    document_prefix,
    document_tag,
    is_ours,
    parse_version_tag,
    version_artifact,
    version_tag,
)
from turnout.registry.remote.oci_client import WAITS, Content, OciClient, patiently, pause
from turnout.registry.remote.store import Blob, Document
from turnout.registry.storage.faults import StoreBusy, StoreFault

_SURE_SECONDS = 10.0
"""Seconds after which a known tag is no longer read again, since the tags of versions do not move."""

_WRITTEN = (200, 201, 202)
_MANIFEST_HEADERS = {"content-type": MANIFEST_TYPE}

_MAX_ARTIFACT_BYTES = 4 << 20
_MAX_PAGE_BYTES = 16 << 20
_PAGE = 1000
_READERS = 8


@dataclass(frozen=True, slots=True)
class _Artifact:
    """An artifact that a tag names.

    Attributes:
        content: Digest of the document.
        created: When it was created, according to its creator; "" for versions.
        seen: When it was first seen, in seconds of the monotonic clock.
    """

    digest: str
    key: str
    content: str
    size: int
    created: str
    seen: float


class OciStore:
    """A store in one repository of a registry."""

    def __init__(self, url: RepositoryUrl, endpoint: str, timeout: float, max_objects: int, settle: float) -> None:
        """Creates the store, as for `ObjectStore`, without sending a request.

        `settle` is the maximum time in seconds that a publisher may take between reading and writing a tag, and for
        which a tag is left alone before it counts.

        Raises:
            ConfigError: The extra is not installed.
        """
        self._client = OciClient(url, endpoint, timeout)
        self._max = max_objects
        self._settle = settle
        self._artifacts: dict[str, _Artifact] = {}

    def close(self) -> None:  # noqa: D102 - as Store
        self._client.close()

    def documents(self) -> Sequence[Document]:  # noqa: D102 - as Store
        tags = [tag for tag in self._tags() if is_ours(tag)]
        now = time.monotonic()
        known = {tag: one for tag in tags if (one := self._artifacts.get(tag)) and now - one.seen > _SURE_SECONDS}
        new = [tag for tag in tags if tag not in known]
        if new:
            with ThreadPoolExecutor(min(_READERS, len(new)), "oci") as pool:
                read = zip(new, pool.map(self._artifact, new), strict=True)
                known |= {tag: one for tag, one in read if one is not None}
        self._artifacts = known
        newest: dict[str, _Artifact] = {}
        for one in known.values():
            if one.key not in newest or (newest[one.key].created, newest[one.key].digest) < (one.created, one.digest):
                newest[one.key] = one
        return [Document(key, one.content, one.size) for key, one in newest.items()]

    def read(self, document: Document, most: int) -> bytes:  # noqa: D102 - as Store
        data = patiently(partial(self._client.beginning, f"blobs/{document.stamp}", min(document.size, most + 1)))
        if document.size <= most and bytes_digest(data) != document.stamp:
            raise StoreFault(5, "answers with other bytes than were asked for")
        return data

    def current(self, key: str, most: int) -> bytes | None:  # noqa: D102 - as Store
        found = [one for tag in self._tags_of(key) if (one := self._artifact(tag)) is not None]
        if not found:
            return None
        one = max(found, key=lambda one: (one.created, one.digest))
        return self.read(Document(key, one.content, one.size), most)

    def create(self, key: str, data: bytes) -> None:  # noqa: D102 - as Store
        if isinstance(named := parse_key(key), ManifestKey):
            self._create_version(version_tag(named), read_canonical(data), data)
            return
        if self._tags_of(key):
            raise FileExistsError(17, "exists")
        self.replace(key, data)

    def replace(self, key: str, data: bytes) -> None:  # noqa: D102 - as Store
        before = self._tags_of(key)
        self._put_bytes(data)
        self._put_bytes(b"{}")
        tag = document_tag(key, data)
        self._put_manifest(tag, json.dumps(document_artifact(key, data)).encode())
        for old in before:
            if old != tag:
                with suppress(OSError):  # some registries do not delete; the newest document counts
                    self._delete_tag(old)

    def delete(self, key: str) -> None:  # noqa: D102 - as Store
        for tag in self._tags_of(key):
            self._delete_tag(tag)

    def stat_blob(self, digest: str) -> Blob | None:  # noqa: D102 - as Store
        answer = self._ask("HEAD", f"blobs/{digest}", expect=(200, 404))
        if answer.status_code == 404:
            return None
        # Registries collect garbage by themselves, and do not accept artifacts whose blobs are missing.
        return Blob(digest, int(answer.headers.get("content-length", "-1")), time.time())

    def put_blob(self, digest: str, file: Path) -> None:  # noqa: D102 - as Store
        size = file.stat().st_size

        def content() -> Iterator[bytes]:
            with file.open("rb") as source:
                while block := source.read(1 << 20):
                    yield block

        self._upload(digest, size, content if size else b"")

    def read_blob(self, digest: str, size: int) -> Iterator[bytes]:  # noqa: D102 - as Store
        done, waits = 0, iter(WAITS)
        while True:
            try:
                with closing(self._client.stream(f"blobs/{digest}", done)) as blocks:
                    for block in blocks:
                        yield block[: size - done]
                        done, waits = done + len(block), iter(WAITS)
                        if done >= size:
                            return
                return
            except StoreBusy as error:  # goes on where the connection was lost
                if (wait := next(waits, None)) is None:
                    raise
                pause(error, wait)

    def blobs(self) -> Sequence[Blob] | None:
        """Returns None, since registries remove unreferenced blobs by themselves."""
        return None

    def delete_blob(self, digest: str) -> None:
        """Does nothing: see `blobs`."""

    def _create_version(self, tag: str, manifest: Manifest, data: bytes) -> None:
        self._put_bytes(data)
        made = json.dumps(version_artifact(manifest, data)).encode()
        digest = bytes_digest(made)
        self._put_manifest(digest, made)  # not visible yet
        began = patiently(partial(self._write_tag, tag, made, digest))
        if (took := time.monotonic() - began) > self._settle:
            raise StoreFault(
                110,
                f"took {took:.1f} s to write a tag, where repository.oci_settle_s allows {self._settle:g} s: publish"
                " again to see which version exists",
            )
        time.sleep(self._settle)
        if self._digest(tag) != digest:
            raise FileExistsError(17, "was written by another publisher at the same time")

    def _write_tag(self, tag: str, made: bytes, digest: str) -> float:
        """Writes the tag of a version if it does not exist. Returns when that was looked up, by the monotonic clock."""
        began = time.monotonic()
        if self._digest(tag) is not None:
            raise FileExistsError(17, "exists")
        try:
            # Once: whoever writes again has to look again.
            self._client.ask("PUT", f"manifests/{tag}", expect=_WRITTEN, content=made, headers=_MANIFEST_HEADERS)
        except StoreFault as error:
            if (there := self._digest(tag)) is None:
                raise
            if there != digest:  # a registry with immutable tags
                raise FileExistsError(17, "was written by another publisher at the same time") from error
        return began

    def _digest(self, tag: str) -> str | None:
        """Returns the digest of the artifact that a tag names; None if there is no such tag."""
        data = self._manifest(tag)
        return None if data is None else bytes_digest(data)

    def _manifest(self, tag: str) -> bytes | None:
        answer = self._ask("GET", f"manifests/{tag}", expect=(200, 404), most=_MAX_ARTIFACT_BYTES)
        return None if answer.status_code == 404 else answer.content

    def _artifact(self, tag: str) -> _Artifact | None:
        """Reads the artifact that a tag names; None if it is not one of Turnout's, or does not exist."""
        if (data := self._manifest(tag)) is None:
            return None
        before, digest = self._artifacts.get(tag), bytes_digest(data)
        seen = before.seen if before is not None and before.digest == digest else time.monotonic()
        try:
            made = json.loads(data)
            if (named := parse_version_tag(tag)) is not None:
                key, content, created = manifest_key(*named), made["config"], ""
            else:
                key, content = str(made["annotations"][KEY]), made["layers"][0]
                created = str(made["annotations"].get(CREATED, ""))[:64]
                if not tag.startswith(document_prefix(key)):
                    return None
            one = _Artifact(digest, key, digest_text(content["digest"]), int(content["size"]), created, seen)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return None
        self._artifacts[tag] = one  # at once, so that a listing that fails has not been for nothing
        return one

    def _tags(self) -> list[str]:
        found: list[str] = []
        asked: list[str] = []
        query = f"n={_PAGE}"
        while query not in asked:
            asked.append(query)
            answer = self._ask("GET", f"tags/list?{query}", expect=(200, 404), most=_MAX_PAGE_BYTES)
            if answer.status_code == 404:  # a repository is created with its first artifact
                return found
            try:
                found += [str(tag) for tag in json.loads(answer.content).get("tags") or ()]
                # What follows the last tag is the registry's secret. Its address is ours, since proxies may change it.
                following = httpx.URL(answer.links.get("next", {}).get("url", "")).query.decode()
            except (ValueError, AttributeError, TypeError, RecursionError, httpx.InvalidURL) as error:
                raise StoreFault(5, "answers with something that is not a list of tags") from error
            if max(len(found), len(asked)) > self._max:
                raise StoreFault(0, f"holds more than {self._max} tags (repository.max_objects)")
            if not following:
                return found
            query = following
        raise StoreFault(5, "answers with a list of tags that does not end")

    def _tags_of(self, key: str) -> list[str]:
        if isinstance(named := parse_key(key), ManifestKey):
            return [version_tag(named)]
        prefix = document_prefix(key)
        return [tag for tag in self._tags() if tag.startswith(prefix)]

    def _delete_tag(self, tag: str) -> None:
        if (digest := self._digest(tag)) is not None:
            answer = self._ask("DELETE", f"manifests/{digest}", expect=(200, 202, 404, 405))
            if answer.status_code == 405:
                raise StoreFault(1, "deletes nothing: deletion is switched off in the registry")

    def _put_manifest(self, reference: str, data: bytes) -> None:
        self._ask("PUT", f"manifests/{reference}", expect=_WRITTEN, content=data, headers=_MANIFEST_HEADERS)

    def _put_bytes(self, data: bytes) -> None:
        self._upload(bytes_digest(data), len(data), data)

    def _upload(self, digest: str, size: int, content: Content) -> None:
        patiently(partial(self._upload_once, digest, size, content))

    def _upload_once(self, digest: str, size: int, content: Content) -> None:
        if self.stat_blob(digest) is not None:  # also if only the answer to an earlier attempt was lost
            return
        begun = self._client.ask("POST", "blobs/uploads/", expect=(202,), headers={"content-length": "0"})
        target = begun.request.url.join(begun.headers.get("location", "")).copy_merge_params({"digest": digest})
        headers = {"content-type": FILE_TYPE, "content-length": str(size)}
        self._client.ask("PUT", target, expect=(201, 204), content=content, headers=headers)

    def _ask(self, *given: Any, **named: Any) -> httpx.Response:
        """Sends a request that may be repeated, as `OciClient.ask` does."""
        return patiently(partial(self._client.ask, *given, **named))
