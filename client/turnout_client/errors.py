"""The exception tree of the client: one class for each gRPC status except OK.

    TurnoutClientError
    ├── InvalidArgument       a selector or tensor is malformed; `violations` name the fields
    ├── NotFound              no such model, version or tag; the message suggests similar names
    ├── AlreadyExists         the version exists with other content
    ├── FailedPrecondition    the version is known, but not in service
    ├── PermissionDenied      the caller lacks permission, or this listener does not allow the call
    ├── Unauthenticated       no token or certificate, or an invalid one
    ├── Unimplemented         the server does not implement that part of the protocol
    ├── OutOfRange
    ├── Unavailable           still loading, draining, or no connection     retried
    ├── ResourceExhausted     the queue or the memory is full               retried if the server says when
    ├── DeadlineExceeded      the call did not finish within its timeout
    ├── Cancelled             the call was cancelled, by the server or because the client was closed
    │   └── ClientClosed      the client was closed before the call began
    ├── DataLoss              the version's files differ from those that were published
    ├── Internal              the model failed; look up `request_id` in the server's log
    ├── Aborted
    └── Unknown

Each error has the server's message in `message`, and the `google.rpc` details that came with it in other attributes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invalid field of a request.

    Attributes:
        field: Path of the field, for example `inputs[0].shape` or `version`.
        description: The expected and the received value.
    """

    field: str
    description: str


class TurnoutClientError(Exception):
    """Base class of all errors that calls raise.

    Attributes:
        code: The gRPC status code.
        message: The error message, one sentence.
        violations: The invalid fields, if the server names any.
        retry_after: Seconds after which the server asks the client to retry; None if it does not.
        request_id: The request's id in the server's log; "" if it is not known.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.request_id = request_id

    def of_request(self, request_id: str) -> Self:
        """Returns a copy of this error for another request."""
        return type(self)(self.message, violations=self.violations, retry_after=self.retry_after, request_id=request_id)


class InvalidArgument(TurnoutClientError):
    """Raised when the request is malformed and would fail again; `violations` name the invalid fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(TurnoutClientError):
    """Raised when the model, version or tag does not exist; the message suggests similar names."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(TurnoutClientError):
    """Raised when the version already exists with different content, since versions are immutable."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(TurnoutClientError):
    """Raised when the version exists but is not in service, and retrying will not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(TurnoutClientError):
    """Raised when the caller lacks permission, or the listener does not allow this call."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(TurnoutClientError):
    """Raised when the server cannot identify the caller: the token or certificate is missing, invalid or expired."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unimplemented(TurnoutClientError):
    """Raised when the server does not implement this part of the protocol."""

    code = grpc.StatusCode.UNIMPLEMENTED


class OutOfRange(TurnoutClientError):
    """Raised when the request refers to a position past the end of the data."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unavailable(TurnoutClientError):
    """Raised when the version is loading, the server is draining, or there is no connection. Safe to retry."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(TurnoutClientError):
    """Raised when a limit was reached and the request was not started. Safe to retry if `retry_after` is set."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(TurnoutClientError):
    """Raised when a call's timeout passed; the request may or may not have been computed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(TurnoutClientError):
    """Raised when a call was cancelled, by the server or because the client was closed."""

    code = grpc.StatusCode.CANCELLED


class ClientClosed(Cancelled):
    """Raised when the client was closed before the call began."""


class DataLoss(TurnoutClientError):
    """Raised when the version's files differ from those that were published; such a version is never served."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(TurnoutClientError):
    """Raised when the model or the server failed; look up `request_id` in the server's log."""

    code = grpc.StatusCode.INTERNAL


class Aborted(TurnoutClientError):
    """Raised when the server aborted the call because it conflicts with another one."""

    code = grpc.StatusCode.ABORTED


class Unknown(TurnoutClientError):
    """Raised when the server, or a proxy in front of it, failed without giving a reason."""

    code = grpc.StatusCode.UNKNOWN


