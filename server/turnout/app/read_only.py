"""A server whose repository is mounted read-only: what is kept elsewhere, and what is declared of what is found."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from turnout.config import ModelTable, RepositoryUrl, Settings
from turnout.config.repository_url import NO_STATE
from turnout.errors import ConfigError
from turnout.registry.mounted.repository import MountedRepository
from turnout.registry.onnx.model import ReadModel
from turnout.registry.remote.opening import open_remote
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.scratch import Scratch
from turnout.state.database.engine import Location, sqlite_url
from turnout.state.store import StateStore

_SECONDS = 10.0
"""What a look at the directory may take before the rest of the server goes on without it."""

ACTOR = "server"
BY_POLICY = "its version policy serves it"
_FORGOTTEN = "until-the-server-ends.db"
"""File of a state store that ends with its server. Workers, which are handed the URL of one, know it by this name."""

MOUNTED = "the repository is mounted read-only, and no state says otherwise"


def with_state(settings: Settings, scratch: Scratch) -> Settings:
    """Returns settings with a state store: in memory, where the repository is read-only and none is named.

    Raises:
        ConfigError: There is no place for it.
    """
    if not settings.state and not settings.read_only and isinstance(settings.models, RepositoryUrl):
        raise ConfigError(NO_STATE.format(settings.models))
    if not settings.read_only or settings.state:
        return settings
    return settings.model_copy(update={"state": sqlite_url(scratch.memory() / _FORGOTTEN)})


def forgets(settings: Settings) -> bool:
    """Tells whether the state store is one that `with_state` made: nobody has declared anything there."""
    file = _file_of(settings)
    return file is not None and file.name == _FORGOTTEN


def place_to_write(settings: Settings, scratch: Scratch) -> Path:
    """Returns the directory that a server writes to beside its state store: that of the repository, or, where that is
    read-only, of the state store's file.

    Raises:
        ConfigError: There is no place for it.
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
    """Returns the repository that settings name. Nothing is read yet.

    Args:
        settings: Of the server.
        read: Reads ONNX files.
        scratch: Returns a directory of this process's own; called when it is needed.

    Raises:
        ConfigError: It lives elsewhere, and the extra for that is not installed, or the cache cannot be used.
    """
    if isinstance(settings.models, RepositoryUrl):
        return open_remote(settings.models, settings.repository, read_only=settings.read_only)
    root = settings.models.absolute()
    return MountedRepository(root, read, scratch) if settings.read_only else Repository(root)


class Mount:
    """Keeps the state store and the settings in step with what is found in a read-only repository."""

    def __init__(
        self,
        repository: Repository,
        store: StateStore,
        models: ModelTable,
        log: FilteringBoundLogger,
        *,
        release_all: bool,
    ) -> None:
        """Prepares.

        Args:
            repository: What is found.
            store: Keeps what is declared.
            models: Settings by model.
            log: Takes what Triton's configurations ask for in vain.
            release_all: Nobody else declares anything: every version that is not a prerelease is released.
        """
        self._repository = repository
        self._store = store
        self._models = models
        self._log = log
        self._release_all = release_all
        self._following: asyncio.Future[None] | None = None
        self._seen: tuple[Published, ...] = ()
        self._warned: set[str] = set()

    async def refresh(self) -> None:
        """Follows what is found, as far as the file system answers: one that hangs is waited for once.

        Raises:
            OSError, UnavailableError: As `follow`.
        """
        seconds = 0.0
        if self._following is None:
            self._following, seconds = asyncio.ensure_future(self._repository.in_thread(self.follow)), _SECONDS
        following = self._following  # whoever asks meanwhile may be the first to see that it has ended
        await asyncio.wait([following], timeout=seconds)
        if following.done():
            if self._following is following:
                self._following = None
            following.result()

    def follow(self) -> None:
        """Records and releases versions that are new, and takes over the settings that they bring. Blocking.

        Raises:
            OSError: The directory cannot be read.
            UnavailableError: The state store does not answer.
        """
        try:
            published = self._repository.scan().published
        except OSError:
            if self._repository.remote:  # whoever looks at what exists tells it
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
            # First the release: one that is cut short is made once more, since no event tells of the version.
            if by_policy or (self._release_all and not version.prerelease):
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


def mounted(
    repository: Repository, store: StateStore, models: ModelTable, log: FilteringBoundLogger, *, release_all: bool
) -> Mount | None:
    """Returns what follows a repository that is read-only; None where it is not."""
    if not isinstance(repository, MountedRepository) and not (repository.remote and release_all):
        return None
    return Mount(repository, store, models, log, release_all=release_all)
