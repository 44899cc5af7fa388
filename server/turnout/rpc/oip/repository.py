"""The repository extension: which versions there are, and, where that is allowed, loading and unloading them."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from semver import Version

from turnout.errors import PermissionDenied, Unsupported
from turnout.serving.catalog import Catalog, VersionEntry
from turnout.serving.inference import Router
from turnout.serving.lifecycle import LifecycleState
from turnout_proto.oip import inference_pb2 as pb

STATES: Mapping[LifecycleState, str] = {
    LifecycleState.NEW: "UNAVAILABLE",
    LifecycleState.LOADING: "LOADING",
    LifecycleState.WARMING: "LOADING",
    LifecycleState.READY: "READY",
    LifecycleState.DRAINING: "UNLOADING",
    LifecycleState.UNLOADED: "UNAVAILABLE",
    LifecycleState.FAILED: "UNAVAILABLE",
}
"""Triton's words for the states of a version."""

_IN_MEMORY = {LifecycleState.LOADING, LifecycleState.WARMING, LifecycleState.READY}


class VersionControl(Protocol):
    """Brings versions into service and takes them out; `turnout.serving.manager` is the one that ships."""

    async def load(self, model: str, version: Version) -> VersionEntry:
        """Loads a version and waits until it is ready."""
        ...

    async def unload(self, model: str, version: Version) -> VersionEntry:
        """Takes a version out of service and waits until its memory is freed."""
        ...


class RepositoryMethods:
    """Lists, loads and unloads versions."""

    def __init__(self, router: Router, catalog: Catalog, control: VersionControl, *, allow_control: bool) -> None:
        """Prepares.

        Args:
            router: Tells which version a selector names.
            catalog: Tells what there is.
            control: Loads and unloads.
            allow_control: Whether clients of this listener may load and unload.
        """
        self._router = router
        self._catalog = catalog
        self._control = control
        self._allow_control = allow_control

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:  # noqa: N802 - gRPC's
        """Lists every version with its state."""
        _check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.model, version=str(entry.version), state=STATES[entry.state], reason=entry.reason
                )
                for model in self._catalog.snapshot.models.values()
                for entry in reversed(list(model.versions.values()))
                if entry.state is LifecycleState.READY or not request.ready
            ]
        )

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:  # noqa: N802 - gRPC's
        """Loads the version that `NAME` or `NAME@SELECTOR` names."""
        self._check_allowed()
        _check_repository(request.repository_name)
        _check_load_parameters(request.parameters)
        name, _, selector = request.model_name.partition("@")
        entry = self._router.describe(name, selector)
        await self._control.load(entry.model, entry.version)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads the version that `NAME@SELECTOR` names, or all that are loaded of `NAME`."""
        self._check_allowed()
        _check_repository(request.repository_name)
        name, at, selector = request.model_name.partition("@")
        if at:
            entries: Iterable[VersionEntry] = [self._router.describe(name, selector)]
        else:
            entries = [e for e in self._catalog.snapshot.model(name).versions.values() if e.state in _IN_MEMORY]
        for entry in entries:
            await self._control.unload(entry.model, entry.version)
        return pb.RepositoryModelUnloadResponse()

    def _check_allowed(self) -> None:
        if not self._allow_control:
            raise PermissionDenied(
                "this listener loads and unloads nothing: ask the control listener, or set oip.allow_repository_control"
            )


def _check_repository(name: str) -> None:
    if name:
        raise Unsupported("repository_name: a server has one repository, and it goes by no name")


def _check_load_parameters(parameters: Mapping[str, Any]) -> None:
    for key in parameters:
        if key == "config" or key.startswith("file:"):
            raise Unsupported(
                f"parameters.{key[:64]}: a version's configuration and files are those it was published with"
            )
