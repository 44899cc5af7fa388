"""The Open Inference Protocol over HTTP, on a real server, by httpx and by curl. tritonclient.http is in tests/e2e."""

import asyncio
import gzip
import json
import re
import subprocess
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from semver import Version

from debian import needs, program
from held import held_loads, held_runs
from onnx_models import identity, look_up, not_a_number, scaled, slow, string_identity
from routing_wire import policy, put
from turnout.config import Limits, Runtime

CURL = program("curl", "curl")

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


def body(**more: Any) -> dict[str, Any]:
    return {"inputs": [X], **more}


async def call(server, method: str, path: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}", timeout=60) as client:
        return await client.request(method, path, **more)


async def infer(server, path: str, document: Mapping[str, Any], **more: Any) -> httpx.Response:
    return await call(server, "POST", f"/v2/models/{path}/infer", json=document, **more)


def binary_body(array: np.ndarray, datatype: str, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A body with one input behind its JSON, and the header that says where it begins."""
    raw = array.tobytes()
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": array.shape,
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + raw, {"Inference-Header-Content-Length": str(len(text))}


@pytest.fixture(scope="module")
def digests(publish_for_module) -> Mapping[str, str]:
    """Of the versions of `m`."""
    publish_for_module("text", "1.0.0", string_identity())
    publish_for_module("half", "1.0.0", identity(TensorProto.FLOAT16, ["batch", 2]))
    publish_for_module("nan", "1.0.0", not_a_number())
    publish_for_module("plain", "1.0.0", identity(TensorProto.FLOAT, ["batch", 4]))
    publish_for_module("look-up", "1.0.0", look_up())
    publish_for_module("one", "1.0.0", scaled(2))
    publish_for_module("m", "2.0.0-rc.1+cpu", scaled(2), release=False)
    return {version: publish_for_module("m", version, scaled(2)) for version in ("1.9.0", "1.10.0")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(digests, start_server_for_module):
    return await start_server_for_module()


async def test_the_server_describes_itself_and_is_live_and_ready(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    with held_loads():
        server = await start_server(wait=False)
        live, early = await call(server, "GET", "/v2/health/live"), await call(server, "GET", "/v2/health/ready")
        loading = await call(server, "GET", "/v2/models/m/ready")
    await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    ready, loaded = await call(server, "GET", "/v2/health/ready"), await call(server, "GET", "/v2/models/m/ready")
    about = (await call(server, "GET", "/v2")).json()

    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (early.status_code, early.json()) == (503, {"ready": False})
    assert loading.status_code == 503
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert (loaded.status_code, loaded.json()) == (200, {"name": "m", "ready": True})
    assert about["name"] == "turnout"
    assert "binary_tensor_data" in about["extensions"]
    assert "statistics" not in about["extensions"]


async def test_metadata_tells_inputs_outputs_and_ready_versions(publish_model, start_server) -> None:
    for version in ("1.9.0", "1.10.0"):
        publish_model("m", version, scaled(2))
    publish_model("text", "1.0.0", string_identity())
    server = await start_server()

    described = (await call(server, "GET", "/v2/models/m/versions/^1.9")).json()
    config = (await call(server, "GET", "/v2/models/m/versions/1.9.0/config")).json()

    assert described == {
        "name": "m",
        "versions": ["1.9.0", "1.10.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert config["max_batch_size"] > 1
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    assert config["parameters"]["turnout_version"] == {"string_value": "1.9.0"}
    assert (await call(server, "GET", "/v2/models/text")).json()["inputs"][0]["datatype"] == "BYTES"


async def test_a_model_is_ready_where_a_request_would_be_taken(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server()
    await server.parts.serving.manager.unload("m", Version(2))

    statuses = {
        path: (await call(server, "GET", f"/v2/models/{path}/ready")).status_code
        for path in ("m/versions/1.0.0", "m/versions/2.0.0", "m/versions/9.0.0", "q", "m/versions/^^")
    }

    assert statuses == {
        "m/versions/1.0.0": 200,
        "m/versions/2.0.0": 409,
        "m/versions/9.0.0": 404,
        "q": 404,
        "m/versions/^^": 400,
    }


async def test_an_answer_names_version_role_epoch_digest_and_id(publish_model, start_server) -> None:
    digest = publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3))
    server = await start_server()

    pinned = await infer(server, "m/versions/1.0.0", body(id="r-7"))
    default = await infer(server, "m", body())

    assert pinned.headers["content-type"] == "application/json"
    assert pinned.json() == {
        "model_name": "m",
        "model_version": "1.0.0",
        "id": "r-7",
        "parameters": {"turnout_role": "pinned", "turnout_epoch": 0, "turnout_digest": digest},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2, 4, 6, 8]}],
    }
    assert pinned.headers["x-turnout-version"] == "1.0.0"
    assert "id" not in default.json()
    assert (default.json()["model_version"], default.json()["parameters"]["turnout_role"]) == ("2.0.0", "baseline")


@one_server
@pytest.mark.parametrize(
    ("selector", "version"),
    [
        ("%5E1.9", "1.10.0"),
        ("~1.9.0", "1.9.0"),
        ("%3E%3D1.9%20%3C1.10", "1.9.0"),
        ("1.9.0%20%7C%7C%203", "1.9.0"),
        ("v1.10.0", "1.10.0"),
        ("latest", "1.10.0"),
        ("2.0.0-rc.1%2Bcpu", "2.0.0-rc.1+cpu"),
        ("2.0.0-rc.1+cpu", "2.0.0-rc.1+cpu"),
    ],
)
async def test_selectors_are_percent_decoded(server, selector, version) -> None:
    answer = await infer(server, f"m/versions/{selector}", body())

    assert answer.json()["model_version"] == version


@one_server
async def test_a_digest_is_a_selector(digests, server) -> None:
    for version, digest in digests.items():
        assert (await infer(server, f"m/versions/{digest}", body())).json()["model_version"] == version


@pytest.mark.parametrize("sent", ["parameter", "header"])
async def test_a_key_sticks_to_its_version(publish_model, start_server, sent) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3), release=False)
    server = await start_server()
    await put(server, policy("1.0.0", v2_0_0=0.5))

    async def version(key: str) -> str:
        if sent == "header":
            answer = await infer(server, "m", body(), headers={"x-routing-key": key})
        else:
            answer = await infer(server, "m", body(parameters={"routing_key": key}))
        return answer.json()["model_version"]

    of_keys = {key: {await version(key) for _ in range(3)} for key in map(str, range(32))}

    assert all(len(versions) == 1 for versions in of_keys.values())
    assert set().union(*of_keys.values()) == {"1.0.0", "2.0.0"}


async def test_a_caller_may_ask_for_the_baseline(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3), release=False)
    server = await start_server()
    await put(server, policy("1.0.0", v2_0_0=0.5))

    answers = [await infer(server, "m", body(), headers={"x-turnout-role": "baseline"}) for _ in range(20)]
    wrong = await infer(server, "m", body(), headers={"x-turnout-role": "canary"})

    assert {answer.json()["parameters"]["turnout_role"] for answer in answers} == {"baseline"}
    assert {answer.json()["parameters"]["turnout_epoch"] for answer in answers} == {1}
    assert wrong.status_code == 400


@one_server
async def test_binary_goes_in_and_comes_out(server) -> None:
    array = np.array([[1.5, -0.25]], np.float16)
    content, headers = binary_body(array, "FP16", parameters={"binary_data_output": True})

    answer = await call(server, "POST", "/v2/models/half/infer", content=content, headers=headers)

    assert answer.headers["content-type"] == "application/octet-stream"
    end = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:end])["outputs"]
    assert output == {"name": "y", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    np.testing.assert_array_equal(np.frombuffer(answer.content[end:], np.float16), array[0])


@one_server
async def test_an_output_that_json_cannot_hold_is_refused_in_words(server) -> None:
    content, headers = binary_body(np.zeros((1, 2), np.float16), "FP16")

    answer = await call(server, "POST", "/v2/models/half/infer", content=content, headers=headers)

    assert answer.status_code == 400
    assert "binary_data" in answer.json()["error"]


@one_server
async def test_nan_is_a_string_in_json(server) -> None:
    answer = await infer(server, "nan", body())
    assert "NaN" in json.loads(answer.text, parse_constant=pytest.fail)["outputs"][0]["data"]


@one_server
@pytest.mark.parametrize(
    "sent",
    ["NaN, Infinity, -Infinity", '"NaN", "Infinity", "-Infinity"', '"nan", "inf", "-inf"'],
    ids=["literals", "as protobuf writes them", "as Python prints them"],
)
async def test_nan_and_infinities_are_accepted_as_other_programs_write_them(server, sent) -> None:
    """Python's json and tritonclient write literals, which Triton accepts; protobuf and Jackson write strings."""
    expected = ["NaN", "Infinity", "-Infinity", 1.5]
    start = (
        '{"id": "NaN", "parameters": {"mine": -Infinity}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]'
    )
    infers = (
        f'{start}, "data": [{sent}, 1.5]}}]}}',
        "/v2/models/plain/infer",
        lambda answer: answer["outputs"][0]["data"],
    )
    predicts = f'{{"inputs": {{"x": [[{sent}, 1.5]]}}}}', "/predict/plain", lambda answer: answer["outputs"]["y"][0]
    for content, path, data in (infers, predicts):
        answer = await call(server, "POST", path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        assert data(json.loads(answer.text, parse_constant=pytest.fail)) == expected


@one_server
async def test_nan_in_a_large_body_is_accepted(server) -> None:
    """Bodies above 64 KiB are parsed in a thread, with their parts counted."""
    rows = np.full((8192, 4), np.nan, np.float32)
    sent = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [8192, 4], "data": rows.ravel().tolist()}]}
    content, headers = json.dumps(sent), {"content-type": "application/json"}
    answer = await call(server, "POST", "/v2/models/plain/infer", content=content, headers=headers)
    assert answer.json()["outputs"][0]["data"] == ["NaN"] * rows.size


