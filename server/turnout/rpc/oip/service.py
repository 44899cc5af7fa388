"""The protocol's service as a gRPC handler, under the name that its clients call."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from turnout.errors import Unsupported
from turnout.oip.description import Description
from turnout.routing.preferences import PreferenceReader
from turnout.rpc.errors import abort
from turnout.rpc.guard import Guard
from turnout.rpc.metadata import Attentive, Handler, Methods
from turnout.rpc.oip.description import DescriptionMethods
from turnout.rpc.oip.inference import SERVICE_NAME, InferenceMethods
from turnout.rpc.oip.repository import RepositoryMethods, VersionControl
from turnout.rpc.tracing import traced
from turnout.serving.catalog import Catalog
from turnout.serving.inference import Inference, Router
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.oip import inference_pb2

_NO_SHARED_MEMORY = "shared memory is not supported: tensors travel in the request"
_NO_STATISTICS = "this server has no statistics in this protocol's form: see its metrics"
_NO_SETTINGS = "trace and log settings cannot be changed by clients"

REFUSED = {
    "SystemSharedMemoryStatus": _NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": _NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": _NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "ModelStatistics": _NO_STATISTICS,
    "TraceSetting": _NO_SETTINGS,
    "LogSettings": _NO_SETTINGS,
}
"""Triton's methods that are not spoken, and why: they would answer UNIMPLEMENTED anyway, but without a reason."""

Method = Callable[[Any], Awaitable[Any]]


def oip_handler(
    *,
    inference: Inference,
    preferences: PreferenceReader,
    router: Router,
    catalog: Catalog,
    control: VersionControl,
    accepting: Callable[[], bool],
    allow_repository_control: bool,
    max_stream_items: int,
    guard: Guard,
    tracer: Tracer | None = None,
) -> grpc.GenericRpcHandler:
    """Returns the handler of the whole service.

    Args:
        inference: The data plane.
        preferences: Reads what a call's metadata asks for.
        router: Tells which version a selector names.
        catalog: Tells what is served.
        control: Loads and unloads versions.
        accepting: Tells whether the server takes new requests; False while it drains.
        allow_repository_control: Whether clients may load and unload versions.
        max_stream_items: Most requests under way on one ModelStreamInfer.
        guard: Wraps the methods.
        tracer: Traces requests; None where tracing is off.
    """
    infers = InferenceMethods(inference, preferences, max_stream_items, guard, tracer)
    describes = DescriptionMethods(Description(router, catalog, accepting))
    repository = RepositoryMethods(router, catalog, control, allow_control=allow_repository_control)
    behaviours: dict[str, Callable[..., Any]] = {
        "ServerLive": _plain(describes.server_live),
        "ServerReady": _plain(describes.server_ready),
        "ModelReady": _plain(describes.model_ready),
        "ServerMetadata": _plain(describes.server_metadata),
        "ModelMetadata": _plain(describes.model_metadata),
        "ModelConfig": _plain(describes.model_config),
        "RepositoryIndex": _plain(repository.repository_index),
        "RepositoryModelLoad": _plain(repository.repository_model_load),
        "RepositoryModelUnload": _plain(repository.repository_model_unload),
    }
    guard.faults.watch(SERVICE_NAME)
    plain: dict[str, Handler] = {
        name: grpc.unary_unary_rpc_method_handler(_refusal(reason)) for name, reason in REFUSED.items()
    }
    for method in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.name in behaviours:
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            plain[method.name] = grpc.unary_unary_rpc_method_handler(
                behaviours[method.name], request.FromString, response.SerializeToString
            )
    handlers: dict[str, Handler | Attentive] = dict(guard.handlers(SERVICE_NAME, plain))
    model_infer = traced(tracer, SERVICE_NAME, "ModelInfer", infers.model_infer)
    handlers["ModelInfer"] = Attentive.of(
        model_infer, lambda behaviour: guard.unary(SERVICE_NAME, behaviour, inference_pb2.ModelInferRequest)
    )
    handlers["ModelStreamInfer"] = guard.streaming(
        SERVICE_NAME, infers.model_stream_infer, inference_pb2.ModelInferRequest
    )
    return Methods(SERVICE_NAME, handlers, preferences)


def _plain(method: Method) -> Callable[..., Awaitable[Any]]:
    """Returns the behaviour of a method that needs nothing but its message."""

    async def behaviour(request: Any, _: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return await method(request)

    return behaviour


def _refusal(reason: str) -> Callable[..., Awaitable[NoReturn]]:
    async def behaviour(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await abort(context, Unsupported(reason))

    return behaviour
