"""Reads the parameters of a request. Pure. Unknown parameters have no effect, as the protocol says.

A parameter is a boolean, a number or text; None if it was sent without a value.
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
"""Most parameters of a request, of a tensor or of an output."""

MAX_ID = 1024
"""Longest request id, in bytes."""

REGION = "shared_memory_region"
"""The parameter of a tensor that names its region of shared memory."""

_REGION_SIZE, _REGION_OFFSET = "shared_memory_byte_size", "shared_memory_offset"

_TIMEOUT = "timeout"
_SEQUENCE = "sequence_id"
_CLASSIFICATION = "classification"

_MOST_CLASSES = 2**31 - 1


class Place(NamedTuple):
    """The place of a tensor in shared memory.

    Attributes:
        offset: Of the tensor in the region, in bytes.
        size: Bytes that the tensor takes, or may take.
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

    Args:
        outputs: Name and parameters of each, in order.

    Returns:
        Their names in order, empty for all; for each output to classify, how many of its highest values to return;
        and for each output that goes to shared memory, its place there.

    Raises:
        InvalidRequest: `classification` is not a count, the parameters of a region of shared memory are not valid, or
            an output has both.
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
                    raise InvalidRequest.at(field_path, f"expected 1 or more, got {count}")
                if place is not None:
                    raise InvalidRequest.at(field_path, "expected none of an output that goes to shared memory")
                classes[name] = count
    return names, classes, places


def place_of(parameters: Parameters, field: str) -> Place | None:
    """Returns the place of a tensor in shared memory, by its parameters; None if it is not in shared memory.

    Args:
        parameters: Of the tensor.
        field: What errors name.

    Raises:
        InvalidRequest: One of them is of another type, or negative.
    """
    if REGION not in parameters:
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
    """Raises InvalidRequest if `field` has more parameters than it may."""
    if count > MAX_PARAMETERS:
        raise InvalidRequest.at(field, f"expected at most {MAX_PARAMETERS}, got {count}")


def read_options(parameters: Parameters) -> tuple[float | None, str]:
    """Reads the other parameters of a request.

    Returns:
        The request's timeout in seconds, None if it has none; and the routing key, ""
        if there is none.

    Raises:
        InvalidRequest: A known parameter has a value of the wrong type or out of range.
        Unsupported: The request belongs to a sequence.
    """
    timeout: float | None = None
    routing_key = ""
    for key, value in parameters.items():
        if key == _TIMEOUT:
            microseconds = whole(value, f"parameters.{_TIMEOUT}")
            if microseconds < 0:
                raise InvalidRequest.at(f"parameters.{_TIMEOUT}", f"expected 0 or more, got {microseconds}")
            # 0 is how some clients say that there is no sequence.
            timeout = microseconds / 1e6 if microseconds else None
        elif key == ROUTING_KEY:
            if not isinstance(value, str):
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", "expected text")
            if len(value.encode()) > MAX_KEY_BYTES:
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", f"expected at most {MAX_KEY_BYTES} bytes")
            routing_key = value
        elif key == _SEQUENCE and value:
            # Triton's clients leave the parameter out if there is no sequence; others may send an empty value.
            raise Unsupported(f"parameters.{_SEQUENCE}: sequences are not supported; requests share no state")
    return timeout, routing_key


def whole(value: Value, field_path: str) -> int:
    """Returns a parameter that is a whole number.

    Raises:
        InvalidRequest: It is not a whole number, or does not fit 64 bits.
    """
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise InvalidRequest.at(field_path, "expected a whole number of at most 64 bits")
    return value


def check_id(request_id: str) -> str:
    """Checks a request id, and returns it.

    Raises:
        InvalidRequest: It is too long.
    """
    if len(request_id) > MAX_ID // 4 and len(request_id.encode()) > MAX_ID:
        raise InvalidRequest.at("id", f"expected at most {MAX_ID} bytes")
    return request_id
