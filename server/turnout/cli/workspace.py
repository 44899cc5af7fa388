"""The repository and the state store of a command that works without a server."""

import atexit
import getpass
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import typer
from semver import Version

from turnout.cli.options import DiskTarget
from turnout.config import Settings, load_settings
from turnout.config.repository_url import NO_STATE
from turnout.errors import ConfigError, InvalidRequest, ModelNotFound, NotFoundError
from turnout.host import process
from turnout.registry.manifest.names import check_model_name, parse_version
from turnout.registry.storage.listing import Listing, Published
from turnout.registry.storage.repository import Repository
from turnout.rollout.machine.actors import check_person
from turnout.routing.selection.resolution import VersionIndex, resolve
from turnout.routing.selection.selector import Selector
from turnout.state.release_status import ReleaseState

if TYPE_CHECKING:  # importing SQLAlchemy takes 0.1 s, and commands that ask a server do not need it
    from turnout.publishing import Publisher
    from turnout.releases.release import ReleaseStateWriter
    from turnout.rollout.changes.operations import Operations
    from turnout.state.store import StateStore

_ACTOR_BYTES = 256

_MADE = (
    "warning: a new state store was created, since there was none: it has no record of releases, tags, yanks or "
    "policies, and so all versions in the repository are candidates. If there was a store before, stop the servers, "
    "remove the new one and put a backup in its place"
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The repository and state store that `--models`, `--state` and `--config` name.

    Attributes:
        settings: Settings, the same as a server has with these options.
    """

    settings: Settings
    repository: Repository

    @classmethod
    def open(cls, target: DiskTarget) -> Self:
        """Reads the configuration. Opens neither repository nor store.

        Raises:
            ConfigError: The configuration is invalid.
        """
        settings = load_settings(target.config, {"models": target.models, "state": target.state}).settings
        return cls(settings, repository_of(settings))

    @property
    def state_url(self) -> str:
        """URL of the state store.

        Raises:
            ConfigError: No store is configured, and the repository cannot contain one.
        """
        if not self.settings.state_url:
            raise ConfigError(NO_STATE.format(self.repository.place))
        return self.settings.state_url

    def has_store(self) -> bool:
        """Returns whether the state store exists. Only an SQLite file can be missing without an error."""
        from turnout.state.database.engine import Location

        if self._forgets:
            return False
        location = Location.parse(self.settings.state_url)
        return location.url.drivername != "sqlite" or Path(location.url.database or "").exists()

    def store(self) -> "StateStore":
        """Opens the state store, or creates it. Warns if it was created and there are already versions.

        Raises:
            ConfigError: The store cannot be used, or the repository is read-only and no store is configured.
        """
        from turnout.state.store import StateStore

        if self._forgets and not self.settings.read_only:
            raise ConfigError(NO_STATE.format(self.repository.place))
        if self._forgets:
            raise ConfigError(
                "the repository is read-only, and its server keeps all changes in memory: ask that server, or name a"
                " state store with --state"
            )

        made = not self.has_store()
        store = StateStore.open(self.settings.state_url)
        if made and self._holds_versions():
            typer.echo(_MADE, err=True)
        return store

    @contextmanager
    def changes(self) -> "Iterator[tuple[ReleaseStateWriter, Operations]]":
        """Yields the objects that record changes of releases and tags, and of which versions answer.

        Raises:
            ConfigError: The repository does not exist, or the store cannot be used.
        """
        from turnout.releases.release import ReleaseStateWriter
        from turnout.rollout.changes.operations import Operations

        self.require_repository()
        with self.named(), self.store() as store:
            yield ReleaseStateWriter(self.repository, store), Operations(self.repository, store)

    @contextmanager
    def named(self) -> "Iterator[None]":
        """Adds the repository to errors about what does not exist in it, since a server may serve another one."""
        try:
            yield
        except NotFoundError as error:
            raise type(error)(f"{error.message} (in the repository {self.repository.place})") from None

    @contextmanager
    def publisher(self, store: "StateStore") -> "Iterator[Publisher]":
        """Yields a publisher for the repository, with processes in which it runs models."""
        from turnout.publishing import Publisher
        from turnout.serving.sandbox.fork_server import start_processes

        with closing(start_processes()) as processes:
            yield Publisher(self.settings, self.repository, store, processes)

    @property
    def _forgets(self) -> bool:
        return (self.settings.read_only or self.repository.remote) and not self.settings.state

    def _holds_versions(self) -> bool:
        try:
            return bool(self.repository.published())
        except OSError:
            return False

    def require_repository(self) -> None:
        """Checks that the repository exists. Raises ConfigError if it does not exist."""
        root = self.repository.root
        if not self.repository.remote and not root.is_dir():
            raise ConfigError(
                f"there is no model repository at {root}: name one with --models DIR, or publish to create it"
            )

    def scan(self) -> Listing:
        """Lists the repository. Raises ConfigError if the repository does not exist, or cannot be read."""
        self.require_repository()
        place = self.repository.place
        try:
            listing = self.repository.scan()
        except OSError as error:
            raise ConfigError(f"the model repository {place} cannot be read: {error.strerror}") from None
        if listing.away:
            typer.echo(f"warning: the model repository {place} {listing.away}", err=True)
        return listing

    def release_state(self) -> ReleaseState:
        """Returns the release state of all models. It is empty if the store does not exist, which is not created."""
        if not self.has_store():
            return ReleaseState()
        with self.store() as store:
            return store.release_state()

    def baselines(self) -> dict[str, Version]:
        """Returns the baselines of the policies in force, by model."""
        if not self.has_store():
            return {}
        from turnout.routing.policy import readable

        with self.store() as store:
            states = {model: readable(record.document) for model, record in store.policies().items()}
        return {model: state.policy.baseline for model, state in states.items() if state and state.policy}


def repository_of(settings: Settings) -> Repository:
    """Returns the repository that the settings name."""
    if not settings.read_only and isinstance(settings.models, Path):
        return Repository(settings.models)
    from turnout.app.read_only import open_repository
    from turnout.registry.onnx.model import read_model
    from turnout.scratch import Scratch

    scratch = Scratch()
    atexit.register(scratch.close)
    repository = open_repository(settings, read_model, scratch.disk)
    atexit.register(repository.close)
    return repository


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """One model: its published versions and their release state.

    Attributes:
        published: Published versions, highest precedence first.
        index: Index that resolves selectors.
        baseline: Baseline of the policy in force; None if there is no policy, or it was not read.
    """

    name: str
    published: Mapping[Version, Published]
    index: VersionIndex
    baseline: Version | None = None

    @classmethod
    def of(cls, name: str, listing: Listing, release_state: ReleaseState, baseline: Version | None = None) -> Self:
        """Gathers the versions and the release state of the model `name`.

        Raises:
            InvalidRequest: The name is not a valid model name.
            ModelNotFound: The model does not exist; the error names the most similar one.
        """
        published = {p.manifest.version: p for p in reversed(listing.versions(check_model_name(name)))}
        if not published:
            raise ModelNotFound.named(name, listing.models)
        model_releases = release_state.of(name)
        index = VersionIndex.of(
            name,
            {version: model_releases.release_status(version) for version in published},
            tags=model_releases.tags,
            digests={p.digest: version for version, p in published.items()},
        )
        return cls(name, published, index, baseline)

    def resolve(self, selector: Selector) -> Published:
        """Returns the version that `selector` names.

        Raises:
            VersionNotFound: No version matches; the error names the nearest ones.
        """
        return self.published[resolve(selector, self.index, prefer_ready=False)]

    @property
    def default(self) -> Version | None:
        """The version that the empty selector resolves to, disregarding canaries; None if nothing is released."""
        if self.baseline is not None:
            return next((v for v in self.published if v == self.baseline), None)
        return next((v for v in self.index.released if v.prerelease is None), None)


def split_reference(text: str) -> tuple[str, str | None]:
    """Splits `NAME@SELECTOR`; the selector is None if there is no `@`.

    Raises:
        InvalidRequest: NAME is not a valid model name.
    """
    name, at, selector = text.partition("@")
    return check_model_name(name), selector if at else None


def exact_reference(text: str) -> tuple[str, Version]:
    """Splits `NAME@VERSION`.

    Raises:
        InvalidRequest: NAME is not a valid model name, or VERSION is missing or not exact.
    """
    name, version = split_reference(text)
    if not version:
        raise InvalidRequest.at("version", f"expected NAME@VERSION, such as {name}@3.2.0, got {text[:128]!r}")
    return name, parse_version(version)


def actor_or_login(actor: str | None) -> str:
    """Returns `actor` or, if it is None, the login and host of the user.

    Raises:
        InvalidRequest: The actor has the form of a rollout's name.
    """
    if actor is not None:
        check_person(actor, "--actor")
        return actor
    try:
        login = getpass.getuser()
    except (ImportError, KeyError, OSError):  # containers run with user ids that are in no user database
        login = f"uid {process.user_id()}"
    return f"{login}@{socket.gethostname()}".encode()[:_ACTOR_BYTES].decode("utf-8", "ignore")
