"""What a client sends, and what it makes of the answer, over either transport and from either kind of client."""

import asyncio
import re
import threading
import time

import grpc
import ml_dtypes
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from client_faults import (
    BOUND,
    AnyClient,
    Fault,
    FaultServer,
    bad_request,
    echo,
    fault_server,
    request_info,
    retry_info,
)
from turnout_client import (
    AsyncClient,
    ClientClosed,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Role,
    Standing,
    TensorInfo,
    TurnoutClientError,
    VersionState,
    Violation,
)
from turnout_proto.v1 import catalog_pb2
from turnout_proto.v1.prediction_pb2 import DATA_TYPE_FLOAT32, PredictResponse, Tensor

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture(scope="module")
def shared():
    """One server for all tests here; `server` gives it back its manners before each."""
    with fault_server() as server:
        yield server


@pytest.fixture
def server(shared: FaultServer) -> FaultServer:
    shared.predict = echo
    shared.stream = None
    shared.seen = []
    shared.items = []
    shared.metadata = {}
    shared.catalog = []
    return shared


@pytest.fixture
async def client(server, kind, transport):
    async with AnyClient(kind, server.address, transport=transport, retries=0) as opened:
        yield opened


async def test_arrays_go_out_and_come_back(client):
    arrays = {
        "numbers": np.arange(6, dtype=">i2").reshape(2, 3).T,
        "halves": np.array([1.5, -2], ml_dtypes.bfloat16),
        "words": np.array([["a", "žluť"]], object),
        "scalar": np.float64(2.5),
        "nothing": np.empty((0, 3), np.bool_),
        "list": [[1, 2], [3, 4]],
    }
    prediction = await client.predict("m", arrays)
    assert list(prediction.outputs) == list(arrays)
    for name, array in arrays.items():
        assert prediction[name].shape == np.shape(array)
        assert np.array_equal(prediction[name], array)
    assert prediction["halves"].dtype == ml_dtypes.bfloat16
    assert prediction["list"].dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        prediction["numbers"][0] = 0


async def test_the_answer_says_who_answered_and_how_long_it_took(client, server):
    def predict(request):
        response = PredictResponse(request_id="r", model="m")
        response.route.version = "3.2.0"
        response.route.digest = "sha256:ab"
        response.route.role = 3
        response.route.epoch = 7
        response.timing.queue_us = 250
        response.timing.compute_us = 1_500_000
        response.timing.batch_rows = 4
        return response

    server.predict = predict
    prediction = await client.predict("m", {})
    assert (prediction.model, prediction.version, prediction.digest) == ("m", "3.2.0", "sha256:ab")
    assert (prediction.role, prediction.epoch, prediction.request_id) == (Role.CANARY, 7, "r")
    assert prediction.timing.queue_seconds == pytest.approx(250e-6)
    assert prediction.timing.compute_seconds == pytest.approx(1.5)
    assert prediction.timing.batch_rows == 4


async def test_an_output_that_is_not_there_is_named_with_those_that_are(client):
    prediction = await client.predict("m", {"a": X, "b": X})
    with pytest.raises(KeyError, match="no output 'c'; there are: a, b"):
        prediction["c"]


async def test_each_field_of_the_request_is_sent(client, server):
    await client.predict("m", {"x": X}, version="^1", outputs=["y", "z"], routing_key="k", request_id="r")
    (request,) = server.seen
    assert (request.model, request.version, request.routing_key, request.request_id) == ("m", "^1", "k", "r")
    assert list(request.outputs) == ["y", "z"]


async def test_the_clients_version_holds_until_a_call_names_its_own(server, kind, transport):
    async with AnyClient(kind, server.address, version="^3.2", transport=transport) as client:
        await client.predict("m", {})
        await client.predict("m", {}, version="1.0.0")
        await client.predict("m", {}, version="")
    assert [request.version for request in server.seen] == ["^3.2", "1.0.0", ""]


async def test_metadata_goes_with_every_call(server, kind, transport):
    async with AnyClient(kind, server.address, transport=transport, metadata=[("x-team", "blue")]) as client:
        await client.predict("m", {})
    assert server.metadata["x-team"] == "blue"
    assert server.metadata["user-agent"].startswith("turnout-client ")


@pytest.mark.parametrize(
    ("value", "field", "text"),
    [
        (np.zeros(2, np.complex64), "inputs[1].data_type", "expected an array of"),
        (np.array([None]), "inputs[1].strings[0]", "expected str or bytes in an array of objects, got NoneType"),
        ([[1], [1, 2]], "inputs[1]", "expected something that NumPy makes an array of"),
    ],
)
async def test_what_no_tensor_can_hold_is_refused_before_anything_is_sent(client, server, value, field, text):
    with pytest.raises(InvalidArgument, match=re.escape(text)) as caught:
        await client.predict("m", {"fine": X, "x": value})
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.message.startswith("input 'x': ")
    assert not server.seen


