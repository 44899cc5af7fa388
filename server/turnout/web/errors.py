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


def refusal(
    path: str,
    status: int,
    message: str,
    violations: Sequence[errors.FieldViolation] = (),
    headers: Mapping[str, str] | None = None,
    request_id: str = "",
) -> JSONResponse:
    """Returns a response in the form of all errors under its path.

    That is `{"error": {"message", "violations", "request_id"}}`. Under `/v2` it is `{"error": message}`, as the clients
    of the Open Inference Protocol expect; the message of an internal error then includes the request's id, so that its
    log line can be found.
    """
    if path == "/v2" or path.startswith("/v2/"):
        named = request_id and status == HTTPStatus.INTERNAL_SERVER_ERROR
        body: dict[str, Any] = {"error": f"{message} (request {request_id})" if named else message}
    else:
        described = [{"field": v.field, "description": v.description} for v in violations]
        body = {"error": {"message": message, "violations": described, "request_id": request_id}}
    return JSONResponse(body, status, headers)


def refusal_of(path: str, error: errors.TurnoutError, request_id: str = "") -> JSONResponse:
    """Returns `refusal` for `error`, with the headers that belong to it."""
    return refusal(path, status_of(error), error.message, error.violations, headers_of(error), request_id)


def headers_of(error: errors.TurnoutError) -> dict[str, str]:
    """Returns the headers that tell a client when to retry, or how to authenticate."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="turnout"'
    return headers