class FailedCall(Protocol):
    """The interface that the errors of `grpc` and `grpc.aio` have in common."""

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""
        ...

    def details(self) -> str | None:
        """Returns the status message."""
        ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Returns the trailing metadata."""
        ...


_CLASSES: dict[grpc.StatusCode, type[TurnoutClientError]] = {
    kind.code: kind for kind in TurnoutClientError.__subclasses__()
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BREAKS = (Cancelled, Unknown, Aborted, Internal, Unavailable)
_STATUS_DETAILS = "grpc-status-details-bin"
_HTTP_ANSWER = "Received http2 header with status: "
"""gRPC's message if the answer is one of HTTP, such as of Turnout's HTTP port."""


def error_of_call(call: FailedCall, request_id: str = "") -> TurnoutClientError:
    """Returns the error for a failed call, with the details from its trailing metadata."""
    details: Iterable[AnyMessage] = ()
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            try:
                details = Status.FromString(value).details
            except DecodeError:
                continue  # not from Turnout but from a proxy; the status code itself is still valid
    message = call.details() or ""
    if message.startswith(_HTTP_ANSWER):
        message = f"{message}: not a gRPC server, or a proxy in front of one; Turnout's gRPC port is 8001 by default"
    return _error(call.code(), message, details, request_id)


def error_of_status(status: Status, request_id: str = "") -> TurnoutClientError:
    """Returns the error for a status that arrived as a message, as for a single request on a stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, status.details, request_id)


def error_of_break(call: FailedCall | None, *, has_deadline: bool = False) -> TurnoutClientError:
    """Returns the error for the pending requests of a stream that broke.

    Statuses that concern the caller, such as PERMISSION_DENIED and UNIMPLEMENTED, are kept. Statuses that only mean
    that the stream has ended become Unavailable, since a new stream may work.

    Args:
        call: How the stream ended; None if the server ended it with OK.
        has_deadline: Whether this client set a deadline for the call. If not, DEADLINE_EXCEEDED means that a server or
            proxy limits the lifetime of streams.
    """
    if call is None:
        return Unavailable("the server ended the stream")
    error = error_of_call(call)
    if isinstance(error, _BREAKS) or (isinstance(error, DeadlineExceeded) and not has_deadline):
        return Unavailable(f"the stream broke: {error.message}", retry_after=error.retry_after)
    return error


def after_failure(error: TurnoutClientError, failure: TurnoutClientError | None) -> TurnoutClientError:
    """Returns the error of a call whose attempt before the last one ended with `failure`.

    That is `error`, or if it only says that the time is over, an error that also has the reason of the failure.
    """
    if failure is None or not isinstance(error, DeadlineExceeded):
        return error
    message = f"{error.message}; the attempt before ended with {failure.code.name}: {failure.message}"
    late = DeadlineExceeded(message, request_id=error.request_id)
    late.__cause__ = error
    return late


def whole(response: ResponseT | None, request_id: str = "") -> ResponseT:
    """Returns `response`.

    Raises:
        Internal: It is None, which is what gRPC returns if a call ends with OK before a whole response has arrived, or
            if grpc.aio cannot parse the response.
    """
    if response is None:
        raise Internal("the call ended with OK, without a valid response", request_id=request_id)
    return response


def _error(code: grpc.StatusCode, message: str, details: Iterable[AnyMessage], request_id: str) -> TurnoutClientError:
    violations: list[Violation] = []
    retry_after: float | None = None
    for detail in details:
        if bad_request := _unpacked(detail, BadRequest()):
            violations += [Violation(fault.field, fault.description) for fault in bad_request.field_violations]
        elif retry_info := _unpacked(detail, RetryInfo()):
            retry_after = max(0.0, retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9)
        elif request_info := _unpacked(detail, RequestInfo()):
            request_id = request_info.request_id or request_id
    kind = _CLASSES.get(code, Unknown)
    message = message or f"the call ended with {code.name}, without a message"
    return kind(message, violations=violations, retry_after=retry_after, request_id=request_id)


def _unpacked(detail: AnyMessage, into: Any) -> Any:
    """Returns the message in `detail` if it is valid and of the type of `into`, else None."""
    try:
        return into if detail.Unpack(into) else None
    except DecodeError:
        return None
