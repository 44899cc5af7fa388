"""Serializes responses of ModelInfer and ModelStreamInfer from prepared parts.

Protobuf accepts the fields of a message in any order and in any number of pieces. Therefore the fields that all
responses of a route share are serialized once, and the description of an output once for each shape. Only the id and
the elements of the outputs are added for each response. This takes a third of the time of building and serializing a
message.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from turnout.oip import exchange
from turnout.oip.exchange import RequestedOutputs
from turnout.oip.tensors import encode_raw
from turnout.serving.data_plane.inference import InferenceResult, Route
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sessions.tensor import Array, elements_of
from turnout.wire_format import Lengths, length_delimited
from turnout_proto.oip.inference_pb2 import InferParameter, ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"
"""Parameter that marks the last response to a request. It is set on every response, since a request has only one."""

Descriptions: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes, bytes]]
"""Numeric outputs by name: dtype, shape, serialized description, and the bytes that precede the elements."""

_ROUTE = "OIP answer"
"""Key under which a route's memo stores the prepared parts."""


def _number(message: Any, field: str) -> int:
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number


_ID = Lengths(_number(ModelInferResponse, "id"))
_RAW = _number(ModelInferResponse, "raw_output_contents")
_INFER_RESPONSE = Lengths(_number(ModelStreamInferResponse, "infer_response"))


_FINAL = ModelInferResponse(parameters={FINAL: InferParameter(bool_param=True)}).SerializeToString()


def unary_answer(
    request_id: str, result: InferenceResult, wanted: RequestedOutputs, limits: InputLimits
) -> list[bytes]:
    """Returns the parts of the response to a request, which form a serialized ModelInferResponse when joined.

    `request_id` is as the client wrote it; `wanted` says how it wants the outputs.

    Raises:
        InvalidRequest: An output to classify is not numeric or has too many classes, or an output does not fit into its
            place in shared memory.
        Unsupported: The protocol has no datatype for an output.
    """
    memo = result.route.memo
    prepared: tuple[bytes, Descriptions] = memo.get(_ROUTE) or _route(result.route)
    parts, described = [prepared[0]], prepared[1]
    if request_id:
        encoded = request_id.encode()
        parts += (_ID[len(encoded)], encoded)
    outputs = exchange.answered(result, wanted.classes, limits) if wanted.classes else result.outputs
    return parts + (_stored_parts(outputs, wanted) if wanted.windows else output_parts(outputs, described))


def stream_answer(
    request_id: str, result: InferenceResult, wanted: RequestedOutputs, limits: InputLimits
) -> list[bytes]:
    """Returns the parts of a serialized ModelStreamInferResponse. Arguments and errors are those of `unary_answer`."""
    parts = [*unary_answer(request_id, result, wanted, limits), _FINAL]
    return [_INFER_RESPONSE[sum(map(len, parts))], *parts]


def output_parts(outputs: Iterable[tuple[str, Array]], described: Descriptions) -> list[bytes]:
    """Returns the parts of a serialized ModelInferResponse that contain the outputs.

    `described` caches the last description of each output.

    Raises:
        Unsupported: The protocol has no datatype for an output.
    """
    parts: list[bytes] = []
    elements: list[bytes] = []
    for name, array in outputs:
        known = described.get(name)
        if known is None or known[0] is not array.dtype or known[1] != array.shape:
            datatype, raw = encode_raw(name, array)
            response, before = ModelInferResponse(), length_delimited(_RAW, len(raw))
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            description = response.SerializeToString()
            if array.dtype != object:
                described[name] = array.dtype, array.shape, description, before
            elements += (before, raw)
        else:
            _, _, description, before = known
            elements += (before, *elements_of(array))
        parts.append(description)
    return parts + elements


def _stored_parts(outputs: Iterable[tuple[str, Array]], wanted: RequestedOutputs) -> list[bytes]:
    """Does the same as `output_parts` for outputs of which some are written to shared memory."""
    response = ModelInferResponse()
    for name, array in outputs:
        datatype, raw = encode_raw(name, array)
        if (window := wanted.windows.get(name)) is not None:
            window.write(raw)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(b"" if window is not None else raw)
    return [response.SerializeToString()]


def _route(route: Route) -> tuple[bytes, Descriptions]:
    response = ModelInferResponse(model_name=route.entry.model, model_version=route.entry.version_text)
    for key, value in exchange.answer_parameters(route).items():
        if isinstance(value, int):
            response.parameters[key].uint64_param = value
        else:
            response.parameters[key].string_param = value
    prepared: tuple[bytes, Descriptions] = response.SerializeToString(), {}
    route.memo[_ROUTE] = prepared
    return prepared
