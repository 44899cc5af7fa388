"""Requests and answers of ModelInfer and ModelStreamInfer, decoded and encoded."""

from collections.abc import Mapping

from turnout.errors import TurnoutError
from turnout.oip import exchange
from turnout.routing.preferences import Preferences
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.errors import to_status
from turnout.rpc.exchange import GrpcExchange, ItemExchange, UnaryExchange
from turnout.rpc.oip.codec import decode_inputs, encode_outputs
from turnout.rpc.oip.parameters import plain, wanted_outputs
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout.serving.limits import InputLimits
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"
"""Every request has one answer, so every answer is its request's last."""

_SHOWN_BYTES = 1024
"""Characters of a refused request's own names that its answer repeats."""


class InferExchange(UnaryExchange[ModelInferRequest]):
    """One call of ModelInfer."""

    __slots__ = ("_classes",)

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return _envelope(self)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `_decode` and `PreferenceReader.read`."""
        request, self._classes = _decode(self, self.call.deadline, self.preferences())
        self.costly = bool(self._classes)
        return request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised; metadata says who gave it. Raises as `answer`, and Exhausted."""
        response = ModelInferResponse()
        answer(response, self.message, result, self._classes, self.endpoint.limits)
        self.call.trailing = trailing_metadata(result.route)
        return self.endpoint.sized(response.SerializeToString())


class InferItem(ItemExchange[ModelInferRequest]):
    """One request of a ModelStreamInfer."""

    __slots__ = ("_classes",)

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return _envelope(self)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `_decode`."""
        request, self._classes = _decode(self, self.deadline, self.opened.preferences)
        self.costly = bool(self._classes)
        return request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised. Raises as `answer`, and Exhausted."""
        response = ModelStreamInferResponse()
        answer(response.infer_response, self.message, result, self._classes, self.endpoint.limits)
        response.infer_response.parameters[FINAL].bool_param = True
        return self.endpoint.sized(response.SerializeToString())

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Returns an item that tells an error, and which request it is about."""
        response = ModelStreamInferResponse(error_message=to_status(error, request.request_id).message)
        infer_response = response.infer_response
        if (message := self.parsed) is not None:
            infer_response.id = message.id[:_SHOWN_BYTES]
            infer_response.model_name = message.model_name[:_SHOWN_BYTES]
            infer_response.model_version = message.model_version[:_SHOWN_BYTES]
        infer_response.parameters[FINAL].bool_param = True
        return response.SerializeToString()


def answer(
    response: ModelInferResponse,
    message: ModelInferRequest,
    result: InferenceResult,
    classes: Mapping[str, int],
    limits: InputLimits,
) -> None:
    """Puts the answer to `message` into `response`.

    Args:
        response: Empty.
        message: The request.
        result: What the data plane answered.
        classes: For each output that is to be classified, how many of its highest values are wanted.
        limits: On the strings that classification makes.

    Raises:
        InvalidRequest: An output that is to be classified holds no numbers, or asks for too many.
        Unsupported: The protocol does not know the type of an output.
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
    encode_outputs(response, exchange.answered(result, classes, limits))


def _envelope(item: GrpcExchange[ModelInferRequest]) -> InferenceRequest:
    if (message := item.parsed) is None:
        return InferenceRequest("", "", {}, request_id=new_request_id(), arrived=item.arrived)
    request_id = message.id[: exchange.LOGGED_ID] or new_request_id()
    return InferenceRequest(message.model_name, message.model_version, {}, request_id=request_id, arrived=item.arrived)


def _decode(
    item: GrpcExchange[ModelInferRequest], deadline: float | None, preferences: Preferences
) -> tuple[InferenceRequest, Mapping[str, int]]:
    """Returns a request, and which of its outputs are to be classified, as `exchange.request_of`.

    Raises:
        InvalidRequest, InvalidTensor: A field is not what the protocol says it is, or beyond the limits.
        Unsupported: The request needs shared memory or a sequence.
    """
    message, limits = item.message, item.endpoint.limits
    return exchange.request_of(
        model=message.model_name,
        selector=message.model_version,
        request_id=message.id,
        logged_id=message.id[: exchange.LOGGED_ID] or new_request_id(),
        inputs=decode_inputs(message, limits),
        outputs=wanted_outputs(message.outputs, limits),
        parameters=plain(message.parameters),
        arrived=item.arrived,
        deadline=deadline,
        preferences=preferences,
        limits=limits,
    )