@one_server
@pytest.mark.parametrize(
    ("datatype", "data", "shown"),
    [
        ("INT32", "NaN", "inputs[0].data[0]: expected INT32 elements, got NaN"),
        ("BOOL", "-Infinity", "inputs[0].data[0]: expected BOOL elements, got -Infinity"),
        ("BYTES", '"a", NaN', "inputs[0].data[1]: expected BYTES elements, got NaN"),
        ("FP32", '"NAN"', 'inputs[0].data[0]: expected FP32 elements, got "NAN"'),
        ("FP32", "null", "inputs[0].data[0]: expected FP32 elements, got null"),
    ],
)
async def test_nan_is_no_integer_boolean_or_text(server, datatype, data, shown) -> None:
    """pandas writes NaN for text that is missing: the model would read it as a word."""
    count = data.count(",") + 1
    sent = f'{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": [1, {count}], "data": [{data}]}}]}}'
    headers = {"content-type": "application/json"}
    answer = await call(server, "POST", "/v2/models/plain/infer", content=sent, headers=headers)
    assert (answer.status_code, answer.json()) == (400, {"error": shown})


@one_server
@pytest.mark.parametrize("field", ['"id": NaN', '"parameters": {"timeout": NaN}', '"parameters": {"routing_key": NaN}'])
async def test_nan_is_no_other_value_of_a_request(server, field) -> None:
    sent = f'{{{field}, "inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}}]}}'
    headers = {"content-type": "application/json"}
    answer = await call(server, "POST", "/v2/models/plain/infer", content=sent, headers=headers)
    assert answer.status_code == 400, answer.text


