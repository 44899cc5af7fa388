"""Inference requests over HTTP: read, hand to the data plane, answer."""

import logging
import time
from collections.abc import Callable, Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from turnout.errors import ModelFailure, TurnoutError
from turnout.oip.exchange import LOGGED_ID, answered, fill
from turnout.routing.preferences import PreferenceReader
from turnout.serving.inference import Inference, InferenceRequest, Route
from turnout.web.body import read_body
from turnout.web.oip.answers import error_answer, inference_answer
from turnout.web.oip.requests import (
    HEADER_LENGTH,
    open_body,
    read_inputs,
    read_outputs,
    read_parameters,
    read_wish,
)

_LOG = logging.getLogger(__name__)

_NOBODY_READS_IT = 499


class InferenceEndpoint:
    """Runs requests."""

    def __init__(
        self,
        inference: Inference,
        preferences: PreferenceReader,
        new_request_id: Callable[[], str],
        route_headers: Callable[[Route], Iterable[tuple[str, str]]],
        max_body_bytes: int,
    ) -> None:
        """Prepares.

        Args:
            inference: The data plane.
            preferences: Reads what a request's headers ask for.
            new_request_id: Makes up the name of a request that has none.
            route_headers: Returns the headers that say which version answers, and why.
            max_body_bytes: Largest body.
        """
        self._inference = inference
        self._preferences = preferences
        self._new_request_id = new_request_id
        self._route_headers = route_headers
        self._max_body_bytes = max_body_bytes

    async def infer(self, request: Request) -> Response:
        """Answers one request."""
        call = InferenceRequest(
            request.path_params["model"],
            request.path_params.get("selector", ""),
            {},
            request_id=request.headers.get("x-request-id", "")[:LOGGED_ID] or self._new_request_id(),
            arrived=time.monotonic(),
        )
        try:
            try:
                body = open_body(await read_body(request, self._max_body_bytes), request.headers.get(HEADER_LENGTH))
                call.request_id = body.request_id[:LOGGED_ID] or call.request_id
                outputs, parameters = read_outputs(body), read_parameters(body)
                wish = read_wish(outputs, parameters)
                classes = fill(call, body.request_id, read_inputs(body), outputs, parameters)
                host = request.client.host if request.client is not None else ""
                self._preferences.read(request.headers.items(), lambda: host).apply(call)
            except TurnoutError as error:
                self._inference.refuse(call, error)
                raise
            result = self._inference.infer_now(call) or await self._inference.infer(call)
            headers = dict(self._route_headers(result.route))
            return inference_answer(call, body.request_id, result.route, answered(result, classes), wish, headers)
        except ClientDisconnect:
            return Response(status_code=_NOBODY_READS_IT)
        except TurnoutError as error:
            return error_answer(error, call.request_id)
        except Exception as error:  # noqa: BLE001 - a client gets no traceback
            _LOG.error("unexpected error", exc_info=error)
            return error_answer(ModelFailure(f"the request failed ({type(error).__name__})"), call.request_id)
