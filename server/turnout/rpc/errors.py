"""Maps errors to gRPC status codes, and adds the status details that clients act on."""

import asyncio
from collections.abc import Iterable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from turnout import errors

CODES: dict[type[BaseException], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.ChangeRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotLoaded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.DigestMismatch: grpc.StatusCode.DATA_LOSS,
    errors.ModelFailure: grpc.StatusCode.INTERNAL,
    errors.ConfigError: grpc.StatusCode.INTERNAL,
    asyncio.CancelledError: grpc.StatusCode.CANCELLED,
}
"""Status codes by error class. A class that is not listed has the code of its nearest listed base class; all other
exceptions map to INTERNAL."""

_MAX_MESSAGE = 1024
"""Maximum length of a status message in characters. The message is sent in a header, whose size is limited."""

_MAX_VIOLATIONS = 16


def code_of(error: BaseException) -> grpc.StatusCode:
    """Returns the status code for `error`."""
    for base in type(error).__mro__:
        code = CODES.get(base)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def code_name(error: BaseException) -> str:
    """Returns the name of the status code for `error`, as shown in metrics and logs."""
    return code_of(error).name


def to_status(error: errors.TurnoutError, request_id: str = "", details: Iterable[Message] = ()) -> Status:
    """Converts `error` to a google.rpc.Status with the details that clients act on.

    Args:
        error: The error. Its message and violations are shown to the client.
        request_id: Id of the request, sent as a detail. The message of an internal error includes it as well, so that
            the log line can be found.
        details: Additional details, a few KiB at most, since they are sent in a header.
    """
    code = code_of(error)
    message = error.message
    if request_id and code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS):
        message = f"{message} (request {request_id})"
    status_details: list[Message] = []
    if error.violations:
        status_details.append(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(field=v.field[:256], description=v.description[:_MAX_MESSAGE])
                    for v in error.violations[:_MAX_VIOLATIONS]
                ]
            )
        )
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(max(int(error.retry_after * 1000), 1))
        status_details.append(RetryInfo(retry_delay=delay))
    if request_id:
        status_details.append(RequestInfo(request_id=request_id[:128]))
    status = Status(code=code.value[0], message=message[:_MAX_MESSAGE])
    for detail in (*status_details, *details):
        status.details.add().Pack(detail)
    return status
