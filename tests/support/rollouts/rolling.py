"""Restarts three servers behind a real Envoy one after the other, while clients send requests without retries."""

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
"""Number of predictions on a stream before it is closed: a stream stays with its server for as long as it lasts."""

_GONE_SECONDS = 120.0


class Rolling:
    """The servers, with Envoy in front of them.

    Attributes:
        grpc, http: Addresses of Envoy.
        restarts: Number of servers that were restarted.
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
        """Stops a server like a rolling update, starts it again, and waits until Envoy uses all of them.

        Raises:
            AssertionError: The server did not end properly, or does not come back.
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
        """Returns each server's share of all requests that Envoy has sent, over both protocols."""
        sent = Counter[str]()
        for cluster in hosts(self._admin).values():
            for name, host in zip(NAMES, cluster, strict=True):
                sent[name] += sum(int(one.get("value", 0)) for one in host["stats"] if one["name"] == "rq_total")
        return {name: round(sent[name] / sent.total(), 3) for name in NAMES}

    def retried(self) -> int:
        """Returns how many requests Envoy has retried."""
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
    """Starts the servers and Envoy, and stops them at the end.

    Args:
        models: Repository of the servers, which contains their state store.
        retries: Whether Envoy tries another server if one refuses a request or is gone.
        interval: Interval between Envoy's health checks; "" for that in deploy/envoy.
        delay: `drain.delay_s` of the servers, in seconds.
    """
    with ExitStack() as stack:
        yield Rolling(models, stack, retries=retries, interval=interval, delay=delay)


@dataclass
class Outcomes:
    """Results of predictions.

    Attributes:
        codes: Number of predictions by kind of client ("unary", "stream", "rest") and gRPC or HTTP status.
        failures: Errors of a few of those that failed.
    """

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Number of predictions that were answered."""
        return sum(count for (_, code), count in self.codes.items() if code in ("OK", "200"))

    @property
    def failed(self) -> int:
        """Number of predictions that failed."""
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
    """Sends predictions through Envoy while the context is entered, without retries.

    Args:
        servers: The servers behind Envoy.
        model: Name of the model, which has an input x.
        x: Value of the input.
        clients: Number of clients of each kind, "unary", "stream" and "rest", each with one request at a time.
        pause: Seconds between two requests of a client.
    """
    outcomes, over = Outcomes(), asyncio.Event()
    # Each gRPC client has its own connection, and neither it nor the library below it retries.
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
