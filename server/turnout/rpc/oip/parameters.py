"""Parameters of the protocol's messages as plain values."""

from collections.abc import Mapping, Sequence

from turnout.oip.parameters import NO_PARAMETERS, Parameters, Value, check_output_count
from turnout_proto.oip.inference_pb2 import InferParameter, ModelInferRequest


def plain(parameters: Mapping[str, InferParameter]) -> Parameters:
    """Returns the parameters' values by name; None for one that has none."""
    return {key: _value(parameters[key]) for key in parameters} if parameters else NO_PARAMETERS


def wanted_outputs(
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor],
) -> Sequence[tuple[str, Parameters]]:
    """Returns name and parameters of each output that a request asks for.

    Raises:
        InvalidRequest: There are too many.
    """
    check_output_count(len(outputs))
    return [(output.name, plain(output.parameters)) for output in outputs]


def _value(parameter: InferParameter) -> Value:
    choice = parameter.WhichOneof("parameter_choice")
    value: Value = getattr(parameter, choice) if choice else None
    return value
