"""Maps errors to HTTP status codes and responses."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from turnout import errors

STATUSES: dict[type[BaseException], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.AlreadyExistsError: HTTPStatus.CONFLICT,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.ChangeRefused: HTTPStatus.CONFLICT,
    errors.NotLoaded: HTTPStatus.CONFLICT,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Exhausted: HTTPStatus.TOO_MANY_REQUESTS,
    errors.DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    errors.PermissionDeniedError: HTTPStatus.FORBIDDEN,
    errors.Unsupported: HTTPStatus.NOT_IMPLEMENTED,
}
"""Status codes by error class. Subclasses have the status of their nearest base class here; other errors are a 500."""


def status_of(error: errors.TurnoutError) -> HTTPStatus:
    """Returns the HTTP status for `error`."""
    return next((STATUSES[b] for b in type(error).__mro__ if b in STATUSES), HTTPStatus.INTERNAL_SERVER_ERROR)


def error_response(error: errors.TurnoutError, request_id: str = "") -> JSONResponse:
    """Returns a response with `{"error": {"message", "violations", "request_id"}}` and the headers for `error`."""
    body = error_body(error.message, error.violations, request_id)
    return JSONResponse(body, status_of(error), headers_of(error))


def refusal(
    path: str,
    status: int,
    message: str,
    violations: Sequence[errors.FieldViolation] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Returns the response to a request that reaches no endpoint, in the form of all other errors under its path.

    Errors under `/v2` are `{"error": message}`, as the clients of the Open Inference Protocol expect.
    """
    oip = path == "/v2" or path.startswith("/v2/")
    return JSONResponse({"error": message} if oip else error_body(message, violations), status, headers)


def refusal_of(path: str, error: errors.TurnoutError) -> JSONResponse:
    """Returns `refusal` for `error`."""
    return refusal(path, status_of(error), error.message, error.violations, headers_of(error))


def error_body(message: str, violations: Sequence[errors.FieldViolation] = (), request_id: str = "") -> dict[str, Any]:
    """Returns the JSON form of an error."""
    described = [{"field": v.field, "description": v.description} for v in violations]
    return {"error": {"message": message, "violations": described, "request_id": request_id}}


def headers_of(error: errors.TurnoutError) -> dict[str, str]:
    """Returns the headers that tell a client when to retry, or how to authenticate."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="turnout"'
    return headers
