"""Stores versions in S3, Google Cloud Storage and compatible stores, through fsspec.

    PREFIX/models/...              documents (`turnout.registry.remote.store`)
    PREFIX/blobs/sha256/HEX        blobs

A document is created with `If-None-Match: *` (S3) or `ifGenerationMatch=0` (GCS), so that the store itself accepts only
one of two writers. Listing documents takes one request per thousand, and does not list blobs.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from turnout.config import RepositoryUrl
from turnout.errors import ConfigError
from turnout.outbound import uses_proxies
from turnout.registry.remote.store import CHUNK, Blob, Document
from turnout.registry.storage.faults import StoreFault

_PAGE = 1000
_BUSY_SECONDS = 0.2
_CREATES = 5
_UPLOADS_AT_ONCE = 4
"""Number of parts of a file that are uploaded at the same time, 50 MiB each."""

_ATTEMPTS = 3
"""Attempts per request, within half a second. Botocore's own retries are up to 20 s apart, and another poll follows
anyway."""

_RETRIED = frozenset({429, 500, 502, 503, 504})
"""Statuses of S3, or of a proxy before it, after which a request is sent again. s3fs knows `SlowDown` alone."""

_CODE = re.compile(r"[A-Za-z0-9_.]{1,64}")
_BLOB = re.compile(r"[0-9a-f]{64}")


class ObjectStore:
    """A store in a bucket, under a prefix."""

    def __init__(self, url: RepositoryUrl, endpoint: str, timeout: float, max_objects: int) -> None:
        """Creates the store without sending a request.

        Args:
            url: URL of the bucket and prefix.
            endpoint: Address of the service; "" for the default.
            timeout: Maximum time of a request in seconds.
            max_objects: Maximum number of objects to list.

        Raises:
            ConfigError: The extra is not installed, or the store's library cannot be set up.
        """
        self._url = url
        self._timeout = timeout
        self._max = max_objects
        self._bucket = url.host
        self._prefix = f"{url.path}/" if url.path else ""
        self._system = (_s3 if url.scheme == "s3" else _gcs)(endpoint, timeout)

    def documents(self) -> Sequence[Document]:  # noqa: D102 - as Store
        folder = f"{self._prefix}models/"
        return [replace(found, key=found.key.removeprefix(folder)) for found in self._list(folder)]

    def read(self, document: Document, most: int) -> bytes:  # noqa: D102 - as Store
        return self._range(self._document(document.key), 0, min(document.size, most + 1))

    def current(self, key: str, most: int) -> bytes | None:  # noqa: D102 - as Store
        try:
            path = self._document(key)
            return self._range(path, 0, min(self._info(path).size, most + 1))
        except FileNotFoundError:
            return None

    def create(self, key: str, data: bytes) -> None:  # noqa: D102 - as Store
        for last in (*[False] * (_CREATES - 1), True):
            try:
                with _translated():
                    self._system.pipe_file(self._document(key), data, mode="create", timeout=self._timeout)
                return
            except StoreFault as error:
                # If two processes write at the same time, S3 may refuse both; they then have to look again.
                if last or "ConditionalRequestConflict" not in (error.strerror or ""):
                    raise
                time.sleep(_BUSY_SECONDS)

    def replace(self, key: str, data: bytes) -> None:  # noqa: D102 - as Store
        with _translated():
            self._system.pipe_file(self._document(key), data, timeout=self._timeout)

    def delete(self, key: str) -> None:  # noqa: D102 - as Store
        self._delete(self._document(key))

    def stat_blob(self, digest: str) -> Blob | None:  # noqa: D102 - as Store
        try:
            found = self._info(self._blob(digest))
        except FileNotFoundError:
            return None
        return Blob(digest, found.size, found.modified or 0.0)

    def put_blob(self, digest: str, file: Path) -> None:  # noqa: D102 - as Store
        # An object appears once it is complete; parts left behind by a killed process are not objects.
        with _translated():
            options = {"max_concurrency": _UPLOADS_AT_ONCE} if self._url.scheme == "s3" else {}
            self._system.put_file(str(file), self._blob(digest), **options)

    def read_blob(self, digest: str, size: int) -> Iterator[bytes]:  # noqa: D102 - as Store
        path = self._blob(digest)
        if size == 0:
            self._info(path)
        for start in range(0, size, CHUNK):
            yield self._range(path, start, min(start + CHUNK, size))

    def blobs(self) -> Sequence[Blob] | None:  # noqa: D102 - as Store
        folder = f"{self._prefix}blobs/sha256/"
        named = [(found.key.removeprefix(folder), found) for found in self._list(folder)]
        return [
            Blob(f"sha256:{name}", found.size, found.modified or 0.0) for name, found in named if _BLOB.fullmatch(name)
        ]

    def delete_blob(self, digest: str) -> None:  # noqa: D102 - as Store
        self._delete(self._blob(digest))

    def close(self) -> None:
        """Does nothing: the library closes its connections when it is garbage-collected."""

    def _document(self, key: str) -> str:
        return f"{self._bucket}/{self._prefix}models/{key}"

    def _blob(self, digest: str) -> str:
        return f"{self._bucket}/{self._prefix}blobs/sha256/{digest.removeprefix('sha256:')}"

    def _range(self, path: str, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        with _translated():
            return bytes(self._system.cat_file(path, start=start, end=end, timeout=self._timeout))

    def _info(self, path: str) -> Document:
        with _translated():
            found = self._system.info(path, timeout=self._timeout)
        if found.get("type") != "file":
            raise FileNotFoundError
        modified = found.get("LastModified") or found.get("mtime") or found.get("updated")
        return Document(path, str(found.get("ETag") or found.get("etag")), int(found["size"]), _seconds(modified))

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError), _translated():
            self._system.rm_file(path, timeout=self._timeout)

    def _list(self, folder: str) -> list[Document]:
        found: list[Document] = []
        page = self._page_s3 if self._url.scheme == "s3" else self._page_gcs
        token = ""
        for _ in range(self._max):  # a page may be empty, with others after it
            with _translated():
                listed, following = page(folder, token)
            found += listed
            if len(found) > self._max:
                raise StoreFault(0, f"holds more than {self._max} objects (repository.max_objects)")
            if not following:
                return found
            if following == token:
                break
            token = following
        raise StoreFault(5, "answers with a listing that does not end")

    def _page_s3(self, folder: str, token: str) -> tuple[list[Document], str]:
        more = {"ContinuationToken": token} if token else {}
        answer = self._system.call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=folder, MaxKeys=_PAGE, timeout=self._timeout, **more
        )
        listed = [
            Document(one["Key"], one["ETag"], int(one["Size"]), _seconds(one["LastModified"]))
            for one in answer.get("Contents", ())
        ]
        return listed, str(answer.get("NextContinuationToken") or "") if answer.get("IsTruncated") else ""

    def _page_gcs(self, folder: str, token: str) -> tuple[list[Document], str]:
        more = {"pageToken": token} if token else {}
        answer = self._system.call(
            "GET", "b/{}/o", self._bucket, prefix=folder, maxResults=_PAGE, json_out=True, timeout=self._timeout, **more
        )
        listed = [
            Document(one["name"], f"{one.get('generation', '')}-{one.get('etag', '')}", int(one.get("size", 0)),
                    _seconds(one.get("updated") or one.get("timeCreated")))
            for one in answer.get("items", ())
        ]  # fmt: skip
        return listed, str(answer.get("nextPageToken") or "")


def _s3(endpoint: str, timeout: float) -> Any:
    try:
        import s3fs.core
    except ImportError as error:
        raise ConfigError("s3:// needs an extra that is not installed: pip install 'turnout[s3]'") from error
    address = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    system = s3fs.S3FileSystem(
        endpoint_url=endpoint or None,
        config_kwargs={
            "proxies": None if uses_proxies(address) else {},  # None: those of the environment
            "connect_timeout": timeout / 4,
            "read_timeout": timeout,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    system.retries = _ATTEMPTS
    if hasattr(s3fs.core, "set_custom_error_handler"):  # later than 2025.10; earlier releases repeat fewer requests
        s3fs.core.set_custom_error_handler(_busy)  # of the process: all of its file systems
    return system


def _busy(error: BaseException) -> bool:
    """Returns whether S3 will probably answer the same request soon."""
    response = getattr(error, "response", None)
    return isinstance(response, dict) and response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _RETRIED


def _gcs(endpoint: str, timeout: float) -> Any:
    try:
        from gcsfs.core import GCSFileSystem  # the class exported by the package asks for each bucket's kind, by gRPC
    except ImportError as error:
        raise ConfigError("gs:// needs an extra that is not installed: pip install 'turnout[gs]'") from error
    with _translated():
        return GCSFileSystem(
            endpoint_url=endpoint or None, requests_timeout=timeout, use_listings_cache=False, skip_instance_cache=True
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Converts errors of the store's library to OSErrors that contain no address and no key."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno or 2, "is not there") from error
    except FileExistsError as error:
        raise FileExistsError(error.errno or 17, "exists") from error
    except Exception as error:
        code = _code(error)
        refused = isinstance(error, PermissionError)
        what = "refuses access" if refused else "answers with an error" if code else "does not answer"
        text = f"{what}: {code or type(error.__cause__ or error).__name__}"
        raise StoreFault(getattr(error, "errno", None) or 5, text) from error


def _code(error: BaseException) -> str:
    """Returns the store's own code of an error; "" if the error does not come from the store."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(one, "code", None)
        if code and _CODE.fullmatch(str(code)):
            return str(code)
    return ""


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else 0.0
