"""What a server listens on: gRPC and HTTP on two ports or on one, on either transport."""

import asyncio

import grpc
import httpx
import pytest
from grpc_status import rpc_status

from http2_client import Http2Client
from onnx_models import scaled
from ports import free_port
from started_servers import LOOPBACK
from turnout.config import Address
from turnout.errors import ConfigError
from turnout_client import AsyncClient
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

BODY = {"inputs": {"x": [[0, 1, 2, 3]]}}


@pytest.fixture
def one_model(publish_model) -> None:
    publish_model("m", "1.0.0", scaled(2))


@pytest.mark.usefixtures("one_model")
async def test_grpc_and_http_may_have_one_port(start_server) -> None:
    address = Address("127.0.0.1", free_port())
    server = await start_server(grpc=address, http=address)
    assert server.grpc == server.http == address
    async with AsyncClient(str(address)) as client, httpx.AsyncClient(base_url=f"http://{address}") as http:
        for transport in (client, AsyncClient(str(address), transport="stream")):
            assert (await transport.predict("m", {"x": X})).version == "1.0.0"
            await transport.aclose()
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.post("/predict/m", json=BODY)).json()["version"] == "1.0.0"
        assert (await http.get("/nothing")).status_code == 404
        assert "turnout_requests_total" in (await http.get("/metrics")).text
    async with Http2Client(address.host, address.port) as client:  # HTTP/2 as well, on the connection of calls
        stream = await client.begin("/livez", (), method="GET", end=True)
        assert (await client.answer(stream)).body == b"ok\n"
        call = await client.call("/grpc.health.v1.Health/Check", b"\0\0\0\0\0")
        assert (call.body, call.grpc_status) == (b"\0\0\0\0\2\x08\x01", 0)


async def test_grpcio_shares_no_port_with_http(start_server) -> None:
    address = Address("127.0.0.1", free_port())
    with pytest.raises(ConfigError, match="two addresses"):
        await start_server(grpc=address, http=address, transport={"data": "grpcio"})


@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("data", ["h2corn", "grpcio"])
async def test_either_transport_refuses_what_is_too_much_and_what_is_too_late(start_server, data: str) -> None:
    server = await start_server(transport={"data": data}, limits={"max_requests": 1})
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel, httpx.AsyncClient() as http:
        stub = PredictionServiceStub(channel)
        assert (await stub.Predict(request("m", x=X))).model == "m"
        stream = stub.PredictStream()
        await stream.write(request_on_stream())
        await stream.read()
        await refused(stub, grpc.StatusCode.RESOURCE_EXHAUSTED)
        answer = await http.post(f"http://{server.http}/predict/m", json=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        answer = await http.post(f"http://{server.http}/v2/models/m/infer", json={})
        assert (answer.status_code, "limits.max_requests" in answer.json()["error"]) == (429, True)
        assert (await http.get(f"http://{server.http}/readyz")).status_code == 200
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert (await stub.Predict(request("m", x=X))).model == "m"
        server.admission.stop()
        await refused(stub, grpc.StatusCode.UNAVAILABLE)
        answer = await http.post(f"http://{server.http}/predict/m", json=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await http.get(f"http://{server.http}/livez")).status_code == 200
        scraped = (await http.get(f"http://{server.http}/metrics")).text.splitlines()
        assert 'turnout_requests_refused_total{reason="full"} 3.0' in scraped
        assert 'turnout_requests_refused_total{reason="draining"} 2.0' in scraped
        assert "turnout_requests_under_way 0.0" in scraped


def request_on_stream() -> pb.PredictStreamRequest:

    item = request("m", x=X)
    item.request_id = "1"
    return pb.PredictStreamRequest(request=item)


async def refused(stub: PredictionServiceStub, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Predict(request("m", x=X))
    assert failure.value.code() is code
    assert "RetryInfo" in str(rpc_status.from_call(failure.value))


async def test_an_address_that_is_taken_is_named(start_server) -> None:
    server = await asyncio.start_server(lambda *_: None, LOOPBACK.host, 0)
    taken = Address(*server.sockets[0].getsockname())
    for listener in ("grpc", "http"):
        with pytest.raises(ConfigError, match=f"{taken} cannot be listened on"):
            await start_server(**{listener: taken})
    server.close()
    await server.wait_closed()
