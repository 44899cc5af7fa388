"""What tracing costs: a server that traces against one that does not, in short windows that take turns."""

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

from load import Generator, Target
from servers import HERE, matmul
from tables import Row, compare_pairs, take_turns
from turnout.testing import publish_models

TITLE = "tiny model (64x64 MatMul) with tracing on against tracing off, both in one process"
IN_FLIGHT = 16

_SECONDS = 0.25
"""Of a window: what else goes on on the machine comes and goes within seconds, and both shall see the same of it."""

_PAIRS = 16
"""Short pairs of windows for each window that was asked for. Ratios of a pair spread by a fifth: it takes hundreds."""

_PAIRS_OF_A_PROCESS = 12
"""Where its memory lies may favour one of the two: then another process."""

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
"""Takes every export and looks at none."""


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Requests a second and CPU of the process with a tenth of the requests traced, with none and with all."""
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
    """What one window saw: answers a second, and microseconds of CPU that each took in the servers' process."""

    rps: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class _Server:
    """One of the servers of a process."""

    grpc: str
    http: str
    pid: int
    generator: Generator

    def window(self, mode: str, seconds: float = _SECONDS) -> _Window:
        before = _cpu_seconds(self.pid)
        load = self.generator.run(Target(self.grpc, "tiny", "", "x", "f32", "1,64"), mode, IN_FLIGHT, seconds)
        return _Window(load.rps, (_cpu_seconds(self.pid) - before) / load.answers * 1e6)

    def metric(self, name: str, label: str = "") -> float:
        """Returns the sum of a metric's samples, of those that have the label where one is given."""
        with urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        samples = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        return sum(float(n) for labels, n in samples if label in labels)


def _pairs(
    start: Callable[[], AbstractContextManager[tuple[_Server, _Server]]], mode: str, count: int
) -> list[tuple[_Window, _Window]]:
    """Returns pairs of windows, without tracing and with, while both servers run the model on the event loop.

    A run that takes too long moves the model to threads for good. On a busy machine that happens to one server and not
    to another, and would be all that is seen. What such a process showed is measured again, in a new one.
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
    """Starts a process of two servers, without tracing and with. One that drops spans would be a cheap one."""
    tracing = {"tracing": {"endpoint": endpoint, "sample_ratio": share}}
    command = [sys.executable, str(HERE / "together.py"), str(models), "{}", json.dumps(tracing)]
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
