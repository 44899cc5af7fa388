"""One credential, spelled in many ways: it fills no cache, and its bearer is always the same."""

import re
from pathlib import Path

import grpc
import httpx
import pytest

from auth_wire import AUTH, grant, make_token, write_policy
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, refusal, request

_PREDICT = {"inputs": {"x": X.tolist()}}


async def cached_credentials(server: Running) -> float:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        found = re.search(r"^turnout_auth_callers (.*)$", (await client.get("/metrics")).text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.both_transports
async def test_spellings_of_one_token_share_a_limit_and_one_place_in_the_cache(
    tmp_path: Path, models: Path, publish_model: Publish, start_server: StartServer
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    spelled = [f"{scheme}{' ' * n}" for scheme in ("Bearer", "bearer", "BEARER", "bEaReR") for n in (1, 2, 5, 30)]
    policy = write_policy(
        tmp_path / "policy.toml", grant(["anonymous"], ["read"]),
        "[[limit]]", 'identities = ["token:*"]', "requests_per_second = 0.01", f"burst = {2 * len(spelled)}",
    )  # fmt: skip
    token = make_token(models, "web", ["predict"], ["fraud"])
    server = await start_server(auth={**AUTH, "policy": policy})
    async with (
        grpc.aio.insecure_channel(str(server.grpc)) as channel,
        httpx.AsyncClient(base_url=f"http://{server.http}") as http,
    ):
        stub = PredictionServiceStub(channel)
        for scheme in spelled:
            given = f"{scheme}{token}"
            await stub.Predict(request("fraud", x=X), metadata=[("authorization", given)])
            answer = await http.post("/predict/fraud", json=_PREDICT, headers={"authorization": given})
            assert answer.status_code == 200, given[:20]
        refused = await refusal(stub.Predict(request("fraud", x=X), metadata=[("authorization", f"BEARER   {token}")]))
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await cached_credentials(server) <= 2
