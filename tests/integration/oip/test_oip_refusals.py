"""Errors under /v2 are `{"error": "text"}`, as the protocol's clients expect, wherever in the server they arise."""

import asyncio
import re
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from onnx_models import scaled
from turnout_proto.oip.inference_pb2 import ModelInferRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")

TAKES = {
    "/v2": "GET, HEAD",
    "/v2/health/live": "GET, HEAD",
    "/v2/health/ready": "GET, HEAD",
    "/v2/models": "GET, HEAD",
    "/v2/models/stats": "GET, HEAD",
    "/v2/models/m": "GET, HEAD",
    "/v2/models/m/ready": "GET, HEAD",
    "/v2/models/m/versions/1.0.0/config": "GET, HEAD",
    "/v2/models/m/infer": "POST",
    "/v2/models/m/versions/1.0.0/infer": "POST",
    "/v2/models/m/trace/setting": "GET, HEAD, POST",
    "/v2/logging": "GET, HEAD, POST",
    "/v2/repository/index": "POST",
    "/v2/repository/models/m/load": "POST",
    "/v2/systemsharedmemory/status": "GET, HEAD",
    "/v2/systemsharedmemory/region/r/register": "POST",
}
"""The methods that paths take."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(publish_for_module, start_server_for_module):
    publish_for_module("m", "1.0.0", scaled(2))
    return await start_server_for_module()


async def refused(server, method: str, path: str, **more: Any) -> tuple[int, str, str | None]:
    """Returns the status, the text and the allowed methods of an error, whose form is checked."""
    async with httpx.AsyncClient(base_url=f"http://{server.http}", trust_env=False) as client:
        answer = await client.request(method, path, **more)
    assert answer.headers["content-type"] == "application/json", answer.text
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str), answer.text
    return answer.status_code, answer.json()["error"], answer.headers.get("allow")


async def test_a_method_that_a_path_does_not_take_is_refused_with_those_that_it_takes(server) -> None:
    wrong = [(method, path) for path, takes in TAKES.items() for method in METHODS if method not in takes]
    answers = await asyncio.gather(*(refused(server, method, path) for method, path in wrong))
    assert answers == [
        (405, f"no route for {method} {path}; this path takes {TAKES[path]}", TAKES[path]) for method, path in wrong
    ]


@pytest.mark.parametrize("path", ["/v2/nowhere", "/v2/models/m/nowhere", "/v2/repository", "/v2/models/m/versions"])
async def test_a_path_that_does_not_exist_takes_no_method(server, path) -> None:
    answers = [await refused(server, method, path) for method in METHODS]
    assert answers == [(404, f"no route for {method} {path}", None) for method in METHODS]


@pytest.mark.parametrize(
    ("headers", "status", "part"),
    [
        ({"host": "gpu-box:8000"}, 421, "[web] hosts"),
        ({"origin": "https://evil.example"}, 403, "another site"),
        ({"content-type": "text/plain"}, 415, "application/json"),
    ],
    ids=["host", "origin", "content type"],
)
@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/nowhere", "/v2"])
async def test_what_browsers_are_made_to_send_is_refused_in_the_same_form(server, headers, status, part, path) -> None:
    got, text, _ = await refused(server, "POST", path, headers={"content-type": "application/json"} | headers)
    assert got == status
    assert part in text


@pytest.mark.parametrize(
    ("before", "literal", "shown"),
    [
        ("", "N", "unexpected character, expected a JSON value at byte {}"),
        ("é😀", "nan", "invalid literal, expected 'null' at byte {}"),
        ("é😀", "1e999", "number is infinity when parsed as double at byte {}"),
        ("é NaN -Infinity", "Infinity, 1e999", "number is infinity when parsed as double at byte {}"),
        ("é NaN", "-Infinity, NaN, 01", "number with leading zero is not allowed at byte {}"),
    ],
)
async def test_a_mistake_in_json_is_named_with_the_byte_where_it_is(server, before, literal, shown) -> None:
    start = f'{{"id": "{before}", "inputs": [{{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, '
    sent = f"{start}{literal}]}}]}}".encode()
    status, text, _ = await refused(server, "POST", "/v2/models/m/infer", content=sent)
    *_, last = literal.split(" ")
    assert (status, text) == (400, f"body: expected JSON in UTF-8: {shown.format(sent.index(last.encode() + b']'))}")


@pytest.mark.parametrize("literal", ["-NaN", "1NaN", "NaNInfinity", "Infinity.0", "- Infinity"])
async def test_what_only_resembles_nan_is_refused(server, literal) -> None:
    sent = f'{{"inputs": [{{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [{literal}]}}]}}'
    status, text, _ = await refused(server, "POST", "/v2/models/m/infer", content=sent.encode())
    assert status == 400
    assert text.startswith("body: expected JSON in UTF-8: ")
    assert re.search(r"at (byte|line 1 column) [78]\d$", text)


async def test_a_byte_that_is_not_utf_8_is_named(server) -> None:
    sent = b'{"id": "\xc3\xa9\xff", "inputs": []}'
    status, text, _ = await refused(server, "POST", "/v2/models/m/infer", content=sent)
    assert (status, text) == (400, "body: expected JSON in UTF-8: this is not UTF-8 at byte 10")


@pytest.mark.parametrize("key", ["shared_memory_byte_size", "shared_memory_offset"])
@pytest.mark.parametrize("part", ["inputs", "outputs"])
async def test_a_place_in_shared_memory_without_a_region_is_refused(server, part, key) -> None:
    """It would be ignored, and a client that left out the region would read old memory."""
    document: dict[str, Any] = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "y"}],
    }
    document[part][0]["parameters"] = {key: 16}
    told = f"{part}[0].parameters.{key}: expected shared_memory_region beside it"
    assert await refused(server, "POST", "/v2/models/m/infer", json=document) == (400, told, None)
    request = ModelInferRequest(model_name="m")
    x = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    (x if part == "inputs" else request.outputs.add(name="y")).parameters[key].int64_param = 16
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await infer(request.SerializeToString())
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, told)
