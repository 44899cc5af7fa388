"""Methods of the service for the model repository extension."""

from turnout.oip.extensions.repository import ModelRepository, check_control, check_repository
from turnout_proto.oip import inference_pb2 as pb


class RepositoryMethods:
    """Lists, loads and unloads versions."""

    def __init__(self, repository: ModelRepository, *, allow_control: bool) -> None:
        """Initializes the methods; `allow_control` says whether clients of this listener may load and unload."""
        self._repository = repository
        self._allow_control = allow_control

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:  # noqa: N802 - gRPC's
        """Lists every version with its state."""
        check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=self._repository.index(ready=request.ready))

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:  # noqa: N802 - gRPC's
        """Loads the version that `NAME` or `NAME@SELECTOR` resolves to."""
        check_control(allowed=self._allow_control)
        check_repository(request.repository_name)
        await self._repository.load(request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads the version that `NAME@SELECTOR` resolves to, or all loaded versions of `NAME`."""
        check_control(allowed=self._allow_control)
        check_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()
