"""The cost of tracing: a server with tracing compared with one without, in short alternating windows."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import onnx

from harness.comparison import Row, compare_pairs, take_turns
from harness.load import Generator, Target
from harness.servers import HARNESS, matmul
from turnout.testing import publish_models

TITLE = "tiny model (64x64 MatMul) with tracing on against tracing off, both in one process"
IN_FLIGHT = 16

_SECONDS = 0.25
"""Length of a window, in seconds. It is short because other load on the machine varies within seconds and should affect
both servers equally."""

_PAIRS = 16
"""Number of short pairs of windows for each requested window. The ratios of pairs vary by a fifth, so hundreds are
needed."""

_PAIRS_OF_A_PROCESS = 12
"""Number of pairs measured in one process. The memory layout of a process may favour one of its servers."""

_TRIES = 20

_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""A collector that accepts all exports and ignores them."""


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares requests per second and CPU of the process with a tenth, none and all of the requests traced."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_models(scratch / "models", {"tiny@1.0.0": model})
    rows: list[Row] = []
    with _collector() as endpoint:
        for share, factor in ((0.1, 1), (0, 4), (1, 4)):
            start = partial(_two_servers, scratch / "models", generator, endpoint, share)
            for mode in ("unary", "stream"):
                found = _pairs(start, mode, windows * _PAIRS // factor)
                name = f"{mode}, {share:.0%} traced"
                rates = [(theirs.rps, ours.rps) for theirs, ours in found]
                costs = [(theirs.cpu_us, ours.cpu_us) for theirs, ours in found]
                rows.append(compare_pairs(name, rates, 0.97 if share == 0.1 else None))
                rows.append(compare_pairs(f"{name}: CPU", costs, None, "us/request", at_least=False))
    return rows


@dataclass(frozen=True, slots=True)
class _Window:
    """The results of one window: responses per second, and CPU microseconds per response in the servers' process."""

    rps: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class _Server:
    """One of the servers in a process."""

    grpc: str
    http: str
    pid: int
    generator: Generator

    def window(self, mode: str, seconds: float = _SECONDS) -> _Window:
        before = _cpu_seconds(self.pid)
        load = self.generator.run(Target(self.grpc, "tiny", "", "x", "f32", "1,64"), mode, IN_FLIGHT, seconds)
        return _Window(load.rps, (_cpu_seconds(self.pid) - before) / load.answers * 1e6)

    def metric(self, name: str, label: str = "") -> float:
        """Returns the sum of a metric's samples, or only of those whose labels contain `label`."""
        with urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        samples = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        return sum(float(n) for labels, n in samples if label in labels)


def _pairs(
    start: Callable[[], AbstractContextManager[tuple[_Server, _Server]]], mode: str, count: int
) -> list[tuple[_Window, _Window]]:
    """Returns pairs of windows, without and with tracing, in which both servers run the model on the event loop.

    A run that takes too long moves the model to threads permanently. On a busy machine this may happen to only one of
    the servers, and would dominate the comparison. The results of such a process are discarded and measured again.
    """
    pairs: list[tuple[_Window, _Window]] = []
    tries = 0
    while len(pairs) < count:
        with start() as (off, on):
            wanted = min(_PAIRS_OF_A_PROCESS, count - len(pairs))
            seen = take_turns(lambda off=off: off.window(mode), lambda on=on: on.window(mode), wanted)
            if not any(server.metric("turnout_queue_duration_seconds_sum") for server in (off, on)):
                pairs += seen
                continue
        tries += 1
        if tries > _TRIES:
            raise SystemExit("the machine is too busy: the model does not stay on the event loop")
    return pairs


@contextmanager
def _two_servers(models: Path, generator: Generator, endpoint: str, share: float) -> Iterator[tuple[_Server, _Server]]:
    """Starts a process with two servers, without and with tracing. Fails if spans are lost, which would be cheaper."""
    tracing = {"tracing": {"endpoint": endpoint, "sample_ratio": share}}
    command = [sys.executable, str(HARNESS / "together.py"), str(models), "{}", json.dumps(tracing)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            off, on = (_Server(a["grpc"], a["http"], process.pid, generator) for a in addresses)
            for server in (off, on):
                for mode in ("unary", "stream"):
                    server.window(mode, 0.5)
            yield off, on
            lost = [on.metric("turnout_trace_spans_total", o) for o in ("dropped", "rejected", "failed")]
            if any(lost) or (share and not on.metric("turnout_trace_spans_total", "exported")):
                raise SystemExit(f"spans were lost: {lost}")
        finally:
            process.kill()


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _collector() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
