"""Sends requests whose answers are compared with those of shadows, and waits for the comparisons."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from routing_wire import control_of
from turnout.app.server import Running
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as v1
from turnout_proto.v1 import traffic_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

PATIENT = {"max_lag_s": 100, "timeout_s": 100, "max_queue_requests": 10_000}
"""Settings of a lane that neither drops copies nor times out because the machine is slow."""

LIMIT_SECONDS = 100


@dataclass(frozen=True)
class Live:
    """What the clients received.

    Attributes:
        answers: Answers in the order of the requests.
        errors: Statuses other than OK.
    """

    answers: Sequence[v1.PredictResponse]
    errors: Sequence[grpc.aio.AioRpcError]

    def outputs(self, name: str) -> list[list[float]]:
        """Returns each answer's values of one output, flattened."""
        return [
            tensors.decode(tensor).ravel().tolist()
            for answer in self.answers
            for tensor in answer.outputs
            if tensor.name == name
        ]


async def predict(server: Running, requests: Sequence[v1.PredictRequest], at_once: int = 8) -> Live:
    """Sends requests, at most `at_once` at the same time."""
    answers: list[v1.PredictResponse | grpc.aio.AioRpcError] = [v1.PredictResponse()] * len(requests)
    left = iter(enumerate(requests))
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = PredictionServiceStub(channel)

        async def client() -> None:
            for number, call in left:
                try:
                    answers[number] = await stub.Predict(call, timeout=30)
                except grpc.aio.AioRpcError as error:
                    answers[number] = error

        await asyncio.gather(*(client() for _ in range(at_once)))
    return Live(
        [answer for answer in answers if isinstance(answer, v1.PredictResponse)],
        [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)],
    )


def numbered(count: int, start: int = 0, **inputs: object) -> list[v1.PredictRequest]:
    """Returns requests for model `m` with the same inputs and different ids."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return [request("m", request_id=f"r{number}", **arrays) for number in range(start, start + count)]


async def report(server: Running, version: str, worst: int = 0) -> pb.ShadowReport:
    """Gets the report of one shadow of model `m`."""
    async with control_of(server) as control:
        answer = await control.GetShadowReport(pb.GetShadowReportRequest(model="m", worst=worst))
    (found,) = [shadow for shadow in answer.shadows if shadow.version == version]
    return found


def accounted(shadow: pb.ShadowReport) -> int:
    """Returns the number of copies whose outcome is known."""
    return sum(shadow.outcomes.values()) + sum(shadow.dropped.values())


async def settled(server: Running, version: str, copies: int, worst: int = 0, kept: int = 0) -> pb.ShadowReport:
    """Waits until the outcome of `copies` copies is known, and `kept` disagreements are kept.

    A redaction hook runs after the outcome is counted. Fails if that takes too long, or if there are more copies.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while accounted(comparison := await report(server, version, worst)) < copies or len(comparison.worst) < kept:
        assert time.monotonic() < deadline, comparison
        await asyncio.sleep(0.1)
    assert accounted(comparison) == copies
    return comparison
