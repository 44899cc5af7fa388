"""ModelInfer messages to the data plane's values and back."""

from collections.abc import Callable, Mapping

from turnout.oip import exchange
from turnout.rpc.codec import new_request_id
from turnout.rpc.oip.codec import decode_inputs, encode_outputs
from turnout.rpc.oip.parameters import plain, wanted_outputs
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout.serving.limits import InputLimits
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"
"""Every request has one answer, so every answer is its request's last."""


def envelope(message: ModelInferRequest, deadline: float | None, arrived: float) -> InferenceRequest:
    """Returns what cannot be wrong in a request, so that one that is refused can be counted and logged.

    Args:
        message: As it came.
        deadline: `time.monotonic()` after which the caller waits no longer; None for no bound.
        arrived: `time.monotonic()` when it came.
    """
    return InferenceRequest(
        message.model_name,
        message.model_version,
        {},
        (),
        message.id[: exchange.LOGGED_ID] or new_request_id(),
        "",
        deadline,
        arrived,
    )


class InferExchange:
    """One ModelInferRequest and its answer."""

    __slots__ = ("_classes", "_limits", "_message", "_prefer")

    def __init__(
        self, message: ModelInferRequest, limits: InputLimits, prefer: Callable[[InferenceRequest], None] | None = None
    ) -> None:
        """Prepares.

        Args:
            message: The request.
            limits: On what it may hold.
            prefer: Has a call routed as its metadata asks; None where that says nothing.
        """
        self._message = message
        self._limits = limits
        self._prefer = prefer
        self._classes: Mapping[str, int] = {}

    @property
    def costly(self) -> bool:
        """Whether outputs are to be classified, which sorts and spells them."""
        return bool(self._classes)

    def decode(self, call: InferenceRequest) -> None:
        """Puts the rest of a request into `call`.

        Raises:
            InvalidRequest, InvalidTensor: A field is not what the protocol says it is, or beyond the limits.
            Unsupported: The request needs shared memory or a sequence.
        """
        message, limits = self._message, self._limits
        inputs = decode_inputs(message, limits)
        outputs = wanted_outputs(message.outputs, limits)
        self._classes = exchange.fill(call, message.id, inputs, outputs, plain(message.parameters), limits)
        if self._prefer is not None:
            self._prefer(call)

    def encode(self, call: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised."""
        response = ModelInferResponse()
        answer(response, self._message, result, self._classes, self._limits)
        return response.SerializeToString()


class StreamInferExchange(InferExchange):
    """One ModelInferRequest of a stream and its answer."""

    __slots__ = ()

    def encode(self, call: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised."""
        response = ModelStreamInferResponse()
        answer(response.infer_response, self._message, result, self._classes, self._limits)
        response.infer_response.parameters[FINAL].bool_param = True
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
