"""Sends requests by the thousand and changes policies on a server under test."""

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
"""Bytes that a server may answer: all of it."""


@dataclass(frozen=True)
class Answer:
    """Who answered, and what: the models under test multiply by a factor of their own."""

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
    """A policy; canaries are written v3_3_0=0.05."""
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
    """Reads the metrics as Prometheus does; keys are a sample's name and its labels, as `key=value` in order."""
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
    """Reads who answered."""
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
    """Sends a request for each key over one stream; returns what came for each, in the keys' order.

    Without grpcio, whose client takes as long over a message as the server does: tests send tens of thousands.
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
    """Sends a request for each key as `send` does; answers in the keys' order. A failure fails the test."""
    items = await send(server, keys, *selected, **more)
    for item in items:
        assert item.HasField("response"), item.error
    return [read(item.response) for item in items]
