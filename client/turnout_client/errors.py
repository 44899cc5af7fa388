"""The errors of calls, in one tree: a class for each gRPC status except OK.

    TurnoutClientError
    ├── InvalidArgument       a selector or tensor is malformed; `violations` name the fields
    ├── NotFound              no such model, version or tag; the message names the nearest
    ├── AlreadyExists         the version exists with other content
    ├── FailedPrecondition    the version is known, but not in service
    ├── PermissionDenied      you may not, or this listener does not do that
    ├── Unauthenticated       no token or certificate, or an invalid one
    ├── Unimplemented         the server does not speak that part of the protocol
    ├── OutOfRange
    ├── Unavailable           not now: still loading, draining, or no connection     retried
    ├── ResourceExhausted     the queue or the memory is full                        retried, when the server says when
    ├── DeadlineExceeded      the time allowed has passed
    ├── Cancelled             the caller, or the client's end, gave the call up
    │   └── ClientClosed      the client was closed before the call began
    ├── DataLoss              the version's bytes are not those that were published
    ├── Internal              the model failed; `request_id` finds it in the server's log
    ├── Aborted
    └── Unknown

All of them have the server's message in `message`, and the `google.rpc` details that came with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request.

    Attributes:
        field: Path of the field, for example `inputs[0].shape` or `version`.
        description: What was expected and what came.
    """

    field: str
    description: str


class TurnoutClientError(Exception):
    """The root of all errors that a call to a server ends with.

    Attributes:
        code: The gRPC status.
        message: One sentence.
        violations: The fields at fault, if the server names any.
        retry_after: Seconds after which the server asks to try again; None if it does not ask.
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
        """Returns an error like this one for one of several requests that ended with it."""
        return type(self)(self.message, violations=self.violations, retry_after=self.retry_after, request_id=request_id)


class InvalidArgument(TurnoutClientError):
    """The request can never succeed as it is: `violations` name the fields at fault."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(TurnoutClientError):
    """The model, version or tag does not exist; the message names the nearest that do."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(TurnoutClientError):
    """A version is immutable: other content stands under it already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(TurnoutClientError):
    """The version is known, but not in service, and nothing is about to change that."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(TurnoutClientError):
    """Whoever asks may not, or the listener that was asked does not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(TurnoutClientError):
    """The server does not know who asks: no token or certificate came, or one that is worth nothing (any more)."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unimplemented(TurnoutClientError):
    """The server does not speak this part of the protocol."""

    code = grpc.StatusCode.UNIMPLEMENTED


class OutOfRange(TurnoutClientError):
    """Something was asked for past its end."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unavailable(TurnoutClientError):
    """Not now: the version is loading, the server is draining, or there is no connection. Safe to retry."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(TurnoutClientError):
    """A limit was reached and the request was not started. Safe to retry if `retry_after` is given."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(TurnoutClientError):
    """The time allowed has passed; the request may or may not have been computed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(TurnoutClientError):
    """The call was given up, by the server or because the client was closed."""

    code = grpc.StatusCode.CANCELLED


class ClientClosed(Cancelled):
    """The client was closed before the call began."""


class DataLoss(TurnoutClientError):
    """The version's bytes are not those that were published, so it is never served."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(TurnoutClientError):
    """The model failed, or the server did; `request_id` finds it in the server's log."""

    code = grpc.StatusCode.INTERNAL


class Aborted(TurnoutClientError):
    """The server gave the call up because of another one."""

    code = grpc.StatusCode.ABORTED


class Unknown(TurnoutClientError):
    """The server, or something on the way to it, failed without saying how."""

    code = grpc.StatusCode.UNKNOWN


class FailedCall(Protocol):
    """What `grpc` and `grpc.aio` both raise when a call ends with a status."""

    def code(self) -> grpc.StatusCode:
        """Returns the status."""
        ...

    def details(self) -> str | None:
        """Returns its message."""
        ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Returns what came after the answer."""
        ...


_CLASSES: dict[grpc.StatusCode, type[TurnoutClientError]] = {
    kind.code: kind for kind in TurnoutClientError.__subclasses__()
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BREAKS = (Cancelled, Unknown, Aborted, Internal, Unavailable)
_STATUS_DETAILS = "grpc-status-details-bin"


def error_of_call(call: FailedCall, request_id: str = "") -> TurnoutClientError:
    """Returns the error for a call that ended with a status, with the details from its trailing metadata."""
    details: Iterable[AnyMessage] = ()
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            try:
                details = Status.FromString(value).details
            except DecodeError:
                continue  # a proxy's own bytes: the status itself still holds
    return _error(call.code(), call.details() or "", details, request_id)


def error_of_status(status: Status, request_id: str = "") -> TurnoutClientError:
    """Returns the error for a status that came as a message: one item's on a stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, status.details, request_id)


def error_of_break(call: FailedCall | None, *, has_deadline: bool = False) -> TurnoutClientError:
    """Returns the error for requests on a stream that broke; None stands for a stream that its server ended with OK.

    What the server says about the caller (PERMISSION_DENIED, UNIMPLEMENTED and the like) stands. What only says that
    the stream is no more becomes Unavailable: the next stream may well do.

    Args:
        call: How the stream ended.
        has_deadline: DEADLINE_EXCEEDED is this client's own; else a server or proxy bounds the stream's life.
    """
    if call is None:
        return Unavailable("the server ended the stream")
    error = error_of_call(call)
    if isinstance(error, _BREAKS) or (isinstance(error, DeadlineExceeded) and not has_deadline):
        return Unavailable(f"the stream broke: {error.message}", retry_after=error.retry_after)
    return error


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
    return kind(message, violations=violations, retry_after=retry_after, request_id=request_id)


def _unpacked(detail: AnyMessage, into: Any) -> Any:
    """Returns the message in `detail` if it has `into`'s type and is valid, else None."""
    try:
        return into if detail.Unpack(into) else None
    except DecodeError:
        return None
