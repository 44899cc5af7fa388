"""The cost of each stage of a request in the serving process, without a transport, for one request of the tiny model.

For streams, it is the cost of an item, from one ASGI event to the other: if each item arrives in a separate event after
the previous answer, and if sixteen arrive in one event.

    python benchmarks/stages.py [--instructions]

Times are microseconds of CPU in the fastest of many rounds, which other work on the machine disturbs least.
`--instructions` also counts instructions with valgrind's callgrind, which no other work disturbs. That takes minutes.
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from harness.servers import matmul
from turnout.admission.requests import Admission, ReceiveBudget
from turnout.app.server import running
from turnout.config import Address, Routing, Runtime, Settings
from turnout.routing.request_metadata import PreferenceReader
from turnout.rpc.exchange import Endpoint
from turnout.rpc.oip.codec import FIELDS as INFER_FIELDS
from turnout.rpc.oip.exchange import InferEndpoint, InferExchange
from turnout.rpc.parsing.templates import Templates
from turnout.rpc.prediction import FIELDS as PREDICT_FIELDS
from turnout.rpc.prediction import PredictExchange
from turnout.rpc.server import Services, data_methods
from turnout.rpc.transport.asgi.application import GrpcApplication
from turnout.rpc.transport.asgi.call import CallLimits
from turnout.rpc.transport.asgi.eager_tasks import ENDED
from turnout.rpc.transport.asgi.framing import PREFIX
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.asgi.statuses import Event
from turnout.rpc.transport.port import RpcCall
from turnout.serving.data_plane.data_plane import Pending
from turnout.serving.data_plane.inference import InferenceResult
from turnout.serving.inputs.limits import DEFAULT_LIMITS
from turnout.telemetry.logging import make_logger
from turnout.testing import publish_models
from turnout.threads import Threads
from turnout_proto import tensors
from turnout_proto.oip.inference_pb2 import ModelInferRequest
from turnout_proto.v1.prediction_pb2 import PredictRequest, PredictStreamRequest

_CALLS, _ITEMS, _ROUNDS = 2000, 960, 15
_CALLS_UNDER_VALGRIND = 300

_TOGETHER = 16

Stage = Callable[[], object]


class _Quiet(RpcCall):
    """A call without a deadline, credentials or special metadata."""

    metadata = (("user-agent", "grpc-c++/1.51.1"), ("te", "trailers"), ("content-type", "application/grpc"))
    deadline = None
    host = "127.0.0.1"
    certificate = authorization = ""

    def mentions(self, keys: frozenset[bytes]) -> bool:
        """Returns False: the call has none of the keys."""
        return False


def stages(services: Services) -> Mapping[str, Mapping[str, Stage]]:
    """Returns functions that run each stage once, by protocol and name."""
    x = np.ones((1, 64), np.float32)
    guard = replace(services.guard, limits=DEFAULT_LIMITS, max_message_bytes=1 << 26)
    preferences = PreferenceReader(Routing())
    infer = ModelInferRequest(model_name="tiny", raw_input_contents=[x.tobytes()])
    infer.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    predict = PredictRequest(model="tiny", inputs=[tensors.encode("x", x)])
    keyed = PredictRequest(model="tiny", inputs=[tensors.encode("x", x)], routing_key="tenant 1")
    predicting = Endpoint.of("bench", "Predict", PredictRequest, preferences, guard, Templates(PREDICT_FIELDS))
    templates, memory = Templates(INFER_FIELDS), services.oip.memory
    inferring = InferEndpoint.of("bench", "ModelInfer", ModelInferRequest, preferences, guard, templates, memory=memory)
    v1, oip = predict.SerializeToString(), infer.SerializeToString()
    with_key = keyed.SerializeToString()
    over = _asgi(_application(services))
    return {
        "turnout.v1": {
            **_stages(services, lambda: PredictExchange(predicting, v1, _Quiet())),
            "over ASGI": over("/turnout.v1.PredictionService/Predict", v1),
        },
        "turnout.v1, with a routing key": {
            **_stages(services, lambda: PredictExchange(predicting, with_key, _Quiet())),
            "over ASGI": over("/turnout.v1.PredictionService/Predict", with_key),
        },
        "Open Inference Protocol": {
            **_stages(services, lambda: InferExchange(inferring, oip, _Quiet())),
            "over ASGI": over("/inference.GRPCInferenceService/ModelInfer", oip),
        },
    }


def _application(services: Services) -> GrpcApplication:
    settings = Settings()
    threads, unsent = Threads("compression"), services.guard.unsent
    limits = CallLimits(1 << 26, 60.0, settings.transport.gzip, ReceiveBudget(1 << 29), threads, unsent)
    return GrpcApplication(
        data_methods(services, settings), RunningCalls(), limits, Admission(1000), services.guard.log
    )


def _scope(path: str) -> dict[str, object]:
    headers = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"grpc-c++/1.51.1")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    return scope | {"headers": headers, "client": ("127.0.0.1", 1), "extensions": {"http.response.trailers": {}}}


def _framed(message: bytes) -> bytes:
    return PREFIX.pack(0, len(message)) + message


def _asgi(application: GrpcApplication) -> Callable[[str, bytes], Stage]:
    """Returns a function that creates the stage of a whole call over ASGI, from the request event to the responses."""

    async def send(_: Event) -> None:
        pass

    def stage(path: str, message: bytes) -> Stage:
        event = {"type": "http.request", "body": _framed(message), "more_body": True}
        scope = _scope(path)

        async def receive() -> Event:
            return event

        def call() -> None:
            assert application(scope, receive, send) is ENDED, "it waited for nothing"

        return call

    return stage


class _Stream:
    """A client of one stream over ASGI, which sends items in groups, each after the previous group was answered."""

    def __init__(self, items: Sequence[bytes], together: int) -> None:
        self._bodies = [b"".join(items[at : at + together]) for at in range(0, len(items), together)]
        self._together = together
        self._left = 0
        self._answered = asyncio.Event()
        self._answered.set()

    async def receive(self) -> Event:
        """Returns the next group of items, or the end of the request after the last."""
        await self._answered.wait()
        self._answered.clear()
        if not self._bodies:
            return {"type": "http.request", "body": b"", "more_body": False}
        self._left = self._together
        return {"type": "http.request", "body": self._bodies.pop(), "more_body": True}

    async def send(self, event: Event) -> None:
        """Counts the responses."""
        body, at = event.get("body", b""), 0
        while at < len(body):
            at += PREFIX.size + PREFIX.unpack_from(body, at)[1]
            self._left -= 1
        if body and not self._left:
            self._answered.set()


async def _streamed(services: Services) -> Mapping[tuple[str, str], float]:
    """Returns the CPU time of a stream item in microseconds, by protocol and stage."""
    x = np.ones((1, 64), np.float32)
    names = [str(number) for number in range(_TOGETHER)]
    predicts = [
        PredictStreamRequest(request=PredictRequest(model="tiny", inputs=[tensors.encode("x", x)], request_id=name))
        for name in names
    ]
    infers = [ModelInferRequest(model_name="tiny", raw_input_contents=[x.tobytes()], id=name) for name in names]
    for infer in infers:
        infer.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    application = _application(services)
    measured: dict[tuple[str, str], float] = {}
    for protocol, path, messages in (
        ("turnout.v1", "/turnout.v1.PredictionService/PredictStream", predicts),
        ("Open Inference Protocol", "/inference.GRPCInferenceService/ModelStreamInfer", infers),
    ):
        items = [_framed(message.SerializeToString()) for message in messages] * (_ITEMS // _TOGETHER)
        for together, stage in ((1, "an item of a stream, alone"), (_TOGETHER, f"the same, {_TOGETHER} together")):
            quickest = float("inf")
            for _ in range(_ROUNDS):
                client = _Stream(items, together)
                start = time.thread_time()
                await application(_scope(path), client.receive, client.send)
                quickest = min(quickest, time.thread_time() - start)
            measured[protocol, stage] = quickest / len(items) * 1e6
    return measured


def _stages(
    services: Services, arrive: Callable[[], PredictExchange] | Callable[[], InferExchange]
) -> Mapping[str, Stage]:
    router, plane = services.router, services.inference
    arrive().decode()
    exchange = arrive()  # parsed from the template of the first
    request = exchange.decode()
    route = router.route(request.model, request.selector)
    handle = route.handle
    names = handle.check(request.inputs, request.outputs)
    answered = handle.infer_now(request.inputs, request.outputs)
    assert answered is not None, "the tiny model runs inline"
    assert handle.loaded is not None
    run, answer = handle.loaded.run, answered[1]
    result = InferenceResult(names, answer, route)
    recorder = handle.recorder.role(route.role)

    def parse() -> None:
        arrive().parse()

    def whole() -> None:
        assert not isinstance(plane.begin(arrive()), Pending), "it ran inline"

    return {
        "parse": parse,
        "decode": lambda: arrive().decode(),
        "route": lambda: router.route(request.model, request.selector, request.routing_key),
        "validate": lambda: handle.check(request.inputs, request.outputs),
        "run": lambda: run(request.inputs, names),
        "count": lambda: recorder.answered(1e-4, answer.queue_seconds, answer.compute_seconds),
        "encode": lambda: exchange.encode(request, result),
        "all of it": whole,
    }


def _microseconds(stage: Stage) -> float:
    quickest = float("inf")
    for _ in range(_ROUNDS):
        start = time.thread_time()
        for _ in range(_CALLS):
            stage()
        quickest = min(quickest, time.thread_time() - start)
    return quickest / _CALLS * 1e6


def _count_instructions(name: str, stage: Stage) -> None:
    """Runs a stage many times, and makes callgrind, under which this process runs, record the instructions."""
    stage()
    for calls, label in ((0, "nothing"), (_CALLS_UNDER_VALGRIND, name)):
        _control("--zero")
        for _ in range(calls):
            stage()
        _control(f"--dump={label}")


def _control(command: str) -> None:
    program = ["callgrind_control", command, str(os.getpid())]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)


async def _run(models: Path, *, counting: bool) -> Mapping[tuple[str, str], float]:
    anywhere = Address("127.0.0.1", 0)
    # A high threshold, since on a busy machine a run may take so long that the version would no longer run inline.
    settings = Settings(
        models=models, grpc=anywhere, http=anywhere, control=anywhere, runtime=Runtime(inline_threshold_us=100_000)
    )
    measured: dict[tuple[str, str], float] = {}
    async with running(settings, make_logger("json", "error")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        for protocol, by_name in stages(server.services).items():
            for name, stage in by_name.items():
                if counting:
                    _count_instructions(f"{protocol}/{name}", stage)
                else:
                    measured[protocol, name] = _microseconds(stage)
        if not counting:
            measured |= await _streamed(server.services)
    return measured


def _instructions(models: Path, scratch: Path) -> Mapping[tuple[str, str], float]:
    """Returns the number of instructions per call, by protocol and stage."""
    out = scratch / "callgrind.out"
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command = [*tool, sys.executable, __file__, "--count", str(models)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    counted: dict[tuple[str, str], float] = {}
    nothing = 0
    for dump in sorted(scratch.glob("callgrind.out.*"), key=lambda path: int(path.suffix[1:])):
        head = dump.read_text(errors="replace")
        label = re.search(r"^desc: Trigger: dump (.+)$", head, re.MULTILINE)
        total = re.search(r"^summary: (\d+)", head, re.MULTILINE)
        if label is None or total is None:
            continue  # not one of the dumps requested by _count_instructions
        if label[1] == "nothing":
            nothing = int(total[1])
        else:
            protocol, _, name = label[1].partition("/")
            counted[protocol, name] = (int(total[1]) - nothing) / _CALLS_UNDER_VALGRIND
    return counted


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true", help="also count instructions, with valgrind")
    parser.add_argument("--count", metavar="MODELS", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count is not None:
        asyncio.run(_run(arguments.count, counting=True))
        return 0
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as directory:
        scratch = Path(directory)
        onnx.save(matmul(), scratch / "tiny.onnx")
        publish_models(scratch / "models", {"tiny@1.0.0": scratch / "tiny.onnx"})
        times = asyncio.run(_run(scratch / "models", counting=False))
        counts: Mapping[tuple[str, str], float] = {}
        if arguments.instructions:
            if shutil.which("valgrind") is None:
                parser.error("valgrind is not installed (Debian: apt-get install valgrind)")
            counts = _instructions(scratch / "models", scratch)
    table = Table("protocol", "stage", "us", "instructions", title="a request of the tiny model, by stage")
    for protocol, name in times:
        instructions = f"{counts[protocol, name]:,.0f}" if (protocol, name) in counts else ""
        table.add_row(protocol, name, f"{times[protocol, name]:.2f}", instructions)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
