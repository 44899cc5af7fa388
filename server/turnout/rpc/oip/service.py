"""Assembles the protocol's service under the name that clients call."""

from collections.abc import Awaitable

from google.protobuf.descriptor import ServiceDescriptor

from turnout.chunks import Serialized
from turnout.config import Oip
from turnout.oip.services import OipServices
from turnout.routing.request_metadata import PreferenceReader
from turnout.rpc.exchange import Opened
from turnout.rpc.guard import MethodGuard
from turnout.rpc.multiplex import Multiplexer, in_order
from turnout.rpc.oip.codec import FIELDS
from turnout.rpc.oip.exchange import InferEndpoint, InferExchange, InferItem
from turnout.rpc.oip.methods import OipMethods
from turnout.rpc.parsing.templates import Templates
from turnout.rpc.transport.port import Methods, Response, RpcCall, Stream
from turnout.serving.data_plane.data_plane import DataPlane, Pending
from turnout_proto.oip import inference_pb2
from turnout_proto.oip.inference_pb2 import ModelInferRequest

SERVICE_NAME = "inference.GRPCInferenceService"
"""Name of the service for clients. The messages are in a package of our own, so that a process can also import the
messages of a client library."""

_INFER, _STREAM_INFER = "ModelInfer", "ModelStreamInfer"

DESCRIPTOR: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def oip_methods(
    plane: DataPlane,
    preferences: PreferenceReader,
    oip: OipServices,
    allowed: Oip,
    max_stream_items: int,
    guard: MethodGuard,
) -> Methods:
    """Returns all methods of the service, by path.

    A ModelStreamInfer stream may have `max_stream_items` unanswered requests; `allowed` says what clients may change.
    """
    memory = oip.memory
    templates = Templates(FIELDS)
    inferring, streaming = (
        InferEndpoint.of(SERVICE_NAME, method, ModelInferRequest, preferences, guard, templates, memory=memory)
        for method in (_INFER, _STREAM_INFER)
    )
    mentioned_in, enabled = memory.mentioned_in, memory.enabled

    def model_infer(data: Serialized, call: RpcCall) -> Response | Awaitable[Response]:
        exchange = InferExchange(inferring, data, call)
        if enabled and not exchange.heavy and mentioned_in(bytes(data)):
            exchange.heavy = True  # copying from shared memory may take long
        done = plane.begin(exchange)
        return done.finish() if isinstance(done, Pending) else done

    async def model_stream_infer(stream: Stream) -> None:
        opened = Opened.of(streaming, stream)

        def item(data: Serialized) -> InferItem:
            made = InferItem(opened, data)
            made.heavy = made.heavy or mentioned_in(bytes(data))
            return made

        # Triton keeps the order for models with one response per request, and clients that set no ids rely on it.
        await Multiplexer(plane, stream, item, in_order, max_stream_items, guard.unsent).run()

    return {
        **guard.methods(DESCRIPTOR, OipMethods(oip, allowed), name=SERVICE_NAME, apart=(_INFER, _STREAM_INFER)),
        f"/{SERVICE_NAME}/{_INFER}": guard.unary(SERVICE_NAME, model_infer, prompt=True),
        f"/{SERVICE_NAME}/{_STREAM_INFER}": guard.streaming(SERVICE_NAME, model_stream_infer),
    }
