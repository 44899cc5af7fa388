"""Versions in a container registry, by the OCI distribution specification: an artifact of one repository for each.

    NAME:MODEL__VERSION       a version: its manifest.json is the artifact's config, whose digest is the version's
                              digest; its files are the layers, under their digests
    NAME:_doc_KEY_CONTENT     a small document, tagged by the hashes of its name and of what it says

No registry has a conditional write of a tag, so a version is created by compare after write: the tag is looked at,
written, left alone for as long as any publisher may take from its look to its write, and read again. The last one who
wrote has won, and every other one finds that and is told.

Login is oras-py's: the files and helpers that `docker login` and `oras login` write. Everything else is plain HTTP,
since oras-py reads whole files into memory and knows no timeouts.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import httpx

from turnout.config import RepositoryUrl
from turnout.errors import ConfigError
from turnout.registry.manifest.digest import bytes_digest, read_canonical
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.names import is_exact_version, model_name_fault
from turnout.registry.manifest.versions import known_version
from turnout.registry.remote.keys import ManifestKey, manifest_key, parse_key
from turnout.registry.remote.store import CHUNK, Blob, Document, StoreFault

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
VERSION_TYPE = "application/vnd.turnout.version.v1+json"
CONFIG_TYPE = "application/vnd.turnout.manifest.v1+json"
DOCUMENT_TYPE = "application/vnd.turnout.document.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_FILE_TYPE = "application/octet-stream"
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
_KEY = "dev.turnout.key"

_SURE_SECONDS = 10.0
"""After which a tag that was seen is not read again: nobody moves the tag of a version."""

_MAX_ARTIFACT_BYTES = 4 << 20
_MAX_PAGE_BYTES = 16 << 20
_PAGE = 1000
_READERS = 8
_MAX_TAG = 128

_Content = bytes | Callable[[], Iterator[bytes]]
"""A body; one that is read from a file is a function, which reads it from the beginning."""


@dataclass(frozen=True, slots=True)
class _Artifact:
    """What a tag names.

    Attributes:
        digest: Of the artifact's manifest.
        key: The document that it holds.
        content: Digest of the document.
        size: Bytes of it.
        created: When it was made, as its maker says; "" of versions.
        seen: When it was first seen, seconds of the monotonic clock.
    """

    digest: str
    key: str
    content: str
    size: int
    created: str
    seen: float


class OciStore:
    """One repository of a registry."""

    def __init__(self, url: RepositoryUrl, endpoint: str, timeout: float, max_objects: int, settle: float) -> None:
        """Prepares; nothing is asked yet.

        Args:
            url: The registry's host, and the repository's name.
            endpoint: Address of the registry; "" for https:// and the host.
            timeout: Seconds that an answer may take.
            max_objects: Most tags that are listed.
            settle: Longest that a publisher may take from its look at a tag to its write, and what a tag is left alone
                for before it counts; seconds.

        Raises:
            ConfigError: The extra is not installed.
        """
        self._name = url.path
        self._max = max_objects
        self._settle = settle
        self._login = _Login(url.host, timeout)
        self._client = httpx.Client(
            base_url=endpoint or f"https://{url.host}",
            timeout=httpx.Timeout(timeout, connect=timeout / 4),
            follow_redirects=True,
        )
        self._artifacts: dict[str, _Artifact] = {}

    def close(self) -> None:  # noqa: D102 - as Store
        self._client.close()
        self._login.close()

    def documents(self) -> Sequence[Document]:  # noqa: D102 - as Store
        tags = [tag for tag in self._tags() if _is_ours(tag)]
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
        data = self._small(document.stamp, min(document.size, most + 1))
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
        match parse_key(key):
            case ManifestKey() as named:
                self._create_version(_version_tag(named), read_canonical(data), data)
            case _:
                if self._tags_of(key):
                    raise FileExistsError(17, "exists")
                self.replace(key, data)

    def replace(self, key: str, data: bytes) -> None:  # noqa: D102 - as Store
        before = self._tags_of(key)
        self._put_bytes(data)
        self._put_bytes(b"{}")
        layer = _descriptor("application/json", bytes_digest(data), len(data))
        made = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": DOCUMENT_TYPE,
            "config": _descriptor(_EMPTY_TYPE, bytes_digest(b"{}"), 2),
            "layers": [layer | {"annotations": {_TITLE: key.rpartition("/")[2]}}],
            "annotations": {_KEY: key, _CREATED: datetime.now(UTC).isoformat(timespec="microseconds")},
        }
        tag = _document_tag(key, data)
        self._put_manifest(tag, json.dumps(made).encode())
        for old in before:
            if old != tag:
                with suppress(OSError):  # registries that delete nothing keep them; the newest counts
                    self._delete_tag(old)

    def delete(self, key: str) -> None:  # noqa: D102 - as Store
        for tag in self._tags_of(key):
            self._delete_tag(tag)

    def stat_blob(self, digest: str) -> Blob | None:  # noqa: D102 - as Store
        answer = self._ask("HEAD", f"blobs/{digest}", expect=(200, 404))
        if answer.status_code == 404:
            return None
        # What a registry collects, it collects by itself, and it takes no artifact whose blobs are not there.
        return Blob(digest, int(answer.headers.get("content-length", "-1")), time.time())

    def put_blob(self, digest: str, file: Path) -> None:  # noqa: D102 - as Store
        size = file.stat().st_size

        def content() -> Iterator[bytes]:
            with file.open("rb") as source:
                while block := source.read(1 << 20):
                    yield block

        self._upload(digest, size, content if size else b"")

    def read_blob(self, digest: str, size: int) -> Iterator[bytes]:  # noqa: D102 - as Store
        left = size
        with self._stream(f"blobs/{digest}") as answer, _translated():
            for block in answer.iter_bytes(min(CHUNK, 1 << 20)):
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return

    def blobs(self) -> Sequence[Blob] | None:
        """Returns None: registries collect by themselves what no artifact refers to."""
        return None

    def delete_blob(self, digest: str) -> None:
        """Does nothing: see `blobs`."""

    # Versions

    def _create_version(self, tag: str, manifest: Manifest, data: bytes) -> None:
        self._put_bytes(data)
        made = json.dumps(_version_artifact(manifest, data)).encode()
        digest = bytes_digest(made)
        self._put_manifest(digest, made)  # nobody sees it yet
        began = time.monotonic()
        if self._digest(tag) is not None:
            raise FileExistsError(17, "exists")
        try:
            self._put_manifest(tag, made)
        except StoreFault as error:
            if self._digest(tag) not in (None, digest):  # a registry whose tags never move
                raise FileExistsError(17, "was written by somebody else in this moment") from error
            raise
        if (took := time.monotonic() - began) > self._settle:
            raise StoreFault(
                110,
                f"took {took:.1f} s to write a tag, where repository.oci_settle_s allows {self._settle:g} s: publish"
                " again to see which version stands",
            )
        time.sleep(self._settle)
        if self._digest(tag) != digest:
            raise FileExistsError(17, "was written by somebody else in this moment")

    def _digest(self, tag: str) -> str | None:
        """Returns the digest of the artifact that a tag names; None where there is no such tag."""
        answer = self._ask("GET", f"manifests/{tag}", expect=(200, 404), most=_MAX_ARTIFACT_BYTES)
        return None if answer.status_code == 404 else bytes_digest(answer.content)

    def _artifact(self, tag: str) -> _Artifact | None:
        """Reads what a tag names; None where it is nothing of Turnout's, or gone."""
        answer = self._ask("GET", f"manifests/{tag}", expect=(200, 404), most=_MAX_ARTIFACT_BYTES)
        if answer.status_code == 404:
            return None
        before = self._artifacts.get(tag)
        digest = bytes_digest(answer.content)
        seen = before.seen if before is not None and before.digest == digest else time.monotonic()
        try:
            made = json.loads(answer.content)
            if (named := _parse_version_tag(tag)) is not None:
                key, content, created = manifest_key(*named), made["config"], ""
            else:
                key, content = str(made["annotations"][_KEY]), made["layers"][0]
                created = str(made["annotations"].get(_CREATED, ""))[:64]
                if not tag.startswith(_document_prefix(key)):
                    return None
            return _Artifact(digest, key, _digest_text(content["digest"]), int(content["size"]), created, seen)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return None

    def _tags(self) -> list[str]:
        found: list[str] = []
        url = f"tags/list?n={_PAGE}"
        while True:
            answer = self._ask("GET", url, expect=(200, 404), most=_MAX_PAGE_BYTES)
            if answer.status_code == 404:  # a repository comes to be with its first artifact
                return found
            try:
                page = [str(tag) for tag in json.loads(answer.content).get("tags") or ()]
            except (ValueError, AttributeError, TypeError, RecursionError) as error:
                raise StoreFault(5, "answers with what is no list of tags") from error
            found += page
            if len(found) > self._max:
                raise StoreFault(0, f"holds more than {self._max} tags (repository.max_objects)")
            if not page or "next" not in answer.links:
                return found
            url = f"tags/list?n={_PAGE}&last={page[-1]}"

    def _tags_of(self, key: str) -> list[str]:
        match parse_key(key):
            case ManifestKey() as named:
                return [_version_tag(named)]
            case _:
                prefix = _document_prefix(key)
                return [tag for tag in self._tags() if tag.startswith(prefix)]

    def _delete_tag(self, tag: str) -> None:
        if (digest := self._digest(tag)) is not None:
            answer = self._ask("DELETE", f"manifests/{digest}", expect=(200, 202, 404, 405))
            if answer.status_code == 405:
                raise StoreFault(1, "deletes nothing: deletion is switched off in the registry")

    # Requests

    def _put_manifest(self, reference: str, data: bytes) -> None:
        headers = {"content-type": MANIFEST_TYPE}
        self._ask("PUT", f"manifests/{reference}", expect=(200, 201, 202), content=data, headers=headers)

    def _put_bytes(self, data: bytes) -> None:
        digest = bytes_digest(data)
        if self.stat_blob(digest) is None:
            self._upload(digest, len(data), data)

    def _upload(self, digest: str, size: int, content: _Content) -> None:
        begun = self._ask("POST", "blobs/uploads/", expect=(202,), headers={"content-length": "0"})
        target = begun.request.url.join(begun.headers.get("location", "")).copy_merge_params({"digest": digest})
        headers = {"content-type": _FILE_TYPE, "content-length": str(size)}
        self._ask("PUT", target, expect=(201, 204), content=content, headers=headers)

    def _small(self, digest: str, most: int) -> bytes:
        data = bytearray()
        for block in self.read_blob(digest, most):
            data += block
        return bytes(data)

    def _ask(
        self,
        method: str,
        path: str | httpx.URL,
        *,
        expect: Sequence[int],
        content: _Content | None = None,
        headers: Mapping[str, str] | None = None,
        most: int = 1 << 20,
    ) -> httpx.Response:
        """Asks, and reads an answer of at most `most` bytes.

        Raises:
            StoreFault: No answer came, or another one than is expected.
        """
        for again in (True, False):
            with _translated():
                request = self._request(method, path, content, headers)
                answer = self._client.send(request, stream=True)
                try:
                    body = _bounded(answer, most)
                finally:
                    answer.close()
            if answer.status_code == 401 and again and self._login.renew(answer):
                continue
            if answer.status_code not in expect:
                raise StoreFault(5, f"refuses what it is asked: {_code(answer.status_code, body)}")
            kept = httpx.Response(answer.status_code, headers=_plain(answer.headers), content=body, request=request)
            if method == "HEAD":
                kept.headers["content-length"] = answer.headers.get("content-length", "-1")
            return kept
        raise AssertionError("unreachable")

    @contextmanager
    def _stream(self, path: str) -> Iterator[httpx.Response]:
        for again in (True, False):
            with _translated():
                answer = self._client.send(self._request("GET", path, None, None), stream=True)
            try:
                if answer.status_code == 401 and again and self._login.renew(answer):
                    continue
                if answer.status_code == 404:
                    raise FileNotFoundError(2, "is not there")
                if answer.status_code != 200:
                    raise StoreFault(5, f"refuses what it is asked: {answer.status_code}")
                yield answer
                return
            finally:
                answer.close()

    def _request(
        self,
        method: str,
        path: str | httpx.URL,
        content: _Content | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Request:
        url = path if isinstance(path, httpx.URL) else f"/v2/{self._name}/{path}"
        request = self._client.build_request(
            method,
            url,
            content=content() if callable(content) else content,
            headers={"accept": f"{MANIFEST_TYPE}, */*", **(headers or {})},
        )
        if request.url.host == self._client.base_url.host:  # nobody else is to have what proves who asks
            request.headers.update(self._login.headers)
        return request


class _Login:
    """Proves to the registry who asks, with what oras-py finds."""

    def __init__(self, host: str, timeout: float) -> None:
        try:
            import requests
            from oras.auth.token import TokenAuth
            from oras.container import Container
            from oras.logger import logger
        except ImportError as error:
            raise ConfigError("oci:// needs an extra that is not installed: pip install 'turnout[oci]'") from error
        logger.log_handler = []  # it writes to standard error, past everybody's log
        self._session = requests.Session()
        self._session.request = _timed(self._session.request, timeout)  # type: ignore[method-assign]
        self._auth: Any = TokenAuth()
        self._auth.session, self._auth._tls_verify = self._session, True
        self._container: Any = Container(f"{host}/name")
        self._lock = Lock()
        self._loaded = False
        self.headers: dict[str, str] = {}

    def close(self) -> None:
        self._session.close()

    def renew(self, answer: httpx.Response) -> bool:
        """Takes up what the registry asks for; False where nothing is known that would do."""
        with self._lock, _translated():
            if not self._loaded:
                self._auth.load_configs(self._container, configs=_login_files())
                self._loaded = True
            basic = getattr(self._auth, "_basic_auth", None)
            if answer.headers.get("www-authenticate", "").lower().startswith("basic"):
                before, self.headers = self.headers, {"authorization": f"Basic {basic}"} if basic else {}
                return before != self.headers
            headers, changed = self._auth.authenticate_request(answer, {}, refresh=True)
            self.headers = {"authorization": headers["Authorization"]} if changed else {}
            return bool(changed)


def _login_files() -> list[str]:
    """Returns the files beside `~/.docker/config.json` that variables of the environment name."""
    named = [os.environ.get("REGISTRY_AUTH_FILE", ""), f"{os.environ.get('DOCKER_CONFIG', '')}/config.json"]
    return [file for file in named if file and os.path.isfile(file)]


def _timed(request: Any, timeout: float) -> Any:
    def with_timeout(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("timeout", timeout)
        return request(*args, **kwargs)

    return with_timeout


def _version_artifact(manifest: Manifest, data: bytes) -> dict[str, Any]:
    """Returns the artifact of a version: the same for the same version, whoever publishes it."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": VERSION_TYPE,
        "config": _descriptor(CONFIG_TYPE, bytes_digest(data), len(data)),
        "layers": [
            _descriptor(_FILE_TYPE, file.digest, file.size) | {"annotations": {_TITLE: file.path}}
            for file in manifest.files
        ],
        "annotations": {_TITLE: f"{manifest.model} {manifest.version}"},
    }


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _digest_text(value: Any) -> str:
    text = str(value)
    if len(text) != 71 or not text.startswith("sha256:") or any(c not in "0123456789abcdef" for c in text[7:]):
        raise ValueError("no digest")
    return text


def _version_tag(key: ManifestKey) -> str:
    # A version has no underscore, so that the last two tell where it begins; tags have no plus sign.
    tag = f"{key.model}__{str(key.version).replace('+', '_')}"
    if len(tag) > _MAX_TAG:
        raise StoreFault(22, f"has no room for the tag {tag[:40]}..., of {len(tag)} characters where {_MAX_TAG} may be")
    return tag


def _parse_version_tag(tag: str) -> tuple[str, Any] | None:
    model, sign, text = tag.rpartition("__")
    text = text.replace("_", "+")
    if not sign or model_name_fault(model) is not None or not is_exact_version(text):
        return None
    return model, known_version(text)


def _document_prefix(key: str) -> str:
    return f"_doc_{hashlib.sha256(key.encode()).hexdigest()[:40]}_"


def _document_tag(key: str, data: bytes) -> str:
    return f"{_document_prefix(key)}{hashlib.sha256(data).hexdigest()[:40]}"


def _is_ours(tag: str) -> bool:
    return len(tag) <= _MAX_TAG and (tag.startswith("_doc_") or _parse_version_tag(tag) is not None)


def _bounded(answer: httpx.Response, most: int) -> bytes:
    data = bytearray()
    for block in answer.iter_bytes():
        data += block
        if len(data) > most:
            raise StoreFault(5, f"answers with more than {most} bytes")
    return bytes(data)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Returns the headers of an answer whose body was read and decoded."""
    return {k: v for k, v in headers.items() if k not in ("content-encoding", "content-length", "transfer-encoding")}


def _code(status: int, body: bytes) -> str:
    """Returns the status, and the registry's own code for what is wrong."""
    with suppress(ValueError, KeyError, IndexError, TypeError, RecursionError):
        code = str(json.loads(body)["errors"][0]["code"])
        if code.replace("_", "").isalnum() and len(code) <= 64:
            return f"{status} {code}"
    return str(status)


@contextmanager
def _translated() -> Iterator[None]:
    """Puts what the libraries raise into OSErrors that tell no address and no credential."""
    try:
        yield
    except (StoreFault, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        raise StoreFault(5, f"does not answer as it should: {type(error).__name__}") from error