@one_server
async def test_text_comes_back(server) -> None:
    terms = ["frog", "Gleis 9¾", "", "\u0000"]
    tensor = {"name": "x", "datatype": "BYTES", "shape": [4], "data": terms}
    answer = await infer(server, "text", {"inputs": [tensor]})
    assert answer.json()["outputs"][0] == {"name": "y", "datatype": "BYTES", "shape": [4], "data": terms}


@one_server
async def test_a_classification_is_the_highest_values_as_text(server) -> None:
    wanted = [{"name": "y", "parameters": {"classification": 2}}]
    answer = await infer(server, "one", body(outputs=wanted))
    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", ["8.000000:3", "6.000000:2"])


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies_are_read_within_the_bound(publish_model, start_server, name, compress) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(limits=Limits(http_max_body_bytes=100_000))

    async def post(content: bytes) -> httpx.Response:
        return await call(server, "POST", "/v2/models/m/infer", content=content, headers={"content-encoding": name})

    plain = json.dumps(body()).encode()
    assert (await post(compress(plain))).status_code == 200
    bomb = await post(compress(plain + b" " * 1_000_000))
    assert (bomb.status_code, bomb.json()["error"]) == (400, "body: expected at most 100000 bytes")
    assert (await post(plain)).status_code == 400
    assert (await post(compress(plain)[:-4])).status_code == 400


