"""`turnout.v1` messages to the data plane's values and back."""

import itertools
import time
import uuid

from turnout.errors import InvalidRequest, InvalidTensor, Violation
from turnout.serving.inference import InferenceRequest, InferenceResult, Role
from turnout.serving.tensor import Array
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb

_MAX_REQUEST_ID = 128
_MAX_ROUTING_KEY = 1024

_ROLES = {
    Role.PINNED: pb.ROLE_PINNED,
    Role.BASELINE: pb.ROLE_BASELINE,
    Role.CANARY: pb.ROLE_CANARY,
    Role.SHADOW: pb.ROLE_SHADOW,
}

_process = uuid.uuid4().hex[:12]
_numbers = itertools.count(1)


def new_request_id() -> str:
    """Returns an id that no other request of this or another process has."""
    return f"{_process}-{next(_numbers):x}"


def envelope(message: pb.PredictRequest, remaining: float | None) -> InferenceRequest:
    """Returns everything of a request but its tensors, so that a request that is refused can be counted and logged.

    Args:
        message: As it came.
        remaining: Seconds that the caller will wait; None for no bound.
    """
    now = time.monotonic()
    return InferenceRequest(
        message.model,
        message.version,
        {},
        message.outputs,
        message.request_id[:_MAX_REQUEST_ID] or new_request_id(),
        message.routing_key,
        None if remaining is None else now + remaining,
        now,
    )


def inputs_of(message: pb.PredictRequest) -> dict[str, Array]:
    """Returns the request's tensors by name, as views of the message's bytes.

    Raises:
        InvalidRequest, InvalidTensor: A field is not what the protocol says it is.
    """
    if len(message.request_id) > _MAX_REQUEST_ID:
        raise InvalidRequest.at("request_id", f"expected at most {_MAX_REQUEST_ID} characters")
    if len(message.routing_key) > _MAX_ROUTING_KEY:
        raise InvalidRequest.at("routing_key", f"expected at most {_MAX_ROUTING_KEY} characters")
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        name = tensor.name
        if name in inputs:
            raise InvalidTensor.at(f"inputs[{index}].name", f"{name[:64]!r} stands twice")
        try:
            inputs[name] = tensors.decode(tensor)
        except tensors.TensorError as error:
            field = f"inputs[{index}].{error.field}"
            text = f"{field}: {error.description}"
            raise InvalidTensor(text, violations=[Violation(field, error.description)]) from error
    return inputs


def response(request: InferenceRequest, result: InferenceResult) -> pb.PredictResponse:
    """Returns the answer as a message."""
    entry = result.route.entry
    message = pb.PredictResponse(
        request_id=request.request_id,
        model=request.model,
        route=pb.Route(
            version=entry.version_text, digest=entry.digest, role=_ROLES[result.route.role], epoch=result.route.epoch
        ),
        timing=pb.Timing(
            queue_us=int(result.queue_seconds * 1e6),
            compute_us=int(result.compute_seconds * 1e6),
            batch_rows=result.batch_rows,
        ),
    )
    for name, array in result.outputs:
        tensors.append(message.outputs, name, array)
    return message
