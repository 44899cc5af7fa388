"""What a browser was made to send is refused, on every route; programs notice nothing."""

import asyncio

import httpx
import pytest
import pytest_asyncio

from onnx_models import scaled
from turnout.config import Address, WebSettings

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

BODY = b'{"inputs": {"x": [[1, 2, 3, 4]]}}'
JSON = {"content-type": "application/json"}
OIP = b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}'


async def answer(server, path: str, headers: dict[str, str], body: bytes = BODY) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        method = "POST" if body else "GET"
        return await client.request(method, path, content=body, headers=headers)


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    publish_for_module("m", "1.0.0", scaled(2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(all_models, start_server_for_module):
    return await start_server_for_module()


@one_server
@pytest.mark.parametrize(
    "headers",
    [
        JSON | {"origin": "https://evil.example"},
        JSON | {"origin": "null"},
        JSON | {"sec-fetch-site": "cross-site"},
        JSON | {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain", "origin": "http://evil.example", "sec-fetch-site": "cross-site"},
    ],
    ids=["origin", "opaque origin", "cross-site", "same-site", "simple request"],
)
@pytest.mark.parametrize(
    ("path", "body"), [("/predict/m", BODY), ("/v2/models/m/infer", OIP), ("/console/sign-in", b"token=x")]
)
async def test_a_page_of_another_site_asks_for_nothing(server, path, body, headers) -> None:
    assert (await answer(server, path, headers, body)).status_code == 403


@one_server
@pytest.mark.parametrize("kind", ["text/plain", "text/plain;charset=UTF-8", "multipart/form-data; boundary=x"])
async def test_types_that_only_pages_send_are_refused(server, kind) -> None:
    assert (await answer(server, "/predict/m", {"content-type": kind})).status_code == 415


@one_server
@pytest.mark.parametrize(
    "headers",
    [
        {},
        JSON,
        {"content-type": "application/x-www-form-urlencoded"},
        JSON | {"sec-fetch-site": "same-origin"},
        JSON | {"host": "localhost"},
        JSON | {"host": "192.0.2.7:8000"},
        JSON | {"host": "[2001:db8::1]:8000"},
    ],
    ids=["nothing", "json", "curl -d", "own page", "localhost", "an address", "an address of IPv6"],
)
async def test_programs_and_pages_of_this_server_are_answered(server, headers) -> None:
    answered = await answer(server, "/predict/m", headers)
    assert answered.status_code == 200, answered.text


@one_server
async def test_a_page_of_this_server_is_told_by_its_origin(server) -> None:
    assert (await answer(server, "/predict/m", JSON | {"origin": f"http://{server.http}"})).status_code == 200


@one_server
@pytest.mark.parametrize("path", ["/predict/m", "/metrics", "/readyz", "/console", "/v2"])
async def test_on_the_loopback_a_foreign_name_leads_nowhere(server, path) -> None:
    body = BODY if path.startswith("/predict") else b""
    refused = await answer(server, path, JSON | {"host": "evil.example:8000"}, body)
    assert refused.status_code == 421
    assert "evil.example" in refused.text
    assert "[web] hosts" in refused.text


async def test_names_are_those_of_the_settings_alone_where_they_are_set(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(web=WebSettings(hosts=("turnout.example",)), http=Address("127.0.0.1", 0))
    assert (await answer(server, "/predict/m", JSON | {"host": "turnout.example:443"})).status_code == 200
    assert (await answer(server, "/predict/m", JSON | {"host": "TURNOUT.example."})).status_code == 200
    assert (await answer(server, "/predict/m", JSON | {"host": "turnout.example.evil"})).status_code == 421


@one_server
async def test_requests_with_two_hosts_are_refused(server) -> None:
    reader, writer = await asyncio.open_connection(server.http.host, server.http.port)
    writer.write(f"GET /readyz HTTP/1.1\r\nHost: {server.http}\r\nHost: evil.example\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
