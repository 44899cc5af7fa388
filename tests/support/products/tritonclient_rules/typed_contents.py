"""Requests put together by hand from tritonclient's own messages: typed contents, which its client never sends."""

import grpc
import numpy as np
from run_rules import Addresses
from tritonclient.grpc import service_pb2, service_pb2_grpc


def request(
    model: str, datatype: str, shape: list[int], raw: list[bytes] = (), **contents
) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    if contents:
        made.inputs[0].contents.CopyFrom(service_pb2.InferTensorContents(**contents))
    return made


def answer(addresses: Addresses, message: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
    with grpc.insecure_channel(addresses.data) as channel:
        return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=30)


def refusal(addresses: Addresses, message: service_pb2.ModelInferRequest) -> grpc.RpcError:
    try:
        answer(addresses, message)
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was answered")


def test_every_type_with_typed_contents_is_taken_and_answered_raw(addresses: Addresses) -> None:
    for name, field in {
        "bool": "bool_contents",
        "uint8": "uint_contents",
        "uint16": "uint_contents",
        "uint32": "uint_contents",
        "uint64": "uint64_contents",
        "int8": "int_contents",
        "int16": "int_contents",
        "int32": "int_contents",
        "int64": "int64_contents",
        "float64": "fp64_contents",
    }.items():
        values = [True, False] if name == "bool" else [1, 0]
        datatype = name.upper().replace("FLOAT", "FP")
        response = answer(addresses, request(f"as-{name}", datatype, [1, 2], **{field: values}))
        assert response.outputs[0].datatype == datatype
        assert not response.outputs[0].HasField("contents")
        assert np.frombuffer(response.raw_output_contents[0], name).tolist() == values


def test_typed_floats_and_text_are_taken(addresses: Addresses) -> None:
    floats = answer(addresses, request("scale", "FP32", [1, 4], fp32_contents=[1, 2, 3, 4]))
    assert np.frombuffer(floats.raw_output_contents[0], np.float32).tolist() == [3, 6, 9, 12]
    text = answer(addresses, request("text", "BYTES", [1], bytes_contents=[b"frog"]))
    assert text.raw_output_contents[0] == b"\x04\0\0\0frog"


def test_raw_and_typed_contents_do_not_mix(addresses: Addresses) -> None:
    error = refusal(addresses, request("scale", "FP32", [1, 4], [bytes(16)], fp32_contents=[1, 2, 3, 4]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[0].contents" in error.details()


def test_a_wrong_count_is_refused_by_field(addresses: Addresses) -> None:
    error = refusal(addresses, request("scale", "FP32", [1, 4], fp32_contents=[1, 2, 3]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[0].contents" in error.details()
