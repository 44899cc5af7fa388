"""Three servers behind a real Envoy, restarted one after the other, and clients that never try anything twice."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np

from fleet import NAMES, envoys_of, healthy, hosts
from ports import free_port
from processes import ServerProcess, serving
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

STREAM_LENGTH = 16
"""Predictions on one stream, which is closed then: a stream stays with its server for as long as it lasts."""

_GONE_SECONDS = 120.0


class Rolling:
    """The servers, and what is before them.

    Attributes:
        grpc, http: Where Envoy listens.
        restarts: How many servers were ended and started again.
    """

    def __init__(self, models: Path, stack: ExitStack, *, retries: bool, interval: str, delay: float) -> None:
        self._models = models
        self._delay = delay
        self._stacks: dict[str, ExitStack] = {}
        self._servers: dict[str, ServerProcess] = {}
        self._addresses = {name: (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}") for name in NAMES}
        self.restarts = 0
        stack.callback(lambda: [one.close() for one in self._stacks.values()])
        for name in NAMES:
            self._start(name)
        grpc_side, http_side = ([address[side] for address in self._addresses.values()] for side in (0, 1))
        listeners, self._admin = stack.enter_context(
            envoys_of(models.parent, {"predictions": grpc_side, "rest": http_side}, retries=retries, interval=interval)
        )
        self.grpc, self.http = listeners["predictions"], listeners["rest"]

    def restart(self, name: str) -> None:
        """Ends a server as a rolling update does, starts it again, and waits until Envoy sends to all of them.

        Raises:
            AssertionError: It did not end well, or does not come back.
        """
        server = self._servers.pop(name)
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.log.read_text()[-4000:]
        self._stacks.pop(name).close()
        self._start(name)
        deadline = time.monotonic() + _GONE_SECONDS
        while healthy(self._admin) < len(NAMES):
            assert time.monotonic() < deadline, f"Envoy does not take {name} for healthy"
            time.sleep(0.05)
        self.restarts += 1

    def shares(self) -> Mapping[str, float]:
        """Returns each server's share of all that Envoy has sent, of both protocols."""
        sent = Counter[str]()
        for cluster in hosts(self._admin).values():
            for name, host in zip(NAMES, cluster, strict=True):
                sent[name] += sum(int(one.get("value", 0)) for one in host["stats"] if one["name"] == "rq_total")
        return {name: round(sent[name] / sent.total(), 3) for name in NAMES}

    def retried(self) -> int:
        """Returns how many requests Envoy has sent anew."""
        answer = httpx.get(f"{self._admin}/stats", params={"filter": "upstream_rq_retry$", "format": "json"})
        return sum(one["value"] for one in json.loads(answer.text)["stats"] if "value" in one)

    def _start(self, name: str) -> None:
        address, http = self._addresses[name]
        environment = {
            "TURNOUT_SERVER_NAME": name, "TURNOUT_RUNTIME__RUNNERS": "1", "TURNOUT_DRAIN__DELAY_S": str(self._delay),
        }  # fmt: skip
        self._stacks[name] = ExitStack()
        self._servers[name] = self._stacks[name].enter_context(
            serving(self._models, grpc=address, http=http, **environment)
        )


@contextmanager
def rolling(models: Path, *, retries: bool, interval: str = "", delay: float = 5.0) -> Iterator[Rolling]:
    """Starts the servers and Envoy; ends all of it.

    Args:
        models: Their repository, with their state store in it.
        retries: Envoy asks another server where one refuses or is gone.
        interval: Between two looks of Envoy at a server's health; "" for what deploy/envoy says.
        delay: `drain.delay_s` of the servers, in seconds.
    """
    with ExitStack() as stack:
        yield Rolling(models, stack, retries=retries, interval=interval, delay=delay)


@dataclass
class Outcomes:
    """What became of predictions.

    Attributes:
        codes: By kind of client ("unary", "stream", "rest") and code: a gRPC status, or HTTP's.
        failures: The errors of a few of those that failed.
    """

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Predictions that were answered."""
        return sum(count for (_, code), count in self.codes.items() if code in ("OK", "200"))

    @property
    def failed(self) -> int:
        """Predictions that were not."""
        return self.codes.total() - self.answered

    def note(self, kind: str, code: str, count: int = 1, why: str = "") -> None:
        """Counts predictions."""
        self.codes[kind, code] += count
        if why and len(self.failures) < 20:
            self.failures.append(f"{kind} {code}: {why[:200]}")


@asynccontextmanager
async def load(
    servers: Rolling, model: str, x: np.ndarray, clients: Mapping[str, int], pause: float = 0.0
) -> AsyncIterator[Outcomes]:
    """Predicts through Envoy for as long as the context is entered; nothing is tried twice.

    Args:
        servers: Behind Envoy.
        model: The model, with an input x.
        x: What it is asked.
        clients: How many of each kind, "unary", "stream" and "rest", each with one request under way.
        pause: Seconds between two of a client's requests.
    """
    outcomes, over = Outcomes(), asyncio.Event()
    # Each gRPC client has a connection of its own, and neither it nor the library under it tries again.
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    request = pb.PredictRequest(model=model, inputs=[tensors.encode("x", x)])
    body = json.dumps({"inputs": {"x": x.tolist()}}).encode()
    headers = {"content-type": "application/json"}

    async def unary(stub: PredictionServiceStub) -> None:
        await stub.Predict(request, timeout=60)
        outcomes.note("unary", "OK")

    async def stream(stub: PredictionServiceStub) -> None:
        left = STREAM_LENGTH
        try:
            messages = (pb.PredictStreamRequest(request=_numbered(request, n)) for n in range(STREAM_LENGTH))
            async for answer in stub.PredictStream(messages, timeout=60):
                left -= 1
                if answer.HasField("response"):
                    outcomes.note("stream", "OK")
                else:
                    outcomes.note("stream", _name(answer.error.code), why=answer.error.message)
        except grpc.aio.AioRpcError as error:
            outcomes.note("stream", error.code().name, left, error.details() or "")
            return
        if left:
            outcomes.note("stream", "ended early", left)

    async def by_grpc(kind: str, once: Callable[[PredictionServiceStub], "asyncio.Future[None]"]) -> None:
        async with grpc.aio.insecure_channel(servers.grpc, options=options) as channel:
            stub = PredictionServiceStub(channel)
            while not over.is_set():
                try:
                    await once(stub)
                except grpc.aio.AioRpcError as error:
                    outcomes.note(kind, error.code().name, why=error.details() or "")
                await asyncio.sleep(pause)

    async def rest(client: httpx.AsyncClient) -> None:
        while not over.is_set():
            try:
                answer = await client.post(f"http://{servers.http}/predict/{model}", content=body, headers=headers)
                outcomes.note("rest", str(answer.status_code), why="" if answer.is_success else answer.text)
            except httpx.HTTPError as error:
                outcomes.note("rest", type(error).__name__, why=str(error))
            await asyncio.sleep(pause)

    async with httpx.AsyncClient(timeout=60) as client:
        tasks = [
            *(asyncio.create_task(by_grpc("unary", unary)) for _ in range(clients["unary"])),
            *(asyncio.create_task(by_grpc("stream", stream)) for _ in range(clients["stream"])),
            *(asyncio.create_task(rest(client)) for _ in range(clients["rest"])),
        ]
        try:
            yield outcomes
        finally:
            over.set()
            await asyncio.gather(*tasks)


def _numbered(request: pb.PredictRequest, number: int) -> pb.PredictRequest:
    numbered = pb.PredictRequest()
    numbered.CopyFrom(request)
    numbered.request_id = f"r{number}"
    return numbered


def _name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)
