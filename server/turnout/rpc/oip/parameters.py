"""Converts parameters of the protocol's messages to plain values."""

from collections.abc import Mapping, Sequence

from turnout.oip.parameters import NO_PARAMETERS, Parameters, Value, check_parameter_count
from turnout.serving.inputs.limits import InputLimits
from turnout_proto.oip.inference_pb2 import InferParameter, LogSettingsRequest, ModelInferRequest


def plain(parameters: Mapping[str, InferParameter], field: str = "parameters") -> Parameters:
    """Returns the values of parameters by name; None for a parameter without a value.

    Raises:
        InvalidRequest: There are too many parameters.
    """
    if not parameters:
        return NO_PARAMETERS
    check_parameter_count(field, len(parameters))
    return {key: value_of(parameters[key]) for key in parameters}


def wanted_outputs(
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor], limits: InputLimits
) -> Sequence[tuple[str, Parameters]]:
    """Returns the name and the parameters of each requested output.

    Raises:
        InvalidRequest: There are too many outputs or parameters, or a name is too long.
    """
    limits.check_tensors("outputs", len(outputs))
    wanted = []
    for index, output in enumerate(outputs):
        limits.check_name(f"outputs[{index}].name", output.name)
        wanted.append((output.name, plain(output.parameters, f"outputs[{index}].parameters")))
    return wanted


def value_of(parameter: InferParameter | LogSettingsRequest.SettingValue) -> Value:
    """Returns the value of a parameter or setting; None if it has none."""
    choice = parameter.WhichOneof("parameter_choice")
    value: Value = getattr(parameter, choice) if choice else None
    return value