async def test_a_gzip_body_may_have_several_members(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()

    async def post(content: bytes) -> httpx.Response:
        return await call(server, "POST", "/v2/models/m/infer", content=content, headers={"content-encoding": "gzip"})

    plain = json.dumps(body()).encode()
    members = gzip.compress(plain[:10]) + gzip.compress(plain[10:])
    answer = await post(members)
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [2, 4, 6, 8])
    for wrong in (members[:-1], members + b"\0", b"", gzip.compress(b"") * 3000):
        refused = await post(wrong)
        assert (refused.status_code, "gzip" in refused.json()["error"]) == (400, True)


async def test_bodies_are_bounded(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(limits=Limits(http_max_body_bytes=1000))
    answer = await infer(server, "m", body(id="i" * 1000))
    assert (answer.status_code, answer.json()) == (400, {"error": "body: expected at most 1000 bytes"})


async def refused(server) -> Counter[str]:
    """How many requests were counted so far, by code, as it is scraped."""
    counted = Counter[str]()
    for line in (await call(server, "GET", "/metrics")).text.splitlines():
        if found := re.match(r'turnout_requests_total\{.*code="([A-Z_]+)".*\} (.+)$', line):
            counted[found[1]] += int(float(found[2]))
    return counted


REFUSED = {
    "unknown model": ("q", body(), 404),
    "unknown version": ("m/versions/9", body(), 404),
    "malformed selector": ("m/versions/^^", body(), 400),
    "another type": ("m", {"inputs": [{**X, "datatype": "INT32"}]}, 400),
    "another rank": ("m", {"inputs": [{**X, "shape": [4]}]}, 400),
    "another size": ("m", {"inputs": [{**X, "shape": [2, 2]}]}, 400),
    "another name": ("m", {"inputs": [{**X, "name": "z"}]}, 400),
    "another output": ("m", body(outputs=[{"name": "z"}]), 400),
    "no inputs": ("m", {"inputs": []}, 400),
    "no object": ("m", [], 400),
    "a sequence": ("m", body(parameters={"sequence_id": 7}), 501),
    "shared memory": ("m", {"inputs": [{**X, "parameters": {"shared_memory_region": "r"}}]}, 501),
    "a long id": ("m", body(id="i" * 1025), 400),
    "a long key": ("m", body(parameters={"routing_key": "k" * 1025}), 400),
    "a timeout that is none": ("m", body(parameters={"timeout": 0.5}), 400),
    "a classification of nothing": ("m", body(outputs=[{"name": "y", "parameters": {"classification": 0}}]), 400),
}


@one_server
@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_answered_is_refused_and_counted(server, case) -> None:
    path, document, status = REFUSED[case]
    code = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 501: "UNIMPLEMENTED"}[status]
    before = (await refused(server))[code]

    answer = await infer(server, path, document)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert (await refused(server))[code] == before + 1


