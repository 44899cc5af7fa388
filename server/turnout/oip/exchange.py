"""One request of the protocol and its answer, between what carries them and the data plane."""

from collections.abc import Mapping, Sequence

from turnout.oip.classification import classify
from turnout.oip.metadata import batches_along_first_axis
from turnout.oip.parameters import Parameters, check_id, read_options, read_outputs
from turnout.routing.preferences import Preferences
from turnout.serving.inference import InferenceRequest, InferenceResult, Route
from turnout.serving.limits import DEFAULT_LIMITS, InputLimits
from turnout.serving.tensor import Array

LOGGED_ID = 128
"""Characters of a request's id that logs show."""


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
) -> tuple[InferenceRequest, Mapping[str, int]]:
    """Returns a request, and for each output that is to be classified how many of its highest values are wanted.

    Args:
        model: Name, as the client wrote it.
        selector: Of the version, as the client wrote it.
        request_id: As the client wrote it; "" for none.
        logged_id: Names the request in logs.
        inputs: By name.
        outputs: Name and parameters of each output that is asked for; none meaning all.
        parameters: Of the request.
        arrived: `time.monotonic()` when it came.
        deadline: `time.monotonic()` after which the caller waits no longer, its parameters apart; None for no bound.
        preferences: What the call's metadata or headers ask for.
        limits: On names.

    Raises:
        InvalidRequest: A parameter or the id is not what the protocol says it is.
        Unsupported: The request needs shared memory or a sequence.
    """
    check_id(request_id)
    limits.check_name("model_name", model)
    limits.check_name("model_version", selector)
    names, classes = read_outputs(outputs)
    timeout, routing_key = read_options(parameters)
    request = assembled(model, selector, inputs, names, logged_id, routing_key, timeout, arrived, deadline, preferences)
    return request, classes


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
    """Returns a request of which all was checked. Arguments as of `request_of`, and as `read_options` returns them.

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
    """Returns name and value of each output, in the order asked for.

    Args:
        result: What the data plane answered.
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


def told(route: Route) -> Mapping[str, str | int]:
    """Returns the parameters of every answer, which say how its version came to answer."""
    return {"turnout_role": str(route.role), "turnout_epoch": route.epoch, "turnout_digest": route.entry.digest}
