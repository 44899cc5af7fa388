import pytest

from turnout.errors import InvalidRequest, Unsupported
from turnout.oip import parameters as words
from turnout.oip.exchange import request_of
from turnout.oip.extensions.shared_memory import CallerMemory
from turnout.oip.parameters import MAX_ID, MAX_PARAMETERS, Place, check_id
from turnout.routing.request_metadata import MAX_KEY_BYTES, NO_PREFERENCES
from turnout.rpc.oip.codec import plain, wanted_outputs
from turnout.serving.inputs.limits import DEFAULT_LIMITS
from turnout_proto.oip.inference_pb2 import InferParameter, ModelInferRequest


def read_options(parameters):
    return words.read_options(plain(parameters))


def read_outputs(request):
    return words.read_outputs(wanted_outputs(request.outputs, DEFAULT_LIMITS))


def wanting(name, **parameters):
    request = ModelInferRequest()
    output = request.outputs.add(name=name)
    for key, value in parameters.items():
        output.parameters[key].CopyFrom(value)
    return request


def test_without_parameters_a_request_asks_for_nothing_more():
    assert read_options({}) == (None, "")


def test_a_timeout_is_microseconds():
    assert read_options({"timeout": InferParameter(int64_param=1_500_000)}) == (1.5, "")
    assert read_options({"timeout": InferParameter(uint64_param=250)}) == (0.00025, "")


def test_a_timeout_of_0_is_none():
    assert read_options({"timeout": InferParameter(int64_param=0)}) == (None, "")


@pytest.mark.parametrize("value", [InferParameter(int64_param=-1), InferParameter(string_param="1"), InferParameter()])
def test_a_timeout_that_is_none_is_refused(value):
    with pytest.raises(InvalidRequest, match=r"parameters\.timeout"):
        read_options({"timeout": value})


@pytest.mark.parametrize(
    ("of_call", "of_request", "left"), [(5.0, 1_000_000, 1.0), (0.5, 1_000_000, 0.5), (None, 1, 1e-6)]
)
def test_the_earlier_of_deadline_and_timeout_holds(of_call, of_request, left):
    request, _ = request_of(
        model="m",
        selector="",
        request_id="",
        logged_id="r",
        inputs={},
        outputs=(),
        parameters={"timeout": of_request},
        arrived=10.0,
        deadline=None if of_call is None else 10.0 + of_call,
        preferences=NO_PREFERENCES,
        limits=DEFAULT_LIMITS,
        memory=CallerMemory(),
    )

    assert request.deadline == pytest.approx(10.0 + left)


def test_the_routing_key_comes_from_a_parameter():
    assert read_options({"routing_key": InferParameter(string_param="bob")}) == (None, "bob")


@pytest.mark.parametrize("value", [InferParameter(int64_param=1), InferParameter(string_param="é" * MAX_KEY_BYTES)])
def test_a_routing_key_is_bounded_text(value):
    with pytest.raises(InvalidRequest, match=r"parameters\.routing_key"):
        read_options({"routing_key": value})


@pytest.mark.parametrize("value", [InferParameter(int64_param=7), InferParameter(string_param="s")])
def test_a_sequence_is_refused(value):
    with pytest.raises(Unsupported, match="sequences"):
        read_options({"sequence_id": value})


def test_the_empty_sequence_is_none():
    assert read_options({"sequence_id": InferParameter(int64_param=0)}) == (None, "")


def test_parameters_that_nobody_knows_are_of_no_effect():
    parameters = {
        "priority": InferParameter(uint64_param=1),
        "triton_enable_empty_final_response": InferParameter(bool_param=True),
        "mine": InferParameter(double_param=0.5),
    }

    assert read_options(parameters) == (None, "")


def test_outputs_keep_their_order_and_none_means_all():
    request = wanting("b")
    request.outputs.add(name="a")

    assert read_outputs(request) == (["b", "a"], {}, {})
    assert read_outputs(ModelInferRequest()) == ((), {}, {})


def test_a_classification_is_asked_for_by_output():
    assert read_outputs(wanting("y", classification=InferParameter(int64_param=3))) == (["y"], {"y": 3}, {})


@pytest.mark.parametrize(
    "value", [InferParameter(int64_param=0), InferParameter(int64_param=-2), InferParameter(bool_param=True)]
)
def test_a_classification_is_a_count(value):
    with pytest.raises(InvalidRequest, match=r"outputs\[0\]\.parameters\.classification"):
        read_outputs(wanting("y", classification=value))


def test_an_output_says_where_in_shared_memory_it_goes():
    request = wanting(
        "y",
        shared_memory_region=InferParameter(string_param="r"),
        shared_memory_byte_size=InferParameter(int64_param=16),
        shared_memory_offset=InferParameter(uint64_param=8),
    )

    assert read_outputs(request) == (["y"], {}, {"y": Place("r", 8, 16)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("region", InferParameter(int64_param=1)),
        ("region", InferParameter()),
        ("offset", InferParameter(int64_param=-1)),
        ("offset", InferParameter(double_param=1.0)),
        ("byte_size", InferParameter(bool_param=True)),
        ("byte_size", InferParameter(string_param="8")),
    ],
)
def test_a_place_in_shared_memory_that_is_none_is_refused(name, value):
    region = InferParameter(string_param="r")
    with pytest.raises(InvalidRequest, match=rf"outputs\[0\]\.parameters\.shared_memory_{name}"):
        read_outputs(wanting("y", **{"shared_memory_region": region, f"shared_memory_{name}": value}))


@pytest.mark.parametrize("key", ["shared_memory_byte_size", "shared_memory_offset"])
def test_a_place_in_no_region_is_refused(key):
    with pytest.raises(
        InvalidRequest, match=rf"outputs\[0\]\.parameters\.{key}: expected shared_memory_region beside it"
    ):
        read_outputs(wanting("y", **{key: InferParameter(int64_param=16)}))


@pytest.mark.parametrize("count", [0, -1, 2**31, 2**62])
def test_a_classification_out_of_range_is_refused_with_the_range(count: int):
    with pytest.raises(InvalidRequest, match=rf"expected 1 to 2147483647, got {count}$"):
        read_outputs(wanting("y", classification=InferParameter(int64_param=count)))


def test_a_classification_does_not_go_to_shared_memory():
    region, count = InferParameter(string_param="r"), InferParameter(int64_param=1)
    with pytest.raises(InvalidRequest, match="expected none of an output that goes to shared memory"):
        read_outputs(wanting("y", classification=count, shared_memory_region=region))


def test_too_many_outputs_are_refused():
    request = ModelInferRequest()
    for _ in range(DEFAULT_LIMITS.tensors + 1):
        request.outputs.add()

    with pytest.raises(InvalidRequest, match=r"outputs: expected at most 256, got 257 \(limits.max_tensors\)"):
        read_outputs(request)


def test_too_many_parameters_are_refused():
    with pytest.raises(InvalidRequest, match=r"outputs\[0\]\.parameters: expected at most 256, got 257"):
        read_outputs(wanting("y", **{f"p{n}": InferParameter() for n in range(MAX_PARAMETERS + 1)}))


def test_an_id_is_bounded_in_bytes():
    assert check_id("é" * (MAX_ID // 2)) == "é" * (MAX_ID // 2)
    with pytest.raises(InvalidRequest, match="id"):
        check_id("é" * (MAX_ID // 2 + 1))
