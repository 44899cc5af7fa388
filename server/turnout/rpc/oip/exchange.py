"""Decodes requests and encodes responses of ModelInfer and ModelStreamInfer."""

from dataclasses import dataclass

from turnout.auth.caller import Caller
from turnout.errors import TurnoutError
from turnout.oip import exchange
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.parameters import check_id, read_options
from turnout.routing.request_metadata import Preferences
from turnout.rpc.codec import logged_id, trailing_metadata
from turnout.rpc.errors import to_status
from turnout.rpc.exchange import Endpoint, GrpcExchange, ItemExchange, UnaryExchange
from turnout.rpc.oip.answer import FINAL, stream_answer, unary_answer
from turnout.rpc.oip.codec import decode_inputs, plain, wanted_outputs
from turnout.rpc.transport.port import Response
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelStreamInferResponse

_SHOWN_BYTES = 1024
"""Number of characters of a request's id, model and version that an error response repeats."""


@dataclass(frozen=True, slots=True)
class InferEndpoint(Endpoint[ModelInferRequest]):
    """A method that takes ModelInferRequests, whose tensors may be in shared memory."""

    memory: SharedMemory


class _Infer(GrpcExchange[ModelInferRequest]):
    """A ModelInferRequest from a unary call or a stream."""

    endpoint: InferEndpoint
    _wanted = exchange.NOTHING_SPECIAL

    def parsed_names(self) -> tuple[str, str, str]:
        message = self.parsed
        return ("", "", "") if message is None else (message.model_name, message.model_version, message.id)

    def request(self, deadline: float | None, preferences: Preferences, caller: Caller | None) -> InferenceRequest:
        """Returns the decoded request, for the caller's deadline and preferences. Raises as `request_of`."""
        if self.found is None:
            return self._decode(deadline, preferences, caller)
        template, request_id, _, _ = self.found
        if request_id:
            check_id(request_id)
        if template.classes:
            self.costly = True
            self._wanted = exchange.RequestedOutputs(template.classes, {})
        if template.timeout is not None:
            deadline = exchange.sooner(deadline, self.arrived + template.timeout)
        return self.matched(self.found, deadline, preferences)

    def _decode(self, deadline: float | None, preferences: Preferences, caller: Caller | None) -> InferenceRequest:
        """Decodes a request that matches no cached one, and caches it. Raises the same errors as `request`."""
        message, endpoint = self.parse(), self.endpoint
        parameters = plain(message.parameters)
        memory = endpoint.memory.of(caller)
        request, self._wanted = exchange.request_of(
            model=message.model_name,
            selector=message.model_version,
            request_id=message.id,
            logged_id=logged_id(message.id),
            inputs=decode_inputs(message, endpoint.guard.limits, memory),
            outputs=wanted_outputs(message.outputs, endpoint.guard.limits),
            parameters=parameters,
            arrived=self.arrived,
            deadline=deadline,
            preferences=preferences,
            limits=endpoint.guard.limits,
            memory=memory,
        )
        classes, windows = self._wanted
        self.costly = bool(classes or windows)
        if self.outline is not None and not windows:
            model, selector, options = message.model_name, message.model_version, read_options(parameters)
            endpoint.templates.remember(
                self.outline, model, selector, request.inputs, request.outputs, classes, *options
            )
        return request


class InferExchange(_Infer, UnaryExchange[ModelInferRequest]):
    """A call of ModelInfer."""

    def decode(self) -> InferenceRequest:
        """Returns the decoded request. Raises the same errors as `request` and `PreferenceReader.read`."""
        self.read()
        return self.request(self.call.deadline, self.preferences(), self.call.caller)

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the serialized response, and sets the trailing metadata.

        Raises:
            Exhausted: As for `Endpoint.joined`.
            InvalidRequest, Unsupported: As for `unary_answer`.
        """
        self.call.trailing = trailing_metadata(result.route)
        parts = unary_answer(self.names()[2], result, self._wanted, self.endpoint.guard.limits)
        return self.endpoint.response(self.call, parts)


class InferItem(_Infer, ItemExchange[ModelInferRequest]):
    """A request on a ModelStreamInfer stream."""

    def decode(self) -> InferenceRequest:
        """Returns the decoded request. Raises the same errors as `request`."""
        return self.request(self.deadline, self.opened.preferences, self.opened.stream.caller)

    def encode(self, request: InferenceRequest, result: InferenceResult) -> bytes:
        """Returns the serialized response. Raises the same errors as `unary_answer` and `Endpoint.joined`."""
        parts = stream_answer(self.names()[2], result, self._wanted, self.endpoint.guard.limits)
        return self.endpoint.joined(self.opened.stream, parts)

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> bytes:
        """Returns a serialized item that reports an error, with the id of the request."""
        response = ModelStreamInferResponse(error_message=to_status(error, request.request_id).message)
        infer_response = response.infer_response
        model, selector, request_id = self.names()
        infer_response.id = request_id[:_SHOWN_BYTES]
        infer_response.model_name = model[:_SHOWN_BYTES]
        infer_response.model_version = selector[:_SHOWN_BYTES]
        infer_response.parameters[FINAL].bool_param = True
        return response.SerializeToString()