async def test_one_output_name_is_no_sequence_of_names(client):
    with pytest.raises(TypeError, match="expected a sequence of output names, got the string 'y'"):
        await client.predict("m", {}, outputs="y")


async def test_a_malformed_answer_is_the_servers_fault(client, server):
    server.predict = lambda request: PredictResponse(
        request_id="r", outputs=[Tensor(name="y", data_type=DATA_TYPE_FLOAT32, shape=[2], raw=b"abc")]
    )
    with pytest.raises(Internal, match="malformed tensor: raw: expected 8 bytes for float32") as caught:
        await client.predict("m", {})
    assert caught.value.request_id == "r"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_each_status_is_a_class_of_its_own(client, server, code):
    def fail(request):
        raise Fault(code, "so it is")

    server.predict = fail
    with pytest.raises(TurnoutClientError) as caught:
        await client.predict("m", {"x": X}, request_id="r")
    assert type(caught.value).__name__ == "".join(term.title() for term in code.name.split("_"))
    assert (caught.value.code, caught.value.message, caught.value.request_id) == (code, "so it is", "r")
    assert (caught.value.violations, caught.value.retry_after) == ((), None)


async def test_details_of_a_status_reach_the_error(client, server):
    def fail(request):
        details = (bad_request(version="expected a selector"), request_info("abc"), retry_info(1.25))
        raise Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", *details)

    server.predict = fail
    with pytest.raises(ResourceExhausted) as caught:
        await client.predict("m", {})
    assert caught.value.violations == (Violation("version", "expected a selector"),)
    assert (caught.value.request_id, caught.value.retry_after) == ("abc", 1.25)


async def test_a_call_ends_at_its_deadline(client, server):
    release = threading.Event()

    def wait(request):
        release.wait(BOUND)
        return echo(request)

    server.predict = wait
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await client.predict("m", {}, timeout=0.1)
    assert 0.1 <= time.monotonic() - started < BOUND / 2
    release.set()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_no_time_at_all_sends_nothing(client, server, seconds):
    with pytest.raises(DeadlineExceeded):
        await client.predict("m", {}, timeout=seconds)
    assert not server.seen


async def test_no_bound_is_no_deadline(server, kind, transport):
    async with AnyClient(kind, server.address, timeout=None, transport=transport) as client:
        await client.predict("m", {})
        for endless in (float("inf"), 1e10, 1e300):
            await client.predict("m", {}, timeout=endless)
        if transport == "stream":
            assert [item.timeout_ms for item in server.items] == [0] * 4


async def test_a_closed_client_says_so(server, kind, transport):
    async with AnyClient(kind, server.address, transport=transport) as client:
        await client.predict("m", {})
    for call in (client.predict("m", {}), client.models(), client.wait_ready()):
        with pytest.raises(ClientClosed):
            await call
    if kind is AsyncClient:
        await client.aclose()
    else:
        await client.close()


async def test_a_client_that_was_never_used_closes(kind, transport):
    async with AnyClient(kind, "127.0.0.1:1", transport=transport):
        pass


@pytest.mark.parametrize(
    "target",
    [
        "", " 127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "http://127.0.0.1:8001", "GRPC://127.0.0.1:8001", "127.0.0.1",
        "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:8001/", ":8001", "::1:8001",
        "dns:///", "dns:///turnout", "ipv4:127.0.0.1", "ipv4:127.0.0.1:1,127.0.0.1", None, ("127.0.0.1", 1),
    ],
)  # fmt: skip
def test_a_target_that_grpc_would_misread_is_refused(kind, target):
    with pytest.raises((TypeError, ValueError), match="expected "):
        kind(target)


@pytest.mark.parametrize(
    "target",
    [
        "turnout:8001", "[::1]:8001", "ipv6:[::1]:8001,[::1]:8002", "ipv4:10.0.0.1:1,10.0.0.2:1", "dns:turnout:8001",
        "dns:///turnout.example.org:8001", "dns://10.0.0.53/turnout:8001", "unix:turnout.sock", "unix:///turnout.sock",
        "unix-abstract:turnout", "vsock:1:2", "xds:///turnout", "passthrough:///turnout:8001",
    ],
)  # fmt: skip
def test_a_target_of_every_scheme_is_accepted(kind, target):
    kind(target)


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        (["a\0", "b"], [b"a\0", b"b"]),
        (b"a\0\0", [b"a\0\0"]),
        ([["a", b"b\0"], ["c", ""]], [b"a", b"b\0", b"c", b""]),
        (np.str_("a\0"), [b"a\0"]),
        (np.array(["a", "b"]), [b"a", b"b"]),
    ],
)
async def test_text_is_sent_to_its_last_character(client, server, value, strings):
    await client.predict("m", {"x": value})
    assert list(server.seen[-1].inputs[0].strings) == strings


