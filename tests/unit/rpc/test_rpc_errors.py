"""The one table from errors to status codes."""

import inspect

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo

from turnout import errors
from turnout.errors import kind_of
from turnout.rpc.errors import code_of, to_status

ALL = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.TurnoutError)]


TABLE = {
    "InvalidRequest": grpc.StatusCode.INVALID_ARGUMENT,
    "MalformedMessage": grpc.StatusCode.INVALID_ARGUMENT,
    "InvalidSelector": grpc.StatusCode.INVALID_ARGUMENT,
    "InvalidTensor": grpc.StatusCode.INVALID_ARGUMENT,
    "InvalidModel": grpc.StatusCode.INVALID_ARGUMENT,
    "NotFoundError": grpc.StatusCode.NOT_FOUND,
    "ModelNotFound": grpc.StatusCode.NOT_FOUND,
    "VersionNotFound": grpc.StatusCode.NOT_FOUND,
    "TagNotFound": grpc.StatusCode.NOT_FOUND,
    "AlreadyExistsError": grpc.StatusCode.ALREADY_EXISTS,
    "InputsRefused": grpc.StatusCode.INVALID_ARGUMENT,
    "Conflict": grpc.StatusCode.ABORTED,
    "ChangeRefused": grpc.StatusCode.FAILED_PRECONDITION,
    "NotLoaded": grpc.StatusCode.FAILED_PRECONDITION,
    "VersionOnDemand": grpc.StatusCode.FAILED_PRECONDITION,
    "VersionYanked": grpc.StatusCode.FAILED_PRECONDITION,
    "NotTrusted": grpc.StatusCode.FAILED_PRECONDITION,
    "UnavailableError": grpc.StatusCode.UNAVAILABLE,
    "VersionLoading": grpc.StatusCode.UNAVAILABLE,
    "StoreUnavailable": grpc.StatusCode.UNAVAILABLE,
    "Draining": grpc.StatusCode.UNAVAILABLE,
    "Exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QueueFull": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MemoryBudgetExceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NoRoom": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RoomInUse": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DeadlineExceededError": grpc.StatusCode.DEADLINE_EXCEEDED,
    "RequestCancelled": grpc.StatusCode.CANCELLED,
    "UnauthenticatedError": grpc.StatusCode.UNAUTHENTICATED,
    "PermissionDeniedError": grpc.StatusCode.PERMISSION_DENIED,
    "Unsupported": grpc.StatusCode.UNIMPLEMENTED,
    "DigestMismatch": grpc.StatusCode.DATA_LOSS,
    "ModelFailure": grpc.StatusCode.INTERNAL,
    "ModelCrashed": grpc.StatusCode.INTERNAL,
    "ModelTimedOut": grpc.StatusCode.INTERNAL,
    "ConfigError": grpc.StatusCode.INTERNAL,
}


def test_the_table_has_a_row_for_every_error() -> None:
    assert {error.__name__ for error in ALL} - {"TurnoutError"} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_every_error_becomes_the_code_of_its_row(name: str) -> None:
    assert code_of(getattr(errors, name)("why")) is TABLE[name]


def test_what_is_no_error_of_ours_is_internal() -> None:
    assert code_of(ZeroDivisionError()) is grpc.StatusCode.INTERNAL


def test_details_name_the_field_and_the_time_to_try_again() -> None:
    status = to_status(errors.InvalidRequest.at("version", "expected a version"))
    bad = BadRequest()
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].field == "version"
    retry = RetryInfo()
    assert to_status(errors.QueueFull("full", retry_after=0.25)).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


def test_the_request_is_named_in_the_details() -> None:
    info = RequestInfo()
    assert to_status(errors.NotFoundError("nothing"), "r-9").details[0].Unpack(info)
    assert info.request_id == "r-9"


def test_a_message_is_bounded_and_a_failure_names_its_request() -> None:
    assert len(to_status(errors.NotFoundError("x" * 10_000)).message) <= 1024
    assert "r-1" in to_status(errors.ModelFailure("it raised"), "r-1").message


def test_an_error_is_called_by_spans_and_scripts_as_clients_call_it() -> None:
    kinds = {kind_of(getattr(errors, name)("why")) for name in TABLE}
    assert {"NotFound", "Unavailable", "DeadlineExceeded", "PermissionDenied", "InvalidRequest", "ConfigError"} <= kinds
    assert [name for name in kinds if name.endswith("Error")] == ["ConfigError"]
    assert kind_of(ValueError()) == "ValueError"
