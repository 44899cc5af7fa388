"""The protocol's service, under the name that its clients call."""

from collections.abc import Callable

from google.protobuf.descriptor import ServiceDescriptor

from turnout.errors import Unsupported
from turnout.oip.description import Description
from turnout.routing.preferences import PreferenceReader
from turnout.rpc.guard import Guard, refusal
from turnout.rpc.oip.description import DescriptionMethods
from turnout.rpc.oip.inference import SERVICE_NAME, InferenceMethods
from turnout.rpc.oip.repository import RepositoryMethods, VersionControl
from turnout.rpc.tracing import traced
from turnout.rpc.transport.port import Methods
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

DESCRIPTOR: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def oip_methods(
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
) -> Methods:
    """Returns the methods of the whole service, by path.

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
    describes = DescriptionMethods(Description(router, catalog, accepting))
    repository = RepositoryMethods(router, catalog, control, allow_control=allow_repository_control)
    refused = {f"/{SERVICE_NAME}/{name}": refusal(Unsupported(reason)) for name, reason in REFUSED.items()}
    infers = InferenceMethods(inference, preferences, max_stream_items, guard, tracer)
    model_infer = traced(tracer, SERVICE_NAME, "ModelInfer", infers.model_infer)
    return {
        **refused,
        **guard.methods(DESCRIPTOR, describes, repository, name=SERVICE_NAME, apart=("ModelInfer", "ModelStreamInfer")),
        f"/{SERVICE_NAME}/ModelInfer": guard.unary(SERVICE_NAME, model_infer),
        f"/{SERVICE_NAME}/ModelStreamInfer": guard.streaming(SERVICE_NAME, infers.model_stream_infer),
    }
