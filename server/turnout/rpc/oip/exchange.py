"""Requests and answers of ModelInfer and ModelStreamInfer, decoded and encoded."""

from collections.abc import Mapping

from turnout.errors import TurnoutError
from turnout.oip import exchange
from turnout.oip.parameters import check_id, read_options
from turnout.routing.preferences import Preferences
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.errors import to_status
from turnout.rpc.exchange import Endpoint, GrpcExchange, ItemExchange, Opened, UnaryExchange
from turnout.rpc.oip.answer import FINAL, stream_answer, unary_answer
from turnout.rpc.oip.codec import InputDecoder
from turnout.rpc.oip.parameters import plain, wanted_outputs
from turnout.rpc.oip.templates import Found, Outline, outline
from turnout.rpc.transport.port import Call
from turnout.serving.inference import InferenceRequest, InferenceResult
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelStreamInferResponse

_SHOWN_BYTES = 1024
"""Characters of a refused request's own names that its answer repeats."""


class InferExchange(UnaryExchange[ModelInferRequest]):
    """One call of ModelInfer."""

    __slots__ = ("_classes", "_found", "_id", "_inputs", "_outline")

    def __init__(self, endpoint: Endpoint[ModelInferRequest], inputs: InputDecoder, data: bytes, call: Call) -> None:
        """Prepares; `inputs` is the service's."""
        super().__init__(endpoint, data, call)
        self._inputs = inputs
        self._found: Found | None = None
        self._outline: Outline | None = None

    def read(self) -> None:
        """Reads the message, as far as it is unlike those before. Raises as `parse`."""
        if self._found is not None or self.parsed is not None:
            return
        data = self.data
        found = self._found = self._inputs.templates.find(data)
        if found is not None:
            self.data, self._id = b"", found.id
            return
        message = self.parse()
        self._id, self._outline = message.id, outline(data, message)

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        if self._found is None:
            return _envelope(self)
        template = self._found.template
        return InferenceRequest(
            template.model, template.selector, {}, request_id=_logged_id(self._id), arrived=self.arrived
        )

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `_decode` and `PreferenceReader.read`."""
        self.read()
        preferences, deadline = self.preferences(), self.call.deadline
        if self._found is None:
            request, self._classes = _decode(self, self._inputs, deadline, preferences)
            self.costly = bool(self._classes)
            if self._outline is not None:
                options = read_options(plain(self.parse().parameters))
                self._inputs.templates.remember(self._outline, request.outputs, self._classes, *options)
            return request
        template, request_id, inputs = self._found
        check_id(request_id)
        self._classes = template.classes
        self.costly = bool(template.classes)
        model, selector, outputs, _, timeout, routing_key, _ = template
        logged_id = _logged_id(request_id)
        return exchange.assembled(
            model, selector, inputs, outputs, logged_id, routing_key, timeout, self.arrived, deadline, preferences
        )

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised; metadata says who gave it. Raises as `unary_answer`, and Exhausted."""
        self.call.trailing = trailing_metadata(result.route)
        return self.endpoint.sized(unary_answer(self._id, result, self._classes, self.endpoint.limits))


class InferItem(ItemExchange[ModelInferRequest]):
    """One request of a ModelStreamInfer."""

    __slots__ = ("_classes", "_inputs")

    def __init__(self, opened: Opened[ModelInferRequest], inputs: InputDecoder, data: bytes) -> None:
        """Prepares; `inputs` is the service's."""
        super().__init__(opened, data)
        self._inputs = inputs

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return _envelope(self)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `_decode`."""
        request, self._classes = _decode(self, self._inputs, self.deadline, self.opened.preferences)
        self.costly = bool(self._classes)
        return request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the answer, serialised. Raises as `unary_answer`, and Exhausted."""
        return self.endpoint.sized(stream_answer(self.parse().id, result, self._classes, self.endpoint.limits))

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


def _logged_id(request_id: str) -> str:
    """Returns what names a request in logs: its id, or one that is made for it."""
    return request_id[: exchange.LOGGED_ID] or new_request_id()


def _envelope(item: GrpcExchange[ModelInferRequest]) -> InferenceRequest:
    if (message := item.parsed) is None:
        return InferenceRequest("", "", {}, request_id=new_request_id(), arrived=item.arrived)
    request_id = _logged_id(message.id)
    return InferenceRequest(message.model_name, message.model_version, {}, request_id=request_id, arrived=item.arrived)


def _decode(
    item: GrpcExchange[ModelInferRequest], inputs: InputDecoder, deadline: float | None, preferences: Preferences
) -> tuple[InferenceRequest, Mapping[str, int]]:
    """Returns a request, and which of its outputs are to be classified, as `exchange.request_of`.

    Raises:
        InvalidRequest, InvalidTensor: A field is not what the protocol says it is, or beyond the limits.
        Unsupported: The request needs shared memory or a sequence.
    """
    message, limits = item.parse(), item.endpoint.limits
    return exchange.request_of(
        model=message.model_name,
        selector=message.model_version,
        request_id=message.id,
        logged_id=_logged_id(message.id),
        inputs=inputs.decode(message),
        outputs=wanted_outputs(message.outputs, limits),
        parameters=plain(message.parameters),
        arrived=item.arrived,
        deadline=deadline,
        preferences=preferences,
        limits=limits,
    )
