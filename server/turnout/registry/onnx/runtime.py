"""Determines which models the installed ONNX Runtime can load, by asking it.

No table of releases is kept here, and `onnx.defs.onnx_opset_version()` describes another package: onnx 1.23 supports
operator set 28 and IR version 14, but onnxruntime 1.31 supports 26 and 13. Instead, ONNX Runtime is given an empty
graph with the versions of the model (0.3 ms), and refuses it if it would refuse the model.
"""

import re
from collections.abc import Mapping

import onnxruntime as ort
from onnx import TensorProto, helper

_IR_LIMIT = re.compile(r"max supported IR version: (\d+)")
_OPSET_LIMIT = re.compile(r"support for domain (\S+) is till opset (\d+)")
_SILENT = 4


def runtime_name() -> str:
    """Returns the name and release of the runtime."""
    return f"ONNX Runtime {ort.__version__}"


def refusal(ir_version: int, opset: Mapping[str, int]) -> str | None:
    """Returns why the installed ONNX Runtime does not support a kind of model; None if it does.

    Whether it has all operators that a model uses shows only when the model is loaded.
    """
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1  # nothing runs, so no thread pool is needed
    try:
        ort.InferenceSession(_empty_model(ir_version, opset), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's errors share no other base
        return f"{runtime_name()} {_description(str(error), ir_version, opset)}"
    return None


def _empty_model(ir_version: int, opset: Mapping[str, int]) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "probe", [value], [value])
    imports = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString()
    return data


def _description(error: str, ir_version: int, opset: Mapping[str, int]) -> str:
    if limit := _IR_LIMIT.search(error):
        return f"takes ONNX IR versions up to {limit[1]}, the model has {ir_version}"
    if limit := _OPSET_LIMIT.search(error):
        domain = limit[1]
        entries = opset.get("" if domain == "ai.onnx" else domain)
        return f"takes operator set {domain} up to version {limit[2]}, the model imports {entries}"
    claims = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opset.items())
    return f"takes no model of ONNX IR version {ir_version} with operator sets {claims}"
