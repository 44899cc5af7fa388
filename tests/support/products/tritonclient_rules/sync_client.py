"""tritonclient.grpc.InferenceServerClient, one call at a time."""

import ml_dtypes
import numpy as np
from refusals import refused
from run_rules import Addresses
from tensors import FACTORS, VERSIONS, X, rounds, tensor
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput


def test_model_version_is_a_selector_and_the_answer_names_the_version(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        for selector, factor in FACTORS.items():
            result = client.infer("scale", [tensor("x", X)], model_version=selector)
            np.testing.assert_array_equal(result.as_numpy("y"), factor * X)
            assert result.get_response().model_version == VERSIONS[factor], selector


def test_the_answer_says_why_its_version_answered(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        default = client.infer("scale", [tensor("x", X)]).get_response().parameters
        pinned = client.infer("scale", [tensor("x", X)], model_version="1.9.0").get_response().parameters
    assert default["turnout_role"].string_param == "baseline"
    assert pinned["turnout_role"].string_param == "pinned"
    assert pinned["turnout_digest"].string_param.startswith("sha256:")
    assert pinned["turnout_epoch"].uint64_param == 0


def test_a_digest_pins_a_version(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        digest = (
            client.infer("scale", [tensor("x", X)], model_version="1.9.0").get_response().parameters["turnout_digest"]
        )
        result = client.infer("scale", [tensor("x", X)], model_version=digest.string_param)
    assert result.get_response().model_version == "1.9.0"


def test_the_request_id_comes_back(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        assert client.infer("scale", [tensor("x", X)], request_id="r-7").get_response().id == "r-7"
        assert client.infer("scale", [tensor("x", X)]).get_response().id == ""


def test_a_batch_of_rows_is_answered_row_by_row(addresses: Addresses) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    with InferenceServerClient(addresses.data) as client:
        np.testing.assert_array_equal(client.infer("scale", [tensor("x", rows)]).as_numpy("y"), 3 * rows)


def test_every_type_that_numpy_has_comes_back_as_it_went(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        for name in (
            "bool",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "int8",
            "int16",
            "int32",
            "int64",
            "float16",
            "float64",
        ):
            array = np.array([[0, 1], [1, 0]]).astype(name)
            answer = client.infer(f"as-{name}", [tensor("x", array)]).as_numpy("y")
            assert answer.dtype == array.dtype
            np.testing.assert_array_equal(answer, array)


def test_bfloat16_goes_in(addresses: Addresses) -> None:
    array = np.array([[1.5, -0.25]], ml_dtypes.bfloat16)
    with InferenceServerClient(addresses.data) as client:
        answer = client.infer("from-bfloat16", [tensor("x", array)]).as_numpy("y")
    np.testing.assert_array_equal(answer, array.astype(np.float32))


def test_bfloat16_comes_out(addresses: Addresses) -> None:
    array = np.array([[1.5, -0.25]], np.float32)
    with InferenceServerClient(addresses.data) as client:
        answer = client.infer("to-bfloat16", [tensor("x", array)]).as_numpy("y")
    assert answer.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(answer.astype(np.float32), array)


def test_text_comes_back_as_utf8(addresses: Addresses) -> None:
    array = np.array(["frog", "Gleis 9¾", ""], object)
    with InferenceServerClient(addresses.data) as client:
        answer = client.infer("text", [tensor("x", array)]).as_numpy("y")
    assert [element.decode() for element in answer] == list(array)


def test_bytes_that_are_no_text_are_refused(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        error = refused(client.infer, model_name="text", inputs=[tensor("x", np.array([b"\xff"], object))])
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert "UTF-8" in error.message()


def test_outputs_come_in_the_order_asked_for(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        wanted = [InferRequestedOutput("least"), InferRequestedOutput("most")]
        for outputs in (wanted, wanted[::-1], wanted[:1]):
            response = client.infer("ends", [tensor("x", X)], outputs=outputs).get_response()
            assert [output.name for output in response.outputs] == [output.name() for output in outputs]


def test_a_classification_is_the_highest_values_as_text(addresses: Addresses) -> None:
    rows = np.concatenate([X, -X])
    with InferenceServerClient(addresses.data) as client:
        result = client.infer("scale", [tensor("x", rows)], outputs=[InferRequestedOutput("y", class_count=2)])
    top = [[element.decode() for element in row] for row in result.as_numpy("y")]
    assert top == [["12.000000:3", "3.000000:0"], ["6.000000:1", "-1.500000:2"]]


def test_parameters_of_the_callers_own_do_no_harm(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        parameters = {"mine": "a", "flag": True, "number": 7, "share": 0.5, "routing_key": "alice"}
        result = client.infer("scale", [tensor("x", X)], parameters=parameters, priority=1, timeout=60_000_000)
    np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)


def test_compressed_requests_are_answered(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        for algorithm in ("gzip", "deflate"):
            result = client.infer("scale", [tensor("x", X)], compression_algorithm=algorithm)
            np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)


def test_refusals_have_tritons_codes(addresses: Addresses) -> None:
    inputs = [tensor("x", X)]
    expected = {
        ("nobody", ""): "NOT_FOUND",
        ("scale", "1.8.0"): "NOT_FOUND",
        ("scale", "^3"): "NOT_FOUND",
        ("scale", "^^"): "INVALID_ARGUMENT",
        ("text", ""): "INVALID_ARGUMENT",
    }
    with InferenceServerClient(addresses.data) as client:
        for (model, version), code in expected.items():
            error = refused(client.infer, model_name=model, inputs=inputs, model_version=version)
            assert error.status() == f"StatusCode.{code}", (model, version, str(error))


def test_a_timeout_parameter_ends_the_wait(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        blocker = client.async_infer("slow", rounds(60_000), callback=lambda result, error: None)
        error = refused(client.infer, model_name="slow", inputs=rounds(1), timeout=1)
        blocker.cancel()
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED", str(error)


def test_a_sequence_is_refused_in_words(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        error = refused(
            client.infer,
            model_name="scale",
            inputs=[tensor("x", X)],
            sequence_id=7,
            sequence_start=True,
            sequence_end=True,
        )
    assert error.status() == "StatusCode.UNIMPLEMENTED"
    assert "sequence" in error.message()


def test_shared_memory_is_refused_in_words(addresses: Addresses) -> None:
    shared = InferInput("x", X.shape, "FP32")
    shared.set_shared_memory("region", X.nbytes)
    output = InferRequestedOutput("y")
    output.set_shared_memory("region", X.nbytes)
    with InferenceServerClient(addresses.data) as client:
        refusals = [
            refused(client.infer, model_name="scale", inputs=[shared]),
            refused(client.infer, model_name="scale", inputs=[tensor("x", X)], outputs=[output]),
            refused(client.register_system_shared_memory, name="region", key="/region", byte_size=16),
            refused(client.register_cuda_shared_memory, name="r", raw_handle=b"", device_id=0, byte_size=1),
        ]
    for error in refusals:
        assert error.status() == "StatusCode.UNIMPLEMENTED"
        assert "shared memory" in error.message()
