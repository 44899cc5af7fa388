"""Whatever is sent to whatever service, the server answers as it means to (more messages: benchmarks/fuzz.py)."""

import asyncio
import re
from itertools import islice

import httpx
import pytest

from fuzzing import Sender, messages
from onnx_models import scaled, string_identity
from wire import X, outputs_of, request, stub_of

pytestmark = pytest.mark.both_transports

MESSAGES = 2500
SEED = 15


async def test_no_message_gets_an_answer_that_nobody_foresaw(publish_model, start_server) -> None:
    publish_model("f", "1.0.0", scaled(2))
    publish_model("s", "1.0.0", string_identity())
    server = await start_server(log={"level": "error"})
    sender = Sender(str(server.grpc), str(server.control), str(server.http))
    all_messages = islice(messages(SEED), MESSAGES)
    faults: list[str] = []

    async def send_some() -> None:
        for message in all_messages:
            faults.extend(filter(None, [await sender.send(message)]))

    await asyncio.gather(*(send_some() for _ in range(8)))
    await sender.close()

    assert not faults, faults[0]
    assert sender.answers["OK"] > MESSAGES // 20, "valid messages are among them"
    assert sender.answers["200"] > MESSAGES // 50
    async with stub_of(server) as stub, httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        assert (outputs_of(await stub.Predict(request("f", x=X)))["y"] == 2 * X).all()
        metrics = (await client.get("/metrics")).text
    unexpected = re.findall(r"^turnout_unexpected_errors_total\{.*\} (.*)$", metrics, re.MULTILINE)
    assert set(unexpected) == {"0"}
    malformed = re.findall(r"^turnout_malformed_messages_total\{service=\"(.*)\"\} (.*)$", metrics, re.MULTILINE)
    assert {service for service, count in malformed if float(count)} >= {
        "turnout.v1.PredictionService", "inference.GRPCInferenceService", "turnout.v1.CatalogService",
        "turnout.v1.ControlService", "turnout.v1.RegistryService", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection", "grpc.channelz.v1.Channelz",
    }  # fmt: skip
