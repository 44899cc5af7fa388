"""A message that was refused is freed at once, and not by the garbage collection that comes some time."""

import ctypes
import gc
import sys
from contextlib import suppress

import grpc
import pytest

from onnx_models import scaled
from rollout_wire import settled
from turnout.host.memory import resident_bytes, return_freed_memory
from turnout.wire_format import delimited

MIB = 1 << 20
_REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OK,  # streams refuse in an answer
}
SIZE, COUNT = 24 * MIB, 8
MOST = 128 * MIB
"""What both transports keep of such messages, whether six came or twelve: 15 to 100 MiB were seen. All would be 192."""


def held_bytes() -> int:
    """Returns the resident memory, less what glibc keeps for the next message: up to 32 MiB in each of four heaps."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_bytes()


def field(number: int, size: int) -> bytes:
    """A text field of so many bytes."""
    return delimited(number, b"a" * size)


@pytest.mark.parametrize(
    "method",
    [
        "turnout.v1.CatalogService/GetModel",
        "turnout.v1.ControlService/GetTraffic",
        "turnout.v1.RegistryService/DescribeUpload",
        "turnout.v1.RegistryService/FetchVersion",
        "turnout.v1.PredictionService/Predict",
        "turnout.v1.PredictionService/PredictStream",
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelStreamInfer",
        "inference.GRPCInferenceService/ModelMetadata",
        "grpc.health.v1.Health/Check",
    ],
)
async def test_a_refused_message_leaves_nothing_behind(publish_model, start_server, method) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    return_freed_memory()
    message = field(1, SIZE)
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        call = channel.stream_stream(f"/{method}")

        async def send() -> None:
            calling = call(iter([message]), timeout=100)
            with suppress(grpc.aio.AioRpcError):
                async for _ in calling:
                    pass
            assert await calling.code() in _REFUSED

        await send()
        gc.collect()
        gc.disable()
        try:
            before = held_bytes()
            for _ in range(COUNT):
                await send()
            # Threads of both transports let go of the last ones a moment later; what a cycle holds stays.
            await settled(lambda: held_bytes() - before < MOST, lambda: (held_bytes() - before) // MIB, 60.0)
        finally:
            gc.enable()
