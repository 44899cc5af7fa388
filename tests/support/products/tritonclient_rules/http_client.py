"""tritonclient.http, sync, its thread pool, and aio."""

import asyncio

import ml_dtypes
import numpy as np
import tritonclient.http.aio as aio
from refusals import refused
from run_rules import Addresses
from tensors import FACTORS, VERSIONS, X
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

TYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float64")


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> InferInput:
    made = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_model_version_is_a_selector_and_the_answer_names_the_version(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        for selector, factor in FACTORS.items():
            result = client.infer("scale", [tensor("x", X)], model_version=selector, request_id="r-7")
            np.testing.assert_array_equal(result.as_numpy("y"), factor * X)
            assert result.get_response()["model_version"] == VERSIONS[factor], selector
            assert result.get_response()["id"] == "r-7"


def test_the_answer_says_why_its_version_answered(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        default = client.infer("scale", [tensor("x", X)]).get_response()["parameters"]
        pinned = client.infer("scale", [tensor("x", X)], model_version="1.9.0").get_response()["parameters"]
        digest = pinned["turnout_digest"]
        again = client.infer("scale", [tensor("x", X)], model_version=digest).get_response()
    assert (default["turnout_role"], pinned["turnout_role"], pinned["turnout_epoch"]) == ("baseline", "pinned", 0)
    assert again["model_version"] == "1.9.0"


def test_every_type_comes_back_as_it_went_binary_or_not(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        for name in TYPES:
            array = np.array([[0, 1], [1, 0]]).astype(name)
            for binary in (True,) if name == "float16" else (True, False):
                wanted = [InferRequestedOutput("y", binary_data=binary)]
                result = client.infer(f"as-{name}", [tensor("x", array, binary=binary)], outputs=wanted)
                answer = result.as_numpy("y")
                assert answer.dtype == array.dtype
                np.testing.assert_array_equal(answer, array)
                assert ("data" in result.get_output("y")) != binary


def test_nan_and_infinities_come_back_binary_or_not(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        for name in ("float32", "float64"):
            array = np.array([[np.nan, np.inf], [-np.inf, 1.5]]).astype(name)
            for binary in (True, False):
                wanted = [InferRequestedOutput("y", binary_data=binary)]
                result = client.infer(f"as-{name}", [tensor("x", array, binary=binary)], outputs=wanted)
                np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_bfloat16_goes_in_and_comes_out(addresses: Addresses) -> None:
    array = np.array([[1.5, -0.25]], ml_dtypes.bfloat16)
    with InferenceServerClient(addresses.http) as client:
        wide = client.infer("from-bfloat16", [tensor("x", array)]).as_numpy("y")
        narrow = client.infer("to-bfloat16", [tensor("x", wide)]).as_numpy("y")
        json_wanted = [InferRequestedOutput("y", binary_data=False)]
        error = refused(client.infer, model_name="to-bfloat16", inputs=[tensor("x", wide)], outputs=json_wanted)
    np.testing.assert_array_equal(wide, array.astype(np.float32))
    assert narrow.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(narrow, array)
    assert error.status() == "400"
    assert "binary_data" in error.message()


def test_text_comes_back_as_utf8(addresses: Addresses) -> None:
    array = np.array(["frog", "Gleis 9¾", ""], object)
    with InferenceServerClient(addresses.http) as client:
        binary = client.infer("text", [tensor("x", array)]).as_numpy("y")
        wanted = [InferRequestedOutput("y", binary_data=False)]
        plain = client.infer("text", [tensor("x", array, binary=False)], outputs=wanted).as_numpy("y")
    assert [element.decode() for element in binary] == list(array)
    assert list(plain) == list(array)


def test_outputs_come_in_the_order_asked_for_binary_beside_json(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        for first in (True, False):
            wanted = [
                InferRequestedOutput("most", binary_data=first),
                InferRequestedOutput("least", binary_data=not first),
            ]
            result = client.infer("ends", [tensor("x", X)], outputs=wanted)
            assert [output["name"] for output in result.get_response()["outputs"]] == ["most", "least"]
            assert (result.as_numpy("most"), result.as_numpy("least")) == (X.max(), X.min())


def test_a_classification_is_the_highest_values_as_text(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        wanted = [InferRequestedOutput("y", class_count=2)]
        result = client.infer("scale", [tensor("x", np.concatenate([X, -X]))], outputs=wanted)
    top = [[element.decode() for element in row] for row in result.as_numpy("y")]
    assert top == [["12.000000:3", "3.000000:0"], ["6.000000:1", "-1.500000:2"]]


def test_compressed_requests_are_answered(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        for algorithm in ("gzip", "deflate"):
            result = client.infer(
                "scale",
                [tensor("x", X)],
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)


def test_parameters_of_the_callers_own_do_no_harm(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        parameters = {"mine": "a", "flag": True, "number": 7, "share": 0.5, "routing_key": "alice"}
        result = client.infer("scale", [tensor("x", X)], parameters=parameters, priority=1, timeout=60_000_000)
    np.testing.assert_array_equal(result.as_numpy("y"), 3 * X)


def test_many_requests_go_at_once(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http, concurrency=8) as client:
        calls = [client.async_infer("scale", [tensor("x", n * X)]) for n in range(50)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(call.get_result().as_numpy("y"), 3 * n * X)


async def test_the_aio_client_is_answered(addresses: Addresses) -> None:
    async with aio.InferenceServerClient(addresses.http) as client:
        results = await asyncio.gather(*(client.infer("scale", [tensor("x", n * X)]) for n in range(20)))
        assert await client.is_server_ready()
    for n, result in enumerate(results):
        np.testing.assert_array_equal(result.as_numpy("y"), 3 * n * X)


def test_refusals_have_statuses_and_reasons(addresses: Addresses) -> None:
    expected = {
        ("nobody", ""): "404",
        ("scale", "1.8.0"): "404",
        ("scale", "^3"): "404",
        ("scale", "^^"): "400",
        ("text", ""): "400",
    }
    with InferenceServerClient(addresses.http) as client:
        for (model, version), status in expected.items():
            error = refused(client.infer, model_name=model, inputs=[tensor("x", X)], model_version=version)
            assert error.status() == status, (model, version, str(error))
        sequence = refused(client.infer, model_name="scale", inputs=[tensor("x", X)], sequence_id=7)
        statistics = refused(client.get_inference_statistics, model_name="nobody")
        memory = refused(client.get_system_shared_memory_status)
        unload = refused(client.unload_model, model_name="moved")
        log = refused(client.update_log_settings, settings={"log_verbose_level": 1})
    assert (sequence.status(), statistics.status(), memory.status()) == ("501", "404", "501")
    assert (unload.status(), log.status()) == ("403", "403")
    assert "oip.system_shared_memory" in memory.message()


def test_the_server_and_its_models_are_live_and_ready(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        expected = {"": True, "^1": True, "2.0.0": True, "stable": True, "^2": False, "9.9.9": False, "^^": False}
        assert {version: client.is_model_ready("scale", version) for version in expected} == expected
        assert not client.is_model_ready("nobody")


def test_metadata_and_configuration_say_what_grpc_says(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.http) as client:
        server, metadata = client.get_server_metadata(), client.get_model_metadata("scale", "^1.9")
        config = client.get_model_config("scale")
    assert server["name"] == "turnout"
    assert "binary_tensor_data" in server["extensions"]
    assert metadata["versions"] == ["1.9.0", "1.10.0", "2.0.0"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert config["max_batch_size"] > 1
    assert config["input"][0]["dims"] == metadata["inputs"][0]["shape"][1:]
    assert config["parameters"]["turnout_version"]["string_value"] == "1.10.0"
