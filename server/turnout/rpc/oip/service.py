"""The protocol's service as a gRPC handler, under the name that its clients call."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from turnout.errors import TurnoutError, Unsupported
from turnout.oip.description import Description
from turnout.routing.preferences import PreferenceReader
from turnout.rpc.errors import abort
from turnout.rpc.malformed import Malformed, refusal, streaming, unary
from turnout.rpc.metadata import Attentive, Handler, Methods
from turnout.rpc.oip.description import DescriptionMethods
from turnout.rpc.oip.inference import InferenceMethods, unexpected
from turnout.rpc.oip.repository import RepositoryMethods, VersionControl
from turnout.rpc.tracing import traced
from turnout.serving.catalog import Catalog
from turnout.serving.inference import Inference, Router
from turnout.telemetry.tracing.tracer import Tracer
from turnout_proto.oip import inference_pb2

SERVICE_NAME = "inference.GRPCInferenceService"
"""What clients call. The messages go by our own package's name: a process can hold them beside a client's own."""

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
        tracer: Traces requests; None where tracing is off.
    """
    infers = InferenceMethods(inference, preferences, max_stream_items, tracer)
    describes = DescriptionMethods(Description(router, catalog, accepting))
    repository = RepositoryMethods(router, catalog, control, allow_control=allow_repository_control)
    behaviours: dict[str, Callable[..., Any]] = {
        "ServerLive": _guarded(describes.server_live),
        "ServerReady": _guarded(describes.server_ready),
        "ModelReady": _guarded(describes.model_ready),
        "ServerMetadata": _guarded(describes.server_metadata),
        "ModelMetadata": _guarded(describes.model_metadata),
        "ModelConfig": _guarded(describes.model_config),
        "ModelStreamInfer": infers.model_stream_infer,
        "RepositoryIndex": _guarded(repository.repository_index),
        "RepositoryModelLoad": _guarded(repository.repository_model_load),
        "RepositoryModelUnload": _guarded(repository.repository_model_unload),
    }
    model_infer = traced(tracer, SERVICE_NAME, "ModelInfer", infers.model_infer)
    handlers: dict[str, Handler | Attentive] = {
        name: grpc.unary_unary_rpc_method_handler(_refusal(reason)) for name, reason in REFUSED.items()
    }
    for method in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        make = streaming if method.client_streaming else unary
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        if method.name == "ModelInfer":
            handlers[method.name] = Attentive.of(
                model_infer, functools.partial(make, request=request, response=response)
            )
        else:
            handlers[method.name] = make(behaviours[method.name], request, response)
    return Methods(SERVICE_NAME, handlers, preferences)


def _guarded(method: Method) -> Callable[..., Awaitable[Any]]:
    """Returns a behaviour that answers as `method` does, and turns its errors into statuses."""

    async def behaviour(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if isinstance(request, Malformed):
                raise refusal("message of this method")
            return await method(request)
        except TurnoutError as error:
            await abort(context, error)
        except Exception as error:  # noqa: BLE001 - grpcio would tell the client the exception's own words
            await abort(context, unexpected(error))

    return behaviour


def _refusal(reason: str) -> Callable[..., Awaitable[NoReturn]]:
    async def behaviour(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await abort(context, Unsupported(reason))

    return behaviour
