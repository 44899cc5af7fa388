"""Converts between protobuf messages and the client's values."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turnout_client.errors import Internal, InvalidArgument, Violation
from turnout_client.model import (
    ModelInfo,
    Prediction,
    Role,
    Standing,
    TensorInfo,
    Timing,
    VersionInfo,
    VersionState,
)
from turnout_proto.tensors import TensorError, append, decode
from turnout_proto.v1 import catalog_pb2, prediction_pb2

E = TypeVar("E", bound=StrEnum)

MAX_TIMEOUT_MS = 2**32 - 1


def _by_number(values: type[E], wire: Any) -> dict[int, E]:
    """Maps the numbers of a protobuf enum to the members of `values` with the same names."""
    prefix = wire.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {number: values[name.removeprefix(prefix)] for name, number in wire.items()}


_ROLES = _by_number(Role, prediction_pb2.Role)
_STANDINGS = _by_number(Standing, catalog_pb2.Standing)
_STATES = _by_number(VersionState, catalog_pb2.VersionState)
_DTYPES = {number: name.removeprefix("DATA_TYPE_").lower() for name, number in prediction_pb2.DataType.items()}


@dataclass(frozen=True, slots=True)
class PredictCall:
    """The arguments of one `predict` call, with "" and () for those that are not given."""

    model: str
    version: str
    inputs: Mapping[str, ArrayLike]
    outputs: Sequence[str]
    request_id: str
    routing_key: str

    def write(self, request: prediction_pb2.PredictRequest) -> None:
        """Fills the empty `request` in place, because protobuf copies a message when it is assigned to a field.

        Raises:
            InvalidArgument: An input cannot be represented as a tensor, or a string is not valid Unicode.
            TypeError: A name, the version, the request id or the routing key is not a string.
        """
        try:
            request.model = self.model
            if self.version:
                request.version = self.version
            if self.request_id:
                request.request_id = self.request_id
            if self.routing_key:
                request.routing_key = self.routing_key
            if self.outputs:
                request.outputs.extend(self.outputs)
        except (TypeError, UnicodeEncodeError) as error:
            fields = ("model", "version", "request_id", "routing_key")
            given = [(field, getattr(self, field)) for field in fields]
            raise _no_text([*given, *(("outputs", output) for output in self.outputs)]) from error
        tensors = request.inputs
        for name, value in self.inputs.items():
            try:
                append(tensors, name, as_array(value))
            except (TypeError, UnicodeEncodeError) as error:
                if _is_text(name):
                    raise
                raise _no_text([("inputs", name)]) from error
            except ValueError as error:
                raise _bad_input(len(tensors), name, error) from error


def stamp(item: prediction_pb2.PredictStreamRequest, deadline: float | None) -> None:
    """Sets the send time and the remaining timeout of a stream item. Call it right before the item is written.

    `deadline` is in `time.monotonic` seconds; None for no deadline.
    """
    now = time.monotonic()
    item.sent_ms = int(now * 1000)
    if deadline is not None:
        item.timeout_ms = min(max(math.ceil((deadline - now) * 1000), 1), MAX_TIMEOUT_MS)


def read_prediction(response: prediction_pb2.PredictResponse) -> Prediction:
    """Returns the prediction in `response`. Raises Internal if an output is not a valid tensor."""
    route, timing = response.route, response.timing
    try:
        outputs = {tensor.name: decode(tensor) for tensor in response.outputs}
    except TensorError as error:
        raise Internal(
            f"the server answered with a malformed tensor: {error}", request_id=response.request_id
        ) from error
    return Prediction(
        outputs,
        response.model,
        route.version,
        route.digest,
        _ROLES.get(route.role, Role.UNSPECIFIED),
        route.epoch,
        Timing(timing.queue_us * 1e-6, timing.compute_us * 1e-6, timing.batch_rows),
        response.request_id,
        route.warning,
    )


def read_model(model: catalog_pb2.Model) -> ModelInfo:
    """Returns the model in the message."""
    return ModelInfo(model.name, tuple(read_version(version) for version in model.versions), model.default_version)


def read_version(version: catalog_pb2.ModelVersion) -> VersionInfo:
    """Returns the version in the message. Enum values that this client does not know become UNSPECIFIED."""
    return VersionInfo(
        version=version.version,
        digest=version.digest,
        standing=_STANDINGS.get(version.standing, Standing.UNSPECIFIED),
        state=_STATES.get(version.state, VersionState.UNSPECIFIED),
        reason=version.reason,
        tags=tuple(version.tags),
        inputs=_tensors(version.inputs),
        outputs=_tensors(version.outputs),
        size_bytes=version.size_bytes,
        max_batch_rows=version.max_batch_rows,
        batching=version.batching,
        providers=tuple(version.providers),
        load_seconds=version.load_seconds,
        isolation=version.isolation,
        cuda_graphs=version.cuda_graphs,
        tensorrt=version.tensorrt,
    )


def _tensors(specs: Iterable[catalog_pb2.TensorSpec]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            spec.name,
            _DTYPES.get(spec.data_type, "unspecified"),
            tuple(_dimension(dim) for dim in spec.shape),
            spec.has_default,
        )
        for spec in specs
    )


def _dimension(dim: catalog_pb2.Dimension) -> int | str | None:
    match dim.WhichOneof("kind"):
        case "size":
            return dim.size
        case "symbol":
            return dim.symbol
        case _:
            return None


def as_array(value: ArrayLike) -> NDArray[Any]:
    """Converts a value to an array.

    Text stays in `str` and `bytes`. In an array of NumPy's `U` or `S` it would lose the NULs at its end, and numbers
    beside it in a list would become text.
    """
    array = np.asarray(value)
    return np.asarray(value, object) if array.dtype.kind in "US" and array is not value else array


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _no_text(fields: Iterable[tuple[str, object]]) -> Exception:
    """Returns the error for the first of the fields whose value is not a string, or not valid Unicode."""
    field, value = next((field, value) for field, value in fields if not _is_text(value))
    if not isinstance(value, str):
        return TypeError(f"{field}: expected a string, got {value!r}")
    description = f"expected text that UTF-8 can hold, got {value!r}"
    return InvalidArgument(f"{field}: {description}", violations=[Violation(field, description)])


def _bad_input(index: int, name: str, error: ValueError) -> InvalidArgument:
    if isinstance(error, TensorError):
        field, description = f"inputs[{index}].{error.field}", error.description
    else:
        field, description = f"inputs[{index}]", f"expected something that NumPy makes an array of: {error}"
    return InvalidArgument(f"input {name!r}: {description}", violations=[Violation(field, description)])
