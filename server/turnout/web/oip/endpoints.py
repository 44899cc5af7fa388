"""Common parts of the protocol's endpoints, except inference."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import InvalidRequest, TurnoutError
from turnout.serving.inputs.limits import InputLimits
from turnout.web.authorization import caller_of
from turnout.web.body import BodyReceiver
from turnout.web.json_body import SMALL_BYTES, json_object
from turnout.web.oip.answers import empty_answer, error_answer, json_answer

Document = Mapping[str, Any] | list[Any] | None
"""The JSON document of an answer; None for an empty answer."""

Endpoint = Callable[[Request], Awaitable[Document]]


def route(path: str, *methods: str, answer: Endpoint) -> Route:
    """Returns a route whose endpoint returns a document, or raises TurnoutError."""

    async def answered(request: Request) -> Response:
        try:
            document = await answer(request)
        except TurnoutError as error:
            return error_answer(error)
        except ClientDisconnect:
            return empty_answer()  # nobody reads it
        return empty_answer() if document is None else json_answer(document)

    return Route(path, answered, methods=list(methods))


def sees(request: Request) -> Callable[[str], bool]:
    """Returns a function that tells whether the caller may see a model in lists."""
    caller = caller_of(request.scope)
    return (lambda _: True) if caller is None else caller.sees


@dataclass(frozen=True, slots=True)
class JsonBodies:
    """Reads bodies that are JSON objects small enough to be read on the event loop."""

    bodies: BodyReceiver
    limits: InputLimits

    @classmethod
    def of(cls, bodies: BodyReceiver, limits: InputLimits) -> Self:
        """Returns a reader of small bodies, with the other settings of `bodies`."""
        return cls(replace(bodies, max_bytes=min(SMALL_BYTES, bodies.max_bytes)), limits)

    async def read(self, request: Request, example: str) -> Mapping[str, Any]:
        """Returns the object in a body; an empty one if there is no body.

        Raises:
            InvalidRequest: It is not an object, or too large; the error shows `example`.
            Exhausted: As `BodyReceiver.receive`.
            ClientDisconnect: The client left before the body was complete.
        """
        data = (await self.bodies.receive(request)).plain()
        return json_object(data, self.limits, example) if data else {}


def parameters_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters in a document. Raises InvalidRequest if they are not an object."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest.at("parameters", "expected an object")
    return parameters
