"""What clients ask beside predictions, in the order in which perf_analyzer asks it, and the repository."""

from refusals import refused
from run_rules import Addresses
from tensors import X, tensor
from tritonclient.grpc import InferenceServerClient, model_config_pb2


def states(client: InferenceServerClient, model: str) -> dict[str, str]:
    index = client.get_model_repository_index()
    return {entry.version: entry.state for entry in index.models if entry.name == model}


def test_the_server_is_live_and_ready(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        assert client.is_server_live()
        assert client.is_server_ready()


def test_the_server_does_not_claim_statistics_and_tells_them(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        metadata = client.get_server_metadata()
        (statistics,) = client.get_inference_statistics("scale", "1.10.0").model_stats
    assert metadata.name == "turnout"
    assert metadata.version
    assert not {"statistics", "system_shared_memory"} & set(metadata.extensions)
    assert {"binary_tensor_data", "classification"} <= set(metadata.extensions)
    assert (statistics.name, statistics.version) == ("scale", "1.10.0")


def test_a_model_is_ready_where_a_request_would_be_taken(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        expected = {"": True, "^1": True, "2.0.0": True, "stable": True, "^2": False, "9.9.9": False, "nobody": False}
        assert {version: client.is_model_ready("scale", version) for version in expected} == expected
        assert not client.is_model_ready("nobody")
        assert refused(client.is_model_ready, model_name="scale", model_version="^^").status() == (
            "StatusCode.INVALID_ARGUMENT"
        )


def test_metadata_tells_inputs_outputs_and_ready_versions(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        metadata = client.get_model_metadata("scale", "^1.9")
    assert metadata.name == "scale"
    assert list(metadata.versions) == ["1.9.0", "1.10.0", "2.0.0"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, 4])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("y", "FP32", [-1, 4])]


def test_a_batched_models_config_drops_the_first_dimension_of_its_metadata(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        metadata = client.get_model_metadata("scale")
        config = client.get_model_config("scale").config
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert not config.model_transaction_policy.decoupled
    assert {tensor.name for tensor in config.input} <= {tensor.name for tensor in metadata.inputs}
    assert list(config.input[0].dims) == list(metadata.inputs[0].shape)[1:]
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert config.parameters["turnout_version"].string_value == "1.10.0"


def test_an_unbatched_models_config_keeps_every_dimension(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        text = client.get_model_config("text", "1.0.0", as_json=True)["config"]
        scalars = client.get_model_config("slow").config
    assert text["platform"] == "onnxruntime_onnx"
    assert "max_batch_size" not in text
    assert text["input"][0]["dims"] == ["-1"]
    assert scalars.max_batch_size == 0
    assert [list(tensor.dims) for tensor in scalars.input] == [[-1, 4], []]


def test_the_index_lists_every_version_with_its_state(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        assert states(client, "scale") == {"1.9.0": "READY", "1.10.0": "READY", "2.0.0": "READY"}


def test_the_data_listener_loads_and_unloads_nothing(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        for call in (client.load_model, client.unload_model):
            error = refused(call, model_name="moved")
            assert error.status() == "StatusCode.PERMISSION_DENIED"
            assert "control listener" in error.message()


def test_the_control_listener_unloads_and_loads_by_selector(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.control) as client:
        client.unload_model("moved@1.0.0")
        assert states(client, "moved") == {"1.0.0": "UNAVAILABLE", "1.1.0": "READY"}
        assert not client.is_model_ready("moved", "1.0.0")
        error = refused(client.infer, model_name="moved", inputs=[tensor("x", X)], model_version="1.0.0")
        assert error.status() == "StatusCode.FAILED_PRECONDITION"
        client.load_model("moved@~1.0")
        assert states(client, "moved") == {"1.0.0": "READY", "1.1.0": "READY"}


def test_a_bare_name_unloads_every_version_and_loads_them_again(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.control) as client:
        client.unload_model("moved", unload_dependents=True)
        assert set(states(client, "moved").values()) == {"UNAVAILABLE"}
        client.load_model("moved")
        assert states(client, "moved") == {"1.0.0": "READY", "1.1.0": "READY"}


def test_what_a_version_was_published_with_cannot_be_replaced(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.control) as client:
        config = refused(client.load_model, model_name="moved", config="{}")
        files = refused(client.load_model, model_name="moved", config="{}", files={"file:1/model.onnx": b"x"})
        missing = refused(client.load_model, model_name="moved@7.0.0")
    assert {config.status(), files.status()} == {"StatusCode.UNIMPLEMENTED"}
    assert missing.status() == "StatusCode.NOT_FOUND"


def test_settings_are_told_and_the_data_listener_changes_none(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.data) as client:
        assert list(client.get_trace_settings("scale").settings["trace_level"].value) == ["OFF"]
        assert client.get_log_settings().settings["log_info"].bool_param
        for call, settings in (
            (client.update_trace_settings, {"trace_rate": "5"}),
            (client.update_log_settings, {"log_verbose_level": 1}),
        ):
            error = refused(call, settings=settings)
            assert error.status() == "StatusCode.PERMISSION_DENIED"
            assert "control listener" in error.message()


def test_the_control_listener_changes_the_log_and_no_tracing_that_is_off(addresses: Addresses) -> None:
    with InferenceServerClient(addresses.control) as client:
        changed = client.update_log_settings({"log_info": False}).settings
        assert (changed["log_info"].bool_param, changed["log_warning"].bool_param) == (False, True)
        assert client.update_log_settings({"log_info": None}).settings["log_info"].bool_param
        error = refused(client.update_trace_settings, settings={"trace_rate": "5"})
    assert error.status() == "StatusCode.FAILED_PRECONDITION"
    assert "tracing.endpoint" in error.message()
