"""Support for read-only repositories: the location of state and other files, and the release of versions found."""

import asyncio
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from turnout.config import ModelTable, RepositoryUrl, Settings
from turnout.config.repository_url import NO_STATE
from turnout.errors import ConfigError
from turnout.registry.mounted.repository import MountedRepository
from turnout.registry.onnx.model import ReadModel
from turnout.registry.remote.repository import open_remote
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.scratch import Scratch
from turnout.state.database.engine import Location, sqlite_url
from turnout.state.store import StateStore

_SECONDS = 10.0
"""Time in seconds that the server waits for a scan of the directory before it continues without the result."""

ACTOR = "server"
BY_POLICY = "its version policy serves it"
_FORGOTTEN = "until-the-server-ends.db"
"""File name of a temporary state store. Workers, which receive its URL, recognize a temporary store by this name."""

MOUNTED = "the repository is mounted read-only, and no state says otherwise"


def with_state(settings: Settings, scratch: Scratch) -> Settings:
    """Returns settings with a state store: a temporary one if the repository is read-only and none is configured.

    Raises:
        ConfigError: No location for the state store is available, or a remote repository that is not read-only is
            configured without one.
    """
    if not settings.state and not settings.read_only and isinstance(settings.models, RepositoryUrl):
        raise ConfigError(NO_STATE.format(settings.models))
    if not settings.read_only or settings.state:
        return settings
    return settings.model_copy(update={"state": sqlite_url(scratch.memory() / _FORGOTTEN)})


def forgets(settings: Settings) -> bool:
    """Returns whether the state store is a temporary one that `with_state` added, so that operators record nothing."""
    file = _file_of(settings)
    return file is not None and file.name == _FORGOTTEN


def place_to_write(settings: Settings, scratch: Scratch) -> Path:
    """Returns the directory for files that a server writes in addition to its state store.

    This is the directory of the repository; if that is read-only or remote, the directory of the state store's file;
    if there is none, a temporary directory.

    Raises:
        ConfigError: No directory is available.
    """
    if isinstance(settings.models, Path) and not settings.read_only:
        return settings.models.absolute()
    file = _file_of(settings)
    return scratch.memory() if file is None else file.parent


def _file_of(settings: Settings) -> Path | None:
    if not settings.state_url:
        return None
    url = Location.parse(settings.state_url).url
    return Path(url.database).absolute() if url.drivername == "sqlite" and url.database else None


def open_repository(settings: Settings, read: ReadModel, scratch: Callable[[], Path]) -> Repository:
    """Returns the configured repository, without reading it. `scratch` returns a temporary directory if one is needed.

    Raises:
        ConfigError: The repository is remote, and the extra for it is not installed or the cache cannot be used.
    """
    if isinstance(settings.models, RepositoryUrl):
        return open_remote(settings.models, settings.repository, read_only=settings.read_only)
    root = settings.models.absolute()
    return MountedRepository(root, read, scratch) if settings.read_only else Repository(root)


@dataclass(eq=False, repr=False)
class Mount:
    """Keeps the state store and the settings in step with the contents of a read-only repository.

    With `release_all`, every version except prereleases is released, because the state store is temporary.
    """

    _repository: Repository
    _store: StateStore
    _models: ModelTable
    _log: FilteringBoundLogger
    _: KW_ONLY
    release_all: bool
    _following: asyncio.Future[None] | None = field(init=False, default=None)
    _seen: tuple[Published, ...] = field(init=False, default=())
    _warned: set[str] = field(init=False, default_factory=set)

    async def refresh(self) -> None:
        """Runs `follow`, but does not wait for it again if the file system hangs.

        Raises:
            OSError, UnavailableError: As for `follow`.
        """
        seconds = 0.0
        if self._following is None:
            self._following, seconds = asyncio.ensure_future(self._repository.in_thread(self.follow)), _SECONDS
        following = self._following  # a concurrent call may be the first to see that it has ended
        await asyncio.wait([following], timeout=seconds)
        if following.done():
            if self._following is following:
                self._following = None
            following.result()

    def follow(self) -> None:
        """Records and releases new versions, and applies the settings that come with them. Blocking.

        Raises:
            OSError: The directory cannot be read.
            UnavailableError: The state store does not respond.
        """
        try:
            published = self._repository.scan().published
        except OSError:
            if self._repository.remote:  # reported by the code that lists the versions to load
                return
            raise
        if published is self._seen:
            return
        triton = self._repository if isinstance(self._repository, MountedRepository) else None
        if triton is not None:
            self._take_settings(triton)
        known = self._store.published()
        for one in published:
            model, version = one.manifest.model, one.manifest.version
            if (model, str(version)) in known:
                continue
            by_policy = triton is not None and triton.is_triton(one)
            # Release first: if this is interrupted, it is repeated, since the version has not been recorded.
            if by_policy or (self.release_all and not version.prerelease):
                self._store.release(model, version, actor=ACTOR, reason=BY_POLICY if by_policy else MOUNTED)
            self._store.record_published(
                model, version, one.digest, actor=ACTOR, reason="found in the directory that is mounted", found=True
            )
        self._seen = published

    def _take_settings(self, repository: MountedRepository) -> None:
        try:
            self._models.put_beneath(repository.settings)
        except ValueError as error:
            self._log.warning("what config.pbtxt sets cannot be set", reason=str(error))
        for model, rows in repository.left_out.items():
            if model not in self._warned:
                self._warned.add(model)
                notes = {row.path: row.note for row in rows}
                self._log.warning("config.pbtxt has what this server has not", model=model, fields=notes)
