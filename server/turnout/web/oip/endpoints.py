"""Common code of the protocol's endpoints, except for inference."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import InvalidRequest, TurnoutError
from turnout.web.authorization import caller_of
from turnout.web.errors import refusal_of
from turnout.web.oip.answers import empty_answer, json_answer

Document = Mapping[str, Any] | list[Any] | None
"""The JSON document of a response; None for an empty response."""

Endpoint = Callable[[Request], Awaitable[Document]]


def route(path: str, *methods: str, answer: Endpoint) -> Route:
    """Returns a route for an endpoint that returns a document or raises TurnoutError."""

    async def answered(request: Request) -> Response:
        try:
            document = await answer(request)
        except TurnoutError as error:
            return refusal_of(request.url.path, error)
        except ClientDisconnect:
            return empty_answer()  # the client will not read it
        return empty_answer() if document is None else json_answer(document)

    return Route(path, answered, methods=list(methods))


def sees(request: Request) -> Callable[[str], bool]:
    """Returns a function that returns whether the caller may see a given model in lists."""
    caller = caller_of(request.scope)
    return (lambda _: True) if caller is None else caller.sees


def parameters_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters in a document. Raises InvalidRequest if they are not an object."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest.at("parameters", "expected an object")
    return parameters
