"""The one table from errors to HTTP status codes."""

import math
from http import HTTPStatus

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
"""By error class; a class not named here has its nearest base's status, and any other error is a 500."""


def status_of(error: errors.TurnoutError) -> HTTPStatus:
    """Returns the status that `error` becomes."""
    return next((STATUSES[b] for b in type(error).__mro__ if b in STATUSES), HTTPStatus.INTERNAL_SERVER_ERROR)


def error_response(error: errors.TurnoutError, request_id: str = "") -> JSONResponse:
    """Returns `error` as `{"error": {"message", "violations", "request_id"}}`, with the headers that help."""
    status = status_of(error)
    body = {
        "error": {
            "message": error.message,
            "violations": [{"field": v.field, "description": v.description} for v in error.violations],
            "request_id": request_id,
        }
    }
    return JSONResponse(body, status, headers_of(error))


def headers_of(error: errors.TurnoutError) -> dict[str, str]:
    """Returns the headers that tell a client what to do about `error`."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="turnout"'
    return headers
