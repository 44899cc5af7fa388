"""The one table from errors to status codes."""

import inspect

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RequestInfo, RetryInfo

from turnout import errors
from turnout.rpc.errors import code_of, to_status

ALL = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.TurnoutError)]


@pytest.mark.parametrize("error", [e for e in ALL if e is not errors.TurnoutError], ids=lambda e: e.__name__)
def test_every_error_has_a_code_of_its_own_or_its_bases(error: type[errors.TurnoutError]) -> None:
    code = code_of(error("why"))
    assert code is not grpc.StatusCode.OK
    if code is grpc.StatusCode.INTERNAL:
        assert issubclass(error, (errors.ModelFailure, errors.ConfigError))


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
    assert to_status(errors.NotFound("nothing"), "r-9").details[0].Unpack(info)
    assert info.request_id == "r-9"


def test_a_message_is_bounded_and_a_failure_names_its_request() -> None:
    assert len(to_status(errors.NotFound("x" * 10_000)).message) <= 1024
    assert "r-1" in to_status(errors.ModelFailure("it raised"), "r-1").message
