"""Translates a request of the protocol, and its answer, between the transports and the data plane."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from turnout.oip.extensions.classification import classify
from turnout.oip.extensions.shared_memory import CallerMemory, TensorWindow
from turnout.oip.metadata import batches_along_first_axis
from turnout.oip.parameters import Parameters, check_id, read_options, read_outputs
from turnout.oip.tensors import encode_raw
from turnout.routing.request_metadata import Preferences
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult, Route
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits
from turnout.serving.sessions.tensor import Array

LOGGED_ID = 128
"""Characters of a request's id that logs show."""


class RequestedOutputs(NamedTuple):
    """How the outputs of a request are to be returned.

    Attributes:
        classes: By name of an output to classify: how many of its highest values to return.
        windows: By name of an output that goes to shared memory: where to write it.
    """

    classes: Mapping[str, int]
    windows: Mapping[str, TensorWindow]


NOTHING_SPECIAL = RequestedOutputs({}, {})


class InferenceOutput(NamedTuple):
    """One output, encoded for the protocol.

    Attributes:
        datatype: The protocol's name of its type.
        raw: Its elements.
        stored: Its elements were written to shared memory, so the answer contains none.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    stored: bool


def request_of(
    *,
    model: str,
    selector: str,
    request_id: str,
    logged_id: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[tuple[str, Parameters]],
    parameters: Parameters,
    arrived: float,
    deadline: float | None,
    preferences: Preferences,
    limits: InputLimits,
    memory: CallerMemory,
) -> tuple[InferenceRequest, RequestedOutputs]:
    """Returns a request, and how its outputs are to be returned.

    Args:
        model: Name, as the client wrote it.
        selector: Of the version, as the client wrote it.
        request_id: As the client wrote it; "" for none.
        logged_id: Names the request in logs.
        inputs: By name.
        outputs: Name and parameters of each requested output; empty for all.
        parameters: Of the request.
        arrived: `time.monotonic()` when it arrived.
        deadline: `time.monotonic()` after which the caller waits no longer, its parameters apart; None for no bound.
        preferences: What the call's metadata or headers ask for.
        limits: On the length of names.
        memory: The caller's regions of shared memory.

    Raises:
        InvalidRequest: A parameter or the id is invalid, or an output does not fit its region.
        NotFoundError: The caller has no region of shared memory with the name that an output goes to.
        Unsupported: The request belongs to a sequence, or needs shared memory, which is off.
    """
    check_id(request_id)
    limits.check_name("model_name", model)
    limits.check_name("model_version", selector)
    names, classes, places = read_outputs(outputs)
    windows = {name: memory.find(place, f"outputs.{name[:64]}") for name, place in places.items()} if places else {}
    timeout, routing_key = read_options(parameters)
    request = assembled(model, selector, inputs, names, logged_id, routing_key, timeout, arrived, deadline, preferences)
    return request, RequestedOutputs(classes, windows) if classes or windows else NOTHING_SPECIAL


def assembled(
    model: str,
    selector: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    logged_id: str,
    routing_key: str,
    timeout: float | None,
    arrived: float,
    deadline: float | None,
    preferences: Preferences,
    kind: object = None,
) -> InferenceRequest:
    """Returns a request whose parts have been checked. Arguments as for `request_of`, and as `read_options` returns.

    `kind` is that of `InferenceRequest`.
    """
    if timeout is not None:
        expiry = arrived + timeout
        deadline = expiry if deadline is None else min(deadline, expiry)
    return InferenceRequest(
        model,
        preferences.selector_of(selector),
        inputs,
        outputs,
        logged_id,
        routing_key or preferences.routing_key,
        deadline,
        arrived,
        preferences.baseline_only,
        kind,
    )


def answered(
    result: InferenceResult, classes: Mapping[str, int], limits: InputLimits = DEFAULT_LIMITS
) -> Sequence[tuple[str, Array]]:
    """Returns the name and value of each output, in the requested order.

    Args:
        result: The data plane's answer.
        classes: As `request_of` returned them.
        limits: On the strings that classification makes.

    Raises:
        InvalidRequest: An output that is to be classified holds no numbers, or asks for too many.
    """
    outputs = list(result.outputs)
    if not classes:
        return outputs
    by_rows = batches_along_first_axis(result.route.entry)
    for name, values in outputs:
        if name in classes:
            rows = values.shape[0] if by_rows and values.ndim else 1
            limits.check_strings(
                f"outputs.{name[:64]} (classification)", rows * min(classes[name], values.size // (rows or 1))
            )
    labels = result.route.entry.manifest.labels
    return [
        (
            name,
            classify(name, values, classes[name], labels.get(name, ()), by_rows=by_rows) if name in classes else values,
        )
        for name, values in outputs
    ]


def stored(outputs: Iterable[tuple[str, Array]], windows: Mapping[str, TensorWindow]) -> Iterator[InferenceOutput]:
    """Yields the outputs encoded; writes those that have a window to shared memory first. Blocking.

    Raises:
        InvalidTensor: An output does not fit into its window, or the memory behind it is gone.
        Unsupported: The protocol does not know the type of an output.
    """
    for name, array in outputs:
        datatype, raw = encode_raw(name, array)
        window = windows.get(name)
        if window is not None:
            window.write(raw)
        yield InferenceOutput(name, datatype, array.shape, raw, window is not None)


def answer_parameters(route: Route) -> Mapping[str, str | int]:
    """Returns the parameters of an answer, which say why this version answered."""
    return {"turnout_role": str(route.role), "turnout_epoch": route.epoch, "turnout_digest": route.entry.digest}
