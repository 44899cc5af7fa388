"""Methods of the service other than inference."""

from turnout import __version__
from turnout.auth.caller import actor_of
from turnout.config import Oip
from turnout.errors import DigestMismatch, NotFoundError, NotLoaded, UnavailableError
from turnout.oip.description import SERVER
from turnout.oip.extensions.repository import check_control, check_repository
from turnout.oip.extensions.settings import check_changes
from turnout.oip.extensions.shared_memory import no_cuda, no_cuda_region
from turnout.oip.services import OipServices
from turnout.rpc.oip.codec import value_of
from turnout.rpc.transport.port import RpcCall
from turnout_proto.oip import inference_pb2 as pb


class OipMethods:
    """The service's methods, each with the signature that `MethodGuard.methods` describes."""

    def __init__(self, oip: OipServices, allowed: Oip) -> None:
        """Initializes the methods; `allowed` says what clients of this listener may change."""
        self._oip = oip
        self._allowed = allowed

    async def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Reports that the server is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Returns whether the server is ready for traffic."""
        return pb.ServerReadyResponse(ready=self._oip.description.ready())

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Returns whether a request for a version would be accepted now."""
        try:
            self._oip.description.check_ready(request.name, request.version)
        except (NotFoundError, NotLoaded, UnavailableError, DigestMismatch):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Describes the server."""
        extensions = self._oip.description.extensions
        return pb.ServerMetadataResponse(name=SERVER, version=__version__, extensions=extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Describes the inputs and outputs of a version."""
        return self._oip.description.metadata(request.name, request.version)

    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Describes a version as a Triton model configuration."""
        return pb.ModelConfigResponse(config=self._oip.description.config(request.name, request.version))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Returns the statistics of one version, or of all loaded versions."""
        return await self._oip.statistics.of(request.name, request.version)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Lists every version with its state."""
        check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=self._oip.repository.index(ready=request.ready))

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Loads the version that `NAME` or `NAME@SELECTOR` resolves to."""
        check_control(allowed=self._allowed.allow_repository_control)
        check_repository(request.repository_name)
        await self._oip.repository.load(request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unloads the version that `NAME@SELECTOR` resolves to, or all loaded versions of `NAME`."""
        check_control(allowed=self._allowed.allow_repository_control)
        check_repository(request.repository_name)
        await self._oip.repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def LogSettings(self, request: pb.LogSettingsRequest, call: RpcCall) -> pb.LogSettingsResponse:
        """Applies the logging settings in the request, if any, and returns all of them."""
        if request.settings:
            check_changes(allowed=self._allowed.allow_settings_changes)
            settings = {name: value_of(setting) for name, setting in request.settings.items()}
            await self._oip.settings.change_log(settings, actor_of(call.caller))
        response = pb.LogSettingsResponse()
        for name, value in self._oip.settings.log().items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            elif isinstance(value, int):
                response.settings[name].uint32_param = value
            else:
                response.settings[name].string_param = value
        return response

    async def TraceSetting(self, request: pb.TraceSettingRequest, call: RpcCall) -> pb.TraceSettingResponse:
        """Applies the trace settings in the request, if any, to one model or to all, and returns the settings."""
        if request.settings:
            check_changes(allowed=self._allowed.allow_settings_changes)
            settings = {name: list(setting.value) for name, setting in request.settings.items()}
            await self._oip.settings.change_trace(request.model_name, settings, actor_of(call.caller))
        response = pb.TraceSettingResponse()
        for name, values in self._oip.settings.trace(request.model_name).items():
            response.settings[name].value.extend(values)
        return response

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryStatusResponse:
        """Lists the caller's regions."""
        response = pb.SystemSharedMemoryStatusResponse()
        for one in self._oip.memory.status(call.caller, request.name):
            region = response.regions[one.name]
            region.name, region.key, region.offset, region.byte_size = one.name, one.key, one.offset, one.size
        return response

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Registers a region."""
        region = request.name, request.key, request.offset, request.byte_size
        await self._oip.memory.register(call.caller, call.host, *region)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Unregisters one of the caller's regions, or all of them."""
        await self._oip.memory.unregister(call.caller, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest
    ) -> pb.CudaSharedMemoryStatusResponse:
        """Returns an empty list, or an error for a named region: CUDA regions are never registered."""
        if request.name:
            raise no_cuda_region(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, _: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Rejects the request: CUDA shared memory is not supported."""
        raise no_cuda()

    async def CudaSharedMemoryUnregister(
        self, _: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Does nothing, since CUDA regions are never registered."""
        return pb.CudaSharedMemoryUnregisterResponse()
