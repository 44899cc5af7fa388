"""Translates requests and responses of the protocol between the transports and the data plane."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from turnout.oip.extensions.classification import classify
from turnout.oip.extensions.shared_memory import CallerMemory, TensorWindow
from turnout.oip.metadata import batches_along_first_axis
from turnout.oip.parameters import Parameters, check_id, read_options, read_outputs
from turnout.routing.request_metadata import Preferences
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult, Route
from turnout.serving.inputs.limits import DEFAULT_LIMITS, InputLimits
from turnout.serving.sessions.tensor import Array

LOGGED_ID = 128
"""Number of characters of a request's id that logs show."""


class RequestedOutputs(NamedTuple):
    """How the outputs of a request are to be returned.

    Attributes:
        classes: For each output to classify, by name, the number of highest values to return.
        windows: For each output to write to shared memory, by name, the window to write it to.
    """

    classes: Mapping[str, int]
    windows: Mapping[str, TensorWindow]


NOTHING_SPECIAL = RequestedOutputs({}, {})


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
    """Returns a request for the data plane, and how its outputs are to be returned.

    `model`, `selector` and `request_id` are as the client wrote them, and `logged_id` is the request's id in logs.
    `outputs` has the name and parameters of each requested output; empty for all. `arrived` and `deadline` are in
    seconds on the `time.monotonic()` clock; the deadline is the caller's, without regard to the parameters, and None if
    there is none. `preferences` come from the call's metadata or headers.

    Raises:
        InvalidRequest: A parameter or the id is invalid, or an output does not fit into its region.
        NotFoundError: The caller has not registered the shared memory region of an output.
        Unsupported: The request belongs to a sequence, or needs shared memory, which is off.
    """
    check_id(request_id)
    limits.check_name("model_name", model)
    limits.check_name("model_version", selector)
    names, classes, places = read_outputs(outputs)
    windows = {name: memory.find(place, f"outputs.{name[:64]}") for name, place in places.items()} if places else {}
    timeout, routing_key = read_options(parameters)
    request = InferenceRequest(
        model,
        preferences.selector_of(selector),
        inputs,
        names,
        logged_id,
        routing_key or preferences.routing_key,
        deadline if timeout is None else sooner(deadline, arrived + timeout),
        arrived,
        preferences.baseline_only,
    )
    return request, RequestedOutputs(classes, windows) if classes or windows else NOTHING_SPECIAL


def sooner(deadline: float | None, ends: float) -> float:
    """Returns the caller's deadline, or the end of the request's timeout if that is sooner."""
    return ends if deadline is None else min(deadline, ends)


def answered(
    result: InferenceResult, classes: Mapping[str, int], limits: InputLimits = DEFAULT_LIMITS
) -> Sequence[tuple[str, Array]]:
    """Returns the name and value of each output in the requested order, classified where requested.

    `classes` are those of `RequestedOutputs`.

    Raises:
        InvalidRequest: An output to classify is not numeric or has too many classes.
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


def answer_parameters(route: Route) -> Mapping[str, str | int]:
    """Returns the response parameters that identify the version and explain why it was selected."""
    return {"turnout_role": str(route.role), "turnout_epoch": route.epoch, "turnout_digest": route.entry.digest}
