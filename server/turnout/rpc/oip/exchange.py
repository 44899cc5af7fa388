"""ModelInfer messages to the data plane's values and back."""

import time
from collections.abc import Mapping

from turnout.oip import exchange
from turnout.rpc.codec import new_request_id
from turnout.rpc.oip.codec import decode_inputs, encode_outputs
from turnout.rpc.oip.parameters import plain, wanted_outputs
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse


def envelope(message: ModelInferRequest, remaining: float | None) -> InferenceRequest:
    """Returns what cannot be wrong in a request, so that one that is refused can be counted and logged.

    Args:
        message: As it came.
        remaining: Seconds that the call may still take; None for no bound.
    """
    now = time.monotonic()
    return InferenceRequest(
        message.model_name,
        message.model_version,
        {},
        (),
        message.id[: exchange.LOGGED_ID] or new_request_id(),
        "",
        None if remaining is None else now + remaining,
        now,
    )


def fill(call: InferenceRequest, message: ModelInferRequest) -> Mapping[str, int]:
    """Puts the rest of a request into `call`.

    Returns:
        For each output that is to be classified, how many of its highest values are wanted.

    Raises:
        InvalidRequest, InvalidTensor: A field is not what the protocol says it is.
        Unsupported: The request needs shared memory or a sequence.
    """
    inputs = decode_inputs(message)
    return exchange.fill(call, message.id, inputs, wanted_outputs(message.outputs), plain(message.parameters))


def answer(
    response: ModelInferResponse, message: ModelInferRequest, result: InferenceResult, classes: Mapping[str, int]
) -> None:
    """Puts the answer to `message` into `response`.

    Args:
        response: Empty.
        message: The request.
        result: What the data plane answered.
        classes: As `fill` returned them.

    Raises:
        InvalidRequest: An output that is to be classified holds no numbers.
    """
    route = result.route
    response.model_name = message.model_name
    response.model_version = route.entry.version_text
    response.id = message.id
    parameters = response.parameters
    for key, value in exchange.told(route).items():
        if isinstance(value, int):
            parameters[key].uint64_param = value
        else:
            parameters[key].string_param = value
    encode_outputs(response, exchange.answered(result, classes))
