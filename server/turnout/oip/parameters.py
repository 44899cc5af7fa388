"""Reads the parameters of a request. Pure.

A parameter is a boolean, a number or a string, or None if it was sent without a value. Unknown parameters are ignored,
as the protocol requires.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from turnout.errors import InvalidRequest, Unsupported
from turnout.routing.request_metadata import MAX_KEY_BYTES

Value = bool | int | float | str | None
Parameters = Mapping[str, Value]

NO_PARAMETERS: Parameters = MappingProxyType({})

ROUTING_KEY = "routing_key"

MAX_PARAMETERS = 256
"""Maximum number of parameters of a request, a tensor or an output."""

MAX_ID = 1024
"""Maximum length of a request id in bytes."""

REGION = "shared_memory_region"
"""The parameter of a tensor that names its shared memory region."""

_REGION_SIZE, _REGION_OFFSET = "shared_memory_byte_size", "shared_memory_offset"

_TIMEOUT = "timeout"
_SEQUENCE = "sequence_id"
_CLASSIFICATION = "classification"

_MOST_CLASSES = 2**31 - 1


class Place(NamedTuple):
    """The location of a tensor in shared memory.

    Attributes:
        offset: Offset of the tensor in the region, in bytes.
        size: Size of an input, or maximum size of an output, in bytes.
    """

    region: str
    offset: int
    size: int


_NO_CLASSES: Mapping[str, int] = MappingProxyType({})
_NO_PLACES: Mapping[str, Place] = MappingProxyType({})


def read_outputs(
    outputs: Sequence[tuple[str, Parameters]],
) -> tuple[Sequence[str], Mapping[str, int], Mapping[str, Place]]:
    """Reads which outputs a request asks for, and how they are to be returned.

    Returns the names in order (empty for all outputs), the number of highest values to return for each output to
    classify, and the location of each output to write to shared memory.

    Raises:
        InvalidRequest: `classification` is not a positive integer, the shared memory parameters are invalid, or an
            output has both.
    """
    if not outputs:
        return (), _NO_CLASSES, _NO_PLACES
    names: list[str] = []
    classes: dict[str, int] = {}
    places: dict[str, Place] = {}
    for index, (name, parameters) in enumerate(outputs):
        names.append(name)
        if parameters:
            if (place := place_of(parameters, f"outputs[{index}]")) is not None:
                places[name] = place
            if _CLASSIFICATION in parameters:
                field_path = f"outputs[{index}].parameters.{_CLASSIFICATION}"
                count = whole(parameters[_CLASSIFICATION], field_path)
                if not 1 <= count <= _MOST_CLASSES:
                    raise InvalidRequest.at(field_path, f"expected 1 to {_MOST_CLASSES}, got {count}")
                if place is not None:
                    raise InvalidRequest.at(field_path, "expected none of an output that goes to shared memory")
                classes[name] = count
    return names, classes, places


def place_of(parameters: Parameters, field: str) -> Place | None:
    """Returns the location of a tensor in shared memory; None if it is not in shared memory.

    Errors name `field`, the path of the tensor.

    Raises:
        InvalidRequest: A parameter has the wrong type or is negative, or the region is missing.
    """
    if REGION not in parameters:
        for key in (_REGION_OFFSET, _REGION_SIZE):
            if key in parameters:
                raise InvalidRequest.at(f"{field}.parameters.{key}", f"expected {REGION} beside it")
        return None
    region = parameters[REGION]
    if not isinstance(region, str):
        raise InvalidRequest.at(f"{field}.parameters.{REGION}", "expected text")
    offset, size = (
        _bytes(parameters.get(key, 0), f"{field}.parameters.{key}") for key in (_REGION_OFFSET, _REGION_SIZE)
    )
    return Place(region, offset, size)


def _bytes(value: Value, field_path: str) -> int:
    size = whole(value, field_path)
    if size < 0:
        raise InvalidRequest.at(field_path, f"expected 0 or more, got {size}")
    return size


def check_parameter_count(field: str, count: int) -> None:
    """Raises InvalidRequest if `field` has too many parameters."""
    if count > MAX_PARAMETERS:
        raise InvalidRequest.at(field, f"expected at most {MAX_PARAMETERS}, got {count}")


def read_options(parameters: Parameters) -> tuple[float | None, str]:
    """Returns the timeout in seconds (None for none) and the routing key ("" for none) of a request's parameters.

    Raises:
        InvalidRequest: The value of a known parameter has the wrong type or is out of range.
        Unsupported: The request belongs to a sequence.
    """
    timeout: float | None = None
    routing_key = ""
    for key, value in parameters.items():
        if key == _TIMEOUT:
            microseconds = whole(value, f"parameters.{_TIMEOUT}")
            if microseconds < 0:
                raise InvalidRequest.at(f"parameters.{_TIMEOUT}", f"expected 0 or more, got {microseconds}")
            # 0 means no timeout.
            timeout = microseconds / 1e6 if microseconds else None
        elif key == ROUTING_KEY:
            if not isinstance(value, str):
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", "expected text")
            if len(value.encode()) > MAX_KEY_BYTES:
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", f"expected at most {MAX_KEY_BYTES} bytes")
            routing_key = value
        elif key == _SEQUENCE and value:
            # Triton's clients omit the parameter if there is no sequence; other clients may send 0 or an empty value.
            raise Unsupported(f"parameters.{_SEQUENCE}: sequences are not supported; requests share no state")
    return timeout, routing_key


def whole(value: Value, field_path: str) -> int:
    """Returns the value of an integer parameter.

    Raises:
        InvalidRequest: The value is not an integer, or does not fit into 64 bits.
    """
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise InvalidRequest.at(field_path, "expected a whole number of at most 64 bits")
    return value


def check_id(request_id: str) -> str:
    """Checks the length of a request id, and returns the id. Raises InvalidRequest if the id is too long."""
    if len(request_id) > MAX_ID // 4 and len(request_id.encode()) > MAX_ID:
        raise InvalidRequest.at("id", f"expected at most {MAX_ID} bytes")
    return request_id