async def test_a_timeout_parameter_ends_the_wait(publish_model, start_server) -> None:
    publish_model("slow", "1.0.0", slow())
    server = await start_server(runtime=Runtime(inline_threshold_us=0, runners=1))

    def rounds(count: int, **more: Any) -> dict[str, Any]:
        return {"inputs": [X, {"name": "n", "datatype": "INT64", "shape": [], "data": [count]}], **more}

    with held_runs(server, "slow"):
        blocker = asyncio.create_task(infer(server, "slow", rounds(1)))
        (entry,) = server.services.catalog.snapshot.models["slow"].versions.values()
        async with asyncio.timeout(100):
            while not entry.handle.inflight:
                await asyncio.sleep(0.001)
        late = await infer(server, "slow", rounds(2, parameters={"timeout": 1000}))

    assert late.status_code == 504
    assert (await blocker).status_code == 200


@one_server
async def test_a_failure_in_the_model_is_a_500_that_names_its_request(server) -> None:
    document = {"id": "r-9", "inputs": [{"name": "index", "datatype": "INT64", "shape": [1], "data": [999]}]}
    answer = await infer(server, "look-up", document)
    assert answer.status_code == 500
    assert answer.json()["error"].endswith("(request r-9)")
    assert "/" not in answer.json()["error"]


@one_server
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("GET", "/v2/models/q/stats", 404),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/repository/models/m/unload", 403),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501),
        ("GET", "/v2/models/q/trace/setting", 404),
    ],
)
async def test_what_is_not_served_is_said_in_the_protocols_form(server, method, path, status) -> None:
    answer = await call(server, method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


@one_server
@needs(CURL, "curl")
async def test_curl_works(server) -> None:
    command = [CURL, "-sS", "-d", json.dumps(body()), f"http://{server.http}/v2/models/m/versions/%5E1/infer"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["data"] == [2, 4, 6, 8]


terms = st.text(max_size=20) | st.sampled_from(["x", "FP32", "BYTES", "BOOL", "INT8", "BF16", "y"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | terms
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(terms, inner, max_size=3))
parameters = st.dictionaries(
    st.sampled_from(["timeout", "routing_key", "sequence_id", "binary_data_size", "binary_data", "classification"]),
    scalars,
    max_size=2,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | scalars,
        "datatype": st.sampled_from(["FP32", "BYTES", "INT8", "FP16"]) | scalars,
        "shape": st.sampled_from([[1, 4], [0, 4]]) | st.lists(st.integers(-2, 2**70), max_size=40) | values,
        "data": st.sampled_from([[1, 2, 3, 4], [[1, 2, 3, 4]]]) | values,
        "parameters": parameters | values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | values},
    optional={"id": scalars, "parameters": parameters | values, "outputs": st.lists(tensors, max_size=2) | values},
)
bodies = documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=100)
lengths = st.none() | st.integers(-1, 400).map(str)


async def test_malformed_bodies_are_the_callers_fault_and_harm_nobody(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(log={"level": "error"})
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=f"http://{server.http}", timeout=60) as client:

        async def send(content: bytes, length: str | None) -> httpx.Response:
            headers = {} if length is None else {"inference-header-content-length": length}
            return await client.post("/v2/models/m/infer", content=content, headers=headers)

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(bodies, lengths, st.binary(max_size=20))
        def check(text: bytes, length: str | None, binary: bytes) -> None:
            answer = asyncio.run_coroutine_threadsafe(send(text + binary, length), loop).result(100)
            assert answer.status_code in {200, 400, 404, 501, 504}, answer.text
            assert answer.status_code == 200 or list(answer.json()) == ["error"]

        await asyncio.to_thread(check)
        assert (await send(json.dumps(body()).encode(), None)).status_code == 200
