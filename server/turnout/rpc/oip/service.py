"""The protocol's service, under the name that its clients call."""

from collections.abc import Awaitable, Callable
from functools import partial

from google.protobuf.descriptor import ServiceDescriptor

from turnout.errors import Unsupported
from turnout.oip.description import Description
from turnout.routing.preferences import PreferenceReader
from turnout.rpc.exchange import Opened
from turnout.rpc.guard import Guard, refusal
from turnout.rpc.multiplex import Multiplexer, in_order
from turnout.rpc.oip.codec import FIELDS, InputDecoder
from turnout.rpc.oip.description import DescriptionMethods
from turnout.rpc.oip.exchange import InferEndpoint, InferExchange, InferItem
from turnout.rpc.oip.repository import RepositoryMethods, VersionControl
from turnout.rpc.templates import Templates
from turnout.rpc.transport.port import Call, Methods, Response, Stream
from turnout.serving.catalog import Catalog
from turnout.serving.data_plane import DataPlane, Pending
from turnout.serving.inference import Router
from turnout_proto.oip import inference_pb2
from turnout_proto.oip.inference_pb2 import ModelInferRequest

SERVICE_NAME = "inference.GRPCInferenceService"
"""What clients call. The messages go by our own package's name: a process can hold them beside a client's own."""

_INFER, _STREAM_INFER = "ModelInfer", "ModelStreamInfer"

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

DESCRIPTOR: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def oip_methods(
    *,
    plane: DataPlane,
    preferences: PreferenceReader,
    router: Router,
    catalog: Catalog,
    control: VersionControl,
    accepting: Callable[[], bool],
    allow_repository_control: bool,
    max_stream_items: int,
    guard: Guard,
) -> Methods:
    """Returns the methods of the whole service, by path.

    Args:
        plane: Answers requests.
        preferences: Reads what a call's metadata asks for.
        router: Tells which version a selector names.
        catalog: Tells what is served.
        control: Loads and unloads versions.
        accepting: Tells whether the server takes new requests; False while it drains.
        allow_repository_control: Whether clients may load and unload versions.
        max_stream_items: Most requests that are unanswered on one ModelStreamInfer.
        guard: Wraps the methods.
    """
    describes = DescriptionMethods(Description(router, catalog, accepting))
    repository = RepositoryMethods(router, catalog, control, allow_control=allow_repository_control)
    infers = _inference_methods(plane, preferences, max_stream_items, guard)
    return {
        **{f"/{SERVICE_NAME}/{name}": refusal(Unsupported(reason)) for name, reason in REFUSED.items()},
        **guard.methods(DESCRIPTOR, describes, repository, name=SERVICE_NAME, apart=(_INFER, _STREAM_INFER)),
        **infers,
    }


def _inference_methods(plane: DataPlane, preferences: PreferenceReader, max_stream_items: int, guard: Guard) -> Methods:
    inputs, templates = InputDecoder(guard.limits), Templates(FIELDS)
    inferring, streaming = (
        InferEndpoint.of(SERVICE_NAME, method, ModelInferRequest, preferences, guard, templates, inputs=inputs)
        for method in (_INFER, _STREAM_INFER)
    )

    def model_infer(data: bytes, call: Call) -> Response | Awaitable[Response]:
        done = plane.begin(InferExchange(inferring, data, call))
        return done.finish() if isinstance(done, Pending) else done

    async def model_stream_infer(stream: Stream) -> None:
        # Triton keeps the order for models with one answer a request, and its clients rely on it if they set no ids.
        item = partial(InferItem, Opened.of(streaming, stream))
        await Multiplexer(plane, stream, item, in_order, max_stream_items).run()

    return {
        f"/{SERVICE_NAME}/{_INFER}": guard.unary(SERVICE_NAME, model_infer, prompt=True),
        f"/{SERVICE_NAME}/{_STREAM_INFER}": guard.streaming(SERVICE_NAME, model_stream_infer),
    }
