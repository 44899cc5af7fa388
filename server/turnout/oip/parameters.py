"""What the parameters of a request ask for. Pure. Those not named here are of no effect, as the protocol has it.

A parameter is a truth value, a number or text; None is one that was sent without a value.
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
"""The parameter of a tensor that names the region of shared memory in which it lies."""

_REGION_SIZE, _REGION_OFFSET = "shared_memory_byte_size", "shared_memory_offset"

_TIMEOUT = "timeout"
_SEQUENCE = "sequence_id"
_CLASSIFICATION = "classification"

_MOST_CLASSES = 2**31 - 1


class Place(NamedTuple):
    """Where in shared memory a tensor lies.

    Attributes:
        offset: Of the tensor in it, in bytes.
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
    """Returns the outputs that a request asks for.

    Args:
        outputs: Name and parameters of each, in order.

    Returns:
        Their names in order, none meaning all; how many of the highest values are wanted of each that is to be
        classified; and where in shared memory each is to be written that does not travel in the answer.

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
    """Returns where the parameters of a tensor say that it lies; None if it does not lie in shared memory.

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
    """Raises InvalidRequest where `field` has more parameters than it may."""
    if count > MAX_PARAMETERS:
        raise InvalidRequest.at(field, f"expected at most {MAX_PARAMETERS}, got {count}")


def read_options(parameters: Parameters) -> tuple[float | None, str]:
    """Returns what else a request's parameters ask for.

    Returns:
        Seconds after which nobody waits for the answer, None where the request does not say; and the routing key, ""
        if there is none.

    Raises:
        InvalidRequest: A parameter that is known has a value of another type or out of range.
        Unsupported: The request belongs to a sequence.
    """
    timeout: float | None = None
    routing_key = ""
    for key, value in parameters.items():
        if key == _TIMEOUT:
            microseconds = whole(value, f"parameters.{_TIMEOUT}")
            if microseconds < 0:
                raise InvalidRequest.at(f"parameters.{_TIMEOUT}", f"expected 0 or more, got {microseconds}")
            # 0 is how some clients say that there is none.
            timeout = microseconds / 1e6 if microseconds else None
        elif key == ROUTING_KEY:
            if not isinstance(value, str):
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", "expected text")
            if len(value.encode()) > MAX_KEY_BYTES:
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", f"expected at most {MAX_KEY_BYTES} bytes")
            routing_key = value
        elif key == _SEQUENCE and value:
            # Triton's clients leave the parameter out where there is no sequence; others may send its empty value.
            raise Unsupported(f"parameters.{_SEQUENCE}: sequences are not supported; requests share no state")
    return timeout, routing_key


def whole(value: Value, field_path: str) -> int:
    """Returns a parameter that is a whole number.

    Raises:
        InvalidRequest: It is not a whole number, or one that 64 bits cannot hold.
    """
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise InvalidRequest.at(field_path, "expected a whole number of at most 64 bits")
    return value


def check_id(request_id: str) -> str:
    """Returns the id.

    Raises:
        InvalidRequest: It is too long.
    """
    if len(request_id) > MAX_ID // 4 and len(request_id.encode()) > MAX_ID:
        raise InvalidRequest.at("id", f"expected at most {MAX_ID} bytes")
    return request_id