@pytest.mark.parametrize("value", [["a", 1], [1.0, None], [b"a", 2.0]])
async def test_numbers_beside_text_do_not_become_text(client, server, value):
    with pytest.raises(InvalidArgument, match="expected str or bytes in an array of objects, got"):
        await client.predict("m", {"x": value})
    assert server.seen == []


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("model", {"model": 1}),
        ("version", {"version": 1}),
        ("request_id", {"request_id": 5}),
        ("routing_key", {"routing_key": 7}),
        ("outputs", {"outputs": ["y", 1]}),
        ("inputs", {"inputs": {1: [1]}}),
    ],
)
async def test_what_is_no_string_is_named(client, server, field, call):
    with pytest.raises(TypeError, match=f"^{field}: expected a string, got "):
        await client.predict(**{"model": "m", "inputs": {}} | call)
    assert server.seen == []
    await client.predict("m", {})  # a stream is still in use


@pytest.mark.parametrize("field", ["model", "version", "request_id", "routing_key", "outputs", "inputs"])
async def test_text_that_utf8_cannot_hold_is_refused_before_anything_is_sent(client, server, field):
    bad = {"outputs": ["\ud800"], "inputs": {"\ud800": [1]}}.get(field, "\ud800")
    with pytest.raises(InvalidArgument, match="expected text that UTF-8 can hold") as caught:
        await client.predict(**{"model": "m", "inputs": {}, field: bad})
    assert [violation.field for violation in caught.value.violations] == [field]
    assert server.seen == []


def test_a_transport_that_is_none_is_refused(kind):
    with pytest.raises(ValueError, match="expected the transport 'unary' or 'stream', got 'carrier'"):
        kind("127.0.0.1:1", transport="carrier")


def _catalog() -> list[catalog_pb2.Model]:
    version = catalog_pb2.ModelVersion(
        version="3.2.0",
        digest="sha256:ab",
        standing=catalog_pb2.STANDING_RELEASED,
        state=catalog_pb2.VERSION_STATE_READY,
        reason="",
        tags=["stable"],
        size_bytes=12,
        max_batch_rows=8,
        batching="proved",
        providers=["CPUExecutionProvider"],
        load_seconds=0.5,
    )
    spec = version.inputs.add(name="x", data_type=DATA_TYPE_FLOAT32, has_default=True)
    spec.shape.add(symbol="batch")
    spec.shape.add(size=4)
    spec.shape.add()
    newer = catalog_pb2.ModelVersion(version="4.0.0", standing=99, state=99)
    newer.outputs.add(name="y", data_type=99)
    return [catalog_pb2.Model(name="m", versions=[version, newer], default_version="3.2.0")]


async def test_the_catalog_is_read_into_values(client, server):
    server.catalog = _catalog()
    (model,) = await client.models()
    assert (model.name, model.default_version) == ("m", "3.2.0")
    version = model.versions[0]
    assert (version.standing, version.state) == (Standing.RELEASED, VersionState.READY)
    assert version.inputs == (TensorInfo("x", "float32", ("batch", 4, None), has_default=True),)
    assert str(version.inputs[0]) == "x: float32[batch, 4, ?]"
    assert (version.tags, version.providers, version.load_seconds) == (("stable",), ("CPUExecutionProvider",), 0.5)
    assert await client.get_model("m") == model
    assert await client.get_version("m", "3.2.0") == version
    assert await client.get_version("m") == version


async def test_what_a_newer_server_says_is_unspecified_and_no_failure(client, server):
    server.catalog = _catalog()
    version = await client.get_version("m", "4.0.0")
    assert (version.standing, version.state) == (Standing.UNSPECIFIED, VersionState.UNSPECIFIED)
    assert version.outputs[0].dtype == "unspecified"


async def test_a_model_that_is_not_there_is_not_found(client):
    with pytest.raises(NotFound, match="no model is named 'm'"):
        await client.get_model("m")


async def test_waiting_ends_when_the_model_serves(client, server):
    waiting = asyncio.create_task(client.wait_ready("late", "^1", timeout=20))
    for status in (HealthCheckResponse.NOT_SERVING, HealthCheckResponse.SERVING):
        assert not waiting.done()
        server.health.set("model:late@^1", status)
    await waiting
    await client.wait_ready("late", "^1", timeout=20)
    server.health.set("model:late@^1", HealthCheckResponse.SERVICE_UNKNOWN)


async def test_waiting_in_vain_tells_what_was_heard_last(client, server):
    for seconds in (0.2, 2, 20):
        with pytest.raises(DeadlineExceeded, match=f"model:never was not ready within {seconds} s: ") as caught:
            await client.wait_ready("never", timeout=seconds)
        if "no server answered" not in str(caught.value):  # as in too short a time
            break
    assert "last said SERVICE_UNKNOWN" in str(caught.value)


async def test_waiting_for_a_server_that_never_comes_tells_so(kind):
    async with AnyClient(kind, "127.0.0.1:1") as client:
        with pytest.raises(DeadlineExceeded, match=r"the server was not ready within 0.2 s: no server answered"):
            await client.wait_ready(timeout=0.2)


async def test_a_selector_without_a_model_is_a_mistake(client):
    with pytest.raises(ValueError, match="needs a model"):
        await client.wait_ready(selector="^1")
