"""The model repository extension: lists versions and, if permitted, loads and unloads them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.errors import PermissionDeniedError, Unsupported
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.serving.versions.follow import VersionFinder
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.manager import Manager
from turnout.state.release_status import ReleaseStatus
from turnout.workers.peers import Peers
from turnout_proto.oip.inference_pb2 import RepositoryIndexResponse

STATES: Mapping[LifecycleState, str] = {
    LifecycleState.NEW: "UNAVAILABLE",
    LifecycleState.LOADING: "LOADING",
    LifecycleState.WARMING: "LOADING",
    LifecycleState.READY: "READY",
    LifecycleState.DRAINING: "UNLOADING",
    LifecycleState.UNLOADED: "UNAVAILABLE",
    LifecycleState.FAILED: "UNAVAILABLE",
}
"""Triton's names for the states of a version."""

_IN_MEMORY = {LifecycleState.LOADING, LifecycleState.WARMING, LifecycleState.READY}


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """Lists, loads and unloads versions.

    `asked` has the requests of operators for single versions, by model: True to load, False to unload.
    """

    router: Router
    catalog: Catalog
    control: Manager | Peers
    finder: VersionFinder
    asked: Mapping[str, Mapping[Version, bool]]

    def names(self) -> Sequence[str]:
        """Returns the names of all models."""
        return list(self.catalog.snapshot.models)

    def index(self, *, ready: bool) -> Iterable[RepositoryIndexResponse.ModelIndex]:
        """Yields all versions with their states, or only those that are ready if `ready` is true.

        The versions are grouped by model, and in ascending order within a model.
        """
        for model in self.catalog.snapshot.models.values():
            for entry in reversed(list(model.versions.values())):
                if entry.state is LifecycleState.READY or not ready:
                    yield RepositoryIndexResponse.ModelIndex(
                        name=entry.model, version=str(entry.version), state=STATES[entry.state], reason=entry.reason
                    )

    async def load(self, name: str, parameters: Iterable[str]) -> None:
        """Loads the version that `NAME` or `NAME@SELECTOR` resolves to, by what is published and released now.

        `NAME` also loads the model's other versions that were unloaded, except yanked ones: clients that reload a model
        expect to find what they unloaded. `parameters` has the names of the request's other parameters.

        Raises:
            Unsupported: The request contains a configuration or files of its own.
            TurnoutError: As for `Router.describe` and `Manager.load`.
        """
        for key in parameters:
            if key == "config" or key.startswith("file:"):
                raise Unsupported(
                    f"parameters.{key[:64]}: a version's configuration and files are those it was published with"
                )
        model, at, selector = name.partition("@")
        await self.finder.look()
        entry = self.router.describe(model, selector)
        entries = [entry, *(() if at else self._unloaded(entry))]
        for each in entries:
            await self.control.load(each.model, each.version)

    def _unloaded(self, default: VersionEntry) -> Iterable[VersionEntry]:
        """Returns the versions of a model, other than the default, that operators unloaded and nobody yanked."""
        asked, versions = self.asked.get(default.model, {}), self.catalog.snapshot.model(default.model).versions
        return [
            entry
            for version, entry in versions.items()
            if version != default.version
            and asked.get(version) is False
            and entry.release_status is not ReleaseStatus.YANKED
        ]

    async def unload(self, name: str) -> None:
        """Unloads the version that `NAME@SELECTOR` resolves to, or all loaded versions of `NAME`.

        Raises:
            TurnoutError: As for `Router.describe` and `Manager.unload`.
        """
        model, at, selector = name.partition("@")
        if at:
            entries: Iterable[VersionEntry] = [self.router.describe(model, selector)]
        else:
            entries = [e for e in self.catalog.snapshot.model(model).versions.values() if e.state in _IN_MEMORY]
        for entry in entries:
            await self.control.unload(entry.model, entry.version)


def check_control(*, allowed: bool) -> None:
    """Raises PermissionDeniedError if the listener does not allow loading and unloading."""
    if not allowed:
        raise PermissionDeniedError(
            "this listener loads and unloads nothing: ask the control listener, or set oip.allow_repository_control"
        )


def check_repository(name: str) -> None:
    """Raises Unsupported if a request names a repository, since a server has only one."""
    if name:
        raise Unsupported("repository_name: a server has one repository, and it goes by no name")
