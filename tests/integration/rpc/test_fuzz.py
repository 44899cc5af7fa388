"""Whatever is sent to whatever service, the server answers as it means to (more messages: benchmarks/fuzz.py)."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import httpx
import pytest

from auth_wire import AUTH, bearer, make_token
from certificates import Authority, put
from fuzzing import REGION, Call, Request, Sender, messages
from onnx_models import scaled, string_identity
from started_servers import TRANSPORTS
from turnout.errors import AlreadyExistsError
from turnout_client import Tls
from wire import X, outputs_of, request, stub_of

pytestmark = pytest.mark.both_transports

MESSAGES = 2500
SECURED = 900
SEED = 15


def some_messages(seed: int, count: int, transport: str) -> Iterator[Call | Request]:
    """Returns the first messages of a seed, of which the second transport gets what it carries, the data listener's.

    HTTP and operators have listeners that are the same with either: the run of the first one sends them theirs.
    """
    made = islice(messages(seed), count)
    return (m for m in made if transport == TRANSPORTS[0] or (isinstance(m, Call) and not m.control))


async def test_no_message_gets_an_answer_that_nobody_foresaw(publish_model, start_server, data_transport) -> None:
    publish_model("f", "1.0.0", scaled(2))
    publish_model("s", "1.0.0", string_identity())
    oip = {"system_shared_memory": True, "allow_settings_changes": True}
    server = await start_server(log={"level": "error"}, oip=oip)
    sender = Sender(str(server.grpc), str(server.control), str(server.http))
    all_messages = some_messages(SEED, MESSAGES, data_transport)
    faults: list[str] = []
    segment = SharedMemory(create=True, size=64)
    register = server.services.oip.memory.register

    async def send_some() -> None:
        for message in all_messages:
            with suppress(AlreadyExistsError):  # some messages unregister it
                await register(None, "127.0.0.1", REGION, segment.name, 0, 64)
            faults.extend(filter(None, [await sender.send(message)]))

    try:
        await asyncio.gather(*(send_some() for _ in range(8)))
    finally:
        segment.close()
        segment.unlink()
    await sender.close()

    assert not faults, faults[0]
    assert sender.answers["OK"] > MESSAGES // 20, "valid messages are among them"
    everywhere = data_transport == TRANSPORTS[0]
    assert not everywhere or sender.answers["200"] > MESSAGES // 50
    async with stub_of(server) as stub, httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        assert (outputs_of(await stub.Predict(request("f", x=X)))["y"] == 2 * X).all()
        metrics = (await client.get("/metrics")).text
    unexpected = re.findall(r"^turnout_unexpected_errors_total\{.*\} (.*)$", metrics, re.MULTILINE)
    assert set(unexpected) == {"0.0"}
    malformed = re.findall(r"^turnout_malformed_messages_total\{service=\"(.*)\"\} (.*)$", metrics, re.MULTILINE)
    data = {
        "turnout.v1.PredictionService", "inference.GRPCInferenceService", "turnout.v1.CatalogService",
        "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection",
    }  # fmt: skip
    control = {"turnout.v1.ControlService", "turnout.v1.RegistryService", "grpc.channelz.v1.Channelz"}
    assert {service for service, count in malformed if float(count)} >= (data | control if everywhere else data)


async def test_no_message_through_tls_gets_one_either_whoever_sends_it(
    publish_model, start_server, models: Path, tmp_path: Path, data_transport: str
) -> None:
    publish_model("f", "1.0.0", scaled(2))
    publish_model("s", "1.0.0", string_identity())
    authority = Authority.make()
    cert, key = authority.issue().write(tmp_path, "server")
    ca = put(tmp_path / "ca.pem", authority.pem)
    right = make_token(models, "fuzz", ["admin"], ["*"])
    weak = make_token(models, "weak", ["predict", "read"], ["f"])
    server = await start_server(auth=AUTH, tls={"cert": str(cert), "key": str(key)}, log={"level": "error"})
    tokens = (right, "", right, weak, right, right[:-2] + "AA", "eyJhbGciOiJub25lIn0.e30.", right)
    addresses = [f"localhost:{address.port}" for address in (server.grpc, server.control, server.http)]
    sender = Sender(*addresses, Tls(ca=ca), tokens)
    all_messages = some_messages(SEED + 1, SECURED, data_transport)
    faults: list[str] = []

    async def send_some() -> None:
        for message in all_messages:
            faults.extend(filter(None, [await sender.send(message)]))

    await asyncio.gather(*(send_some() for _ in range(8)))
    await sender.close()

    assert not faults, faults[0]
    assert sender.answers["OK"] > SECURED // 40, "valid messages are among them"
    refused = ("UNAUTHENTICATED", "PERMISSION_DENIED", *(("401", "403") if data_transport == TRANSPORTS[0] else ()))
    assert min(sender.answers[one] for one in refused) > 0
    headers = dict(bearer(right))
    verify = Tls(ca=ca).context()
    verify.set_alpn_protocols(["http/1.1"])
    async with httpx.AsyncClient(base_url=f"https://{addresses[2]}", verify=verify, headers=headers) as client:
        metrics = (await client.get("/metrics")).text
    unexpected = re.findall(r"^turnout_unexpected_errors_total\{.*\} (.*)$", metrics, re.MULTILINE)
    assert set(unexpected) == {"0.0"}
