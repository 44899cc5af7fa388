"""Sends thousands of requests to a server under test, and changes its policies."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from hyperframe.frame import WindowUpdateFrame
from prometheus_client.parser import text_string_to_metric_families

from http2_client import CALL, Http2Client, message, messages
from turnout.app.server import Running
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as v1
from turnout_proto.v1 import traffic_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

X = tensors.encode("x", np.ones((1, 4), np.float32))

_ROOM = 1 << 30
"""Flow-control window in bytes that is large enough for all answers."""


@dataclass(frozen=True)
class Answer:
    """Which version answered, and with which factor: each model under test multiplies by its own."""

    version: str
    role: str
    epoch: int
    factor: float


@asynccontextmanager
async def control_of(server: Running) -> AsyncIterator[ControlServiceStub]:
    """Opens the control service."""
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        yield ControlServiceStub(channel)


def policy(baseline: str, shadows: Mapping[str, float] | None = None, **canaries: float) -> pb.Policy:
    """Returns a policy. Canaries are written v3_3_0=0.05."""
    return pb.Policy(
        baseline=baseline,
        canaries=[pb.Canary(version=name[1:].replace("_", "."), weight=w) for name, w in canaries.items()],
        shadows=[pb.Shadow(version=version, rate=rate) for version, rate in (shadows or {}).items()],
    )


async def put(server: Running, wanted: pb.Policy, model: str = "m", **change: object) -> pb.TrafficState:
    """Puts a policy in force."""
    async with control_of(server) as control:
        request = pb.SetTrafficRequest(model=model, policy=wanted, change=pb.TrafficChange(**change))
        return (await control.SetTraffic(request)).state


async def scrape(server: Running) -> dict[tuple[str, ...], float]:
    """Reads the metrics like Prometheus. Keys consist of a sample's name and its labels, as `key=value`, sorted."""
    text = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://{server.http}/metrics", timeout=60).read().decode()
    )
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def ended_by_code(server: Running) -> dict[str, float]:
    """Returns the requests that ended, by code; no code by which none did."""
    codes: dict[str, float] = {}
    for (name, *labels), value in (await scrape(server)).items():
        if name == "turnout_requests_total" and value:
            code = dict(label.split("=", 1) for label in labels)["code"]
            codes[code] = codes.get(code, 0.0) + value
    return codes


def read(response: v1.PredictResponse) -> Answer:
    """Reads which version answered."""
    route = response.route
    role = v1.Role.Name(route.role).removeprefix("ROLE_").lower()
    factor = float(tensors.decode(response.outputs[0]).ravel()[0])
    return Answer(route.version, role, route.epoch, factor)


async def send(
    server: Running,
    keys: Iterable[str],
    selector: str = "",
    model: str = "m",
    metadata: Sequence[tuple[str, str]] = (),
) -> list[v1.PredictStreamResponse]:
    """Sends a request for each key over one stream. Returns the results in the order of the keys.

    Does not use grpcio, whose client takes as long for a message as the server: tests send tens of thousands.
    """
    requests = [
        v1.PredictRequest(model=model, version=selector, inputs=[X], request_id=str(number), routing_key=key)
        for number, key in enumerate(keys)
    ]
    sent = b"".join(message(v1.PredictStreamRequest(request=one).SerializeToString()) for one in requests)
    async with Http2Client(server.grpc.host, server.grpc.port, window=_ROOM, release_memory=False) as client:
        client.frame(WindowUpdateFrame(0, window_increment=_ROOM))
        stream = client.open("/turnout.v1.PredictionService/PredictStream", (*CALL, *metadata))
        await client.send(stream, sent, end=True)
        ended = await client.answer(stream, seconds=120)
    assert (ended.reset, ended.grpc_status) == (None, 0), ended.grpc_message
    items = {item.request_id: item for item in map(v1.PredictStreamResponse.FromString, messages(ended.body))}
    assert len(items) == len(requests)
    return [items[one.request_id] for one in requests]


async def ask(server: Running, keys: Iterable[str], *selected: str, **more: Any) -> list[Answer]:
    """Sends a request for each key like `send`. Returns the answers in the order of the keys; fails on errors."""
    items = await send(server, keys, *selected, **more)
    for item in items:
        assert item.HasField("response"), item.error
    return [read(item.response) for item in items]
