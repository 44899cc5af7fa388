"""ModelInfer messages to the data plane's values and back."""

import time
from collections.abc import Mapping

from turnout.rpc.codec import new_request_id
from turnout.rpc.oip.classification import classify
from turnout.rpc.oip.codec import decode_inputs, encode_outputs
from turnout.rpc.oip.metadata import batches_along_first_axis
from turnout.rpc.oip.parameters import check_id, read_options, read_outputs
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

_LOGGED_ID = 128


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
        message.id[:_LOGGED_ID] or new_request_id(),
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
    check_id(message.id)
    call.inputs = decode_inputs(message)
    call.outputs, classes = read_outputs(message)
    timeout, call.routing_key = read_options(message.parameters)
    if timeout is not None:
        expiry = call.arrived + timeout
        call.deadline = expiry if call.deadline is None else min(call.deadline, expiry)
    return classes


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
    entry = route.entry
    response.model_name = message.model_name
    response.model_version = str(entry.version)
    response.id = message.id
    parameters = response.parameters
    parameters["turnout_role"].string_param = route.role
    parameters["turnout_epoch"].uint64_param = route.epoch
    parameters["turnout_digest"].string_param = entry.digest
    outputs = list(result.outputs)
    if classes:
        by_rows = batches_along_first_axis(entry)
        outputs = [
            (name, classify(name, values, classes[name], by_rows=by_rows) if name in classes else values)
            for name, values in outputs
        ]
    encode_outputs(response, outputs)
