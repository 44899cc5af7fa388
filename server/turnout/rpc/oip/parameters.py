"""What the parameters of a request ask for. Those that are not named here are of no effect, as the protocol has it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from turnout.errors import InvalidRequest, Unsupported
from turnout.routing.preferences import MAX_KEY_BYTES
from turnout.rpc.oip.codec import MAX_TENSORS, refuse_shared_memory
from turnout_proto.oip.inference_pb2 import InferParameter, ModelInferRequest

ROUTING_KEY = "routing_key"

MAX_ID = 1024
"""Longest request id, in bytes."""

_TIMEOUT = "timeout"
_SEQUENCE = "sequence_id"
_CLASSIFICATION = "classification"

_MOST_CLASSES = 2**31 - 1


_NO_CLASSES: Mapping[str, int] = MappingProxyType({})


def read_outputs(request: ModelInferRequest) -> tuple[Sequence[str], Mapping[str, int]]:
    """Returns the outputs that a request asks for.

    Returns:
        Their names in order, none meaning all; and how many of the highest values are wanted of each that is to be
        classified.

    Raises:
        InvalidRequest: There are too many, or `classification` is not a count.
        Unsupported: An output should be written to shared memory.
    """
    outputs = request.outputs
    if not outputs:
        return (), _NO_CLASSES
    if len(outputs) > MAX_TENSORS:
        raise InvalidRequest.at("outputs", f"expected at most {MAX_TENSORS}, got {len(outputs)}")
    names: list[str] = []
    classes: dict[str, int] = {}
    for index, output in enumerate(outputs):
        names.append(output.name)
        if output.parameters:
            refuse_shared_memory(output.parameters, f"outputs[{index}]")
            if _CLASSIFICATION in output.parameters:
                field_path = f"outputs[{index}].parameters.{_CLASSIFICATION}"
                count = _whole(output.parameters[_CLASSIFICATION], field_path)
                if not 1 <= count <= _MOST_CLASSES:
                    raise InvalidRequest.at(field_path, f"expected 1 or more, got {count}")
                classes[output.name] = count
    return names, classes


def read_options(parameters: Mapping[str, InferParameter]) -> tuple[float | None, str]:
    """Returns what else a request's parameters ask for.

    Returns:
        Seconds after which nobody waits for the answer, None where the request does not say; and the routing key, ""
        where there is none.

    Raises:
        InvalidRequest: A parameter that is known has a value of another type or out of range.
        Unsupported: The request belongs to a sequence.
    """
    timeout: float | None = None
    routing_key = ""
    for key in parameters:
        if key == _TIMEOUT:
            microseconds = _whole(parameters[key], f"parameters.{_TIMEOUT}")
            if microseconds < 0:
                raise InvalidRequest.at(f"parameters.{_TIMEOUT}", f"expected 0 or more, got {microseconds}")
            # 0 is how some clients say that there is none.
            timeout = microseconds / 1e6 if microseconds else None
        elif key == ROUTING_KEY:
            if parameters[key].WhichOneof("parameter_choice") != "string_param":
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", "expected a string_param")
            routing_key = parameters[key].string_param
            if len(routing_key.encode()) > MAX_KEY_BYTES:
                raise InvalidRequest.at(f"parameters.{ROUTING_KEY}", f"expected at most {MAX_KEY_BYTES} bytes")
        elif key == _SEQUENCE and _names_a_sequence(parameters[key]):
            raise Unsupported(f"parameters.{_SEQUENCE}: sequences are not supported; requests share no state")
    return timeout, routing_key


def check_id(request_id: str) -> str:
    """Returns the id.

    Raises:
        InvalidRequest: It is too long.
    """
    if len(request_id) > MAX_ID // 4 and len(request_id.encode()) > MAX_ID:
        raise InvalidRequest.at("id", f"expected at most {MAX_ID} bytes")
    return request_id


def _whole(parameter: InferParameter, field_path: str) -> int:
    match parameter.WhichOneof("parameter_choice"):
        case "int64_param":
            return parameter.int64_param
        case "uint64_param":
            return parameter.uint64_param
        case _:
            raise InvalidRequest.at(field_path, "expected a whole number, in int64_param or uint64_param")


def _names_a_sequence(parameter: InferParameter) -> bool:
    # Triton's clients leave the parameter out where there is no sequence; others may send its empty value.
    return bool(parameter.int64_param or parameter.uint64_param or parameter.string_param)
