"""Serialises answers of ModelInfer and ModelStreamInfer from prepared parts.

Protobuf takes the fields of a message in any order, and in any number of pieces. What all answers of a route share is
serialised once, and the description of an output once for each shape; the rest of an answer is its id and the elements
of its outputs. That takes a third of the time of building and serialising a message.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from turnout.oip import exchange
from turnout.oip.exchange import RequestedOutputs
from turnout.oip.tensors import encode_raw
from turnout.serving.data_plane.inference import InferenceResult, Route
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sessions.tensor import Array
from turnout.wire_format import Lengths, length_delimited
from turnout_proto.oip.inference_pb2 import ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"
"""Every request has one answer, so every answer is its request's last."""

Descriptions: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes, bytes]]
"""Of outputs of numbers, by name: dtype, shape, serialised description, and what goes before the elements."""

_ROUTE = "OIP answer"
"""The key under which routes keep prepared parts."""


def _number(message: Any, field: str) -> int:
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number


_ID = Lengths(_number(ModelInferResponse, "id"))
_RAW = _number(ModelInferResponse, "raw_output_contents")
_INFER_RESPONSE = Lengths(_number(ModelStreamInferResponse, "infer_response"))


def _final() -> bytes:
    response = ModelInferResponse()
    response.parameters[FINAL].bool_param = True
    return response.SerializeToString()


_FINAL = _final()


def unary_answer(
    request_id: str, result: InferenceResult, wanted: RequestedOutputs, limits: InputLimits
) -> list[bytes]:
    """Returns the parts of the answer to a request; joined, they are a ModelInferResponse.

    Args:
        request_id: As the client wrote it.
        result: The data plane's answer.
        wanted: How to return the outputs.
        limits: On the strings that classification makes.

    Raises:
        InvalidRequest: An output that is to be classified holds no numbers, or asks for too many; or one does not fit
            into its place in shared memory.
        Unsupported: The protocol does not know the type of an output.
    """
    return _parts(request_id, result, wanted, limits)


def stream_answer(
    request_id: str, result: InferenceResult, wanted: RequestedOutputs, limits: InputLimits
) -> list[bytes]:
    """Returns the same as a ModelStreamInferResponse."""
    parts = [*_parts(request_id, result, wanted, limits), _FINAL]
    return [_INFER_RESPONSE[sum(map(len, parts))], *parts]


def output_parts(outputs: Iterable[tuple[str, Array]], described: Descriptions) -> list[bytes]:
    """Returns the outputs' part of a serialised ModelInferResponse.

    Args:
        outputs: Name and value of each.
        described: Remembers the last description of each output.

    Raises:
        Unsupported: The protocol does not know the type of an output.
    """
    parts: list[bytes] = []
    elements: list[bytes] = []
    for name, array in outputs:
        known = described.get(name)
        if known is None or known[0] is not array.dtype or known[1] != array.shape:
            datatype, raw = encode_raw(name, array)
            description, before = _output(name, datatype, array), length_delimited(_RAW, len(raw))
            if array.dtype != object:
                described[name] = array.dtype, array.shape, description, before
        else:
            _, _, description, before = known
            raw = array.tobytes()
        parts.append(description)
        elements += (before, raw)
    return parts + elements


def _parts(request_id: str, result: InferenceResult, wanted: RequestedOutputs, limits: InputLimits) -> list[bytes]:
    memo = result.route.memo
    prepared: tuple[bytes, Descriptions] = memo.get(_ROUTE) or _route(result.route)
    parts, described = [prepared[0]], prepared[1]
    if request_id:
        encoded = request_id.encode()
        parts += (_ID[len(encoded)], encoded)
    outputs = exchange.answered(result, wanted.classes, limits) if wanted.classes else result.outputs
    return parts + (_stored_parts(outputs, wanted) if wanted.windows else output_parts(outputs, described))


def _stored_parts(outputs: Iterable[tuple[str, Array]], wanted: RequestedOutputs) -> list[bytes]:
    """Returns the same as `output_parts`, if some of the elements go to shared memory."""
    response = ModelInferResponse()
    for output in exchange.stored(outputs, wanted.windows):
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(b"" if output.stored else output.raw)
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


def _output(name: str, datatype: str, array: Array) -> bytes:
    response = ModelInferResponse()
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    return response.SerializeToString()
