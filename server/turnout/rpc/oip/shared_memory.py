"""Methods of the service for the shared memory extensions."""

from turnout.oip.extensions.shared_memory import SharedMemory, no_cuda, no_cuda_region
from turnout.rpc.transport.port import RpcCall
from turnout_proto.oip import inference_pb2 as pb


class SharedMemoryMethods:
    """Registers, lists and unregisters shared memory regions. Each method also takes the call."""

    def __init__(self, memory: SharedMemory) -> None:
        """Initializes the methods for the regions of `memory`."""
        self._memory = memory

    async def SystemSharedMemoryStatus(  # noqa: N802 - gRPC's
        self, request: pb.SystemSharedMemoryStatusRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryStatusResponse:
        """Lists the caller's regions."""
        response = pb.SystemSharedMemoryStatusResponse()
        for one in self._memory.status(call.caller, request.name):
            region = response.regions[one.name]
            region.name, region.key, region.offset, region.byte_size = one.name, one.key, one.offset, one.size
        return response

    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: pb.SystemSharedMemoryRegisterRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Registers a region."""
        region = request.name, request.key, request.offset, request.byte_size
        await self._memory.register(call.caller, call.host, *region)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, call: RpcCall
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Unregisters one of the caller's regions, or all of them."""
        await self._memory.unregister(call.caller, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: pb.CudaSharedMemoryStatusRequest, _: RpcCall
    ) -> pb.CudaSharedMemoryStatusResponse:
        """Returns an empty list, or an error for a named region: CUDA regions are never registered."""
        if request.name:
            raise no_cuda_region(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(  # noqa: N802
        self, _: pb.CudaSharedMemoryRegisterRequest, __: RpcCall
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Rejects the request: CUDA shared memory is not supported."""
        raise no_cuda()

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, _: pb.CudaSharedMemoryUnregisterRequest, __: RpcCall
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Does nothing, since CUDA regions are never registered."""
        return pb.CudaSharedMemoryUnregisterResponse()
