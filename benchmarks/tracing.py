"""What tracing costs: a server that traces against one that does not, in short windows that take turns."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import onnx

from load import Generator, Target
from servers import HERE, matmul, publish_all
from tables import Row, compare_pairs

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
    publish_all(scratch / "models", {("tiny", "1.0.0"): model})
    rows: list[Row] = []
    with _collector() as endpoint:
        for share, factor in ((0.1, 1), (0, 4), (1, 4)):
            pairs = _Pairs(scratch / "models", generator, endpoint, share)
            for mode in ("unary", "stream"):
                found = pairs.measure(mode, windows * _PAIRS // factor)
                name = f"{mode}, {share:.0%} traced"
                rates = [(theirs.rps, ours.rps) for theirs, ours in found]
                costs = [(theirs.cpu_us, ours.cpu_us) for theirs, ours in found]
                rows.append(compare_pairs(name, rates, 0.97 if share == 0.1 else None))
                rows.append(compare_pairs(f"{name}: CPU", costs, None, "us/request", at_least=False))
            pairs.close()
    return rows


@dataclass(frozen=True, slots=True)
class _Window:
    """What one window saw: answers a second, and microseconds of CPU that each took in the servers' process."""

    rps: float
    cpu_us: float


class _Pairs:
    """Measures two servers of one process in turn, while both run the model on the event loop.

    A run that takes too long moves the model to threads for good. On a busy machine that happens to one server and not
    to another, and would be all that is seen. Such a pair is measured again, in a new process.
    """

    def __init__(self, models: Path, generator: Generator, endpoint: str, share: float) -> None:
        self._models, self._generator, self._share = models, generator, share
        self._tracing = {"tracing": {"endpoint": endpoint, "sample_ratio": share}}
        self._stack = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self._servers: Sequence[dict[str, str]] = ()

    def measure(self, mode: str, count: int) -> list[tuple[_Window, _Window]]:
        """Returns pairs of windows, without tracing and with; who comes first takes turns too."""
        pairs: list[tuple[_Window, _Window]] = []
        tries = 0
        while len(pairs) < count:
            if self._process is None or (pairs and len(pairs) % _PAIRS_OF_A_PROCESS == 0):
                self.close()
                self._start()
            one, other = (0, 1) if len(pairs) % 2 else (1, 0)
            first, second = self._window(one, mode, _SECONDS), self._window(other, mode, _SECONDS)
            if any(_metric(server, "turnout_queue_duration_seconds_sum") for server in self._servers):
                tries += 1
                if tries > _TRIES:
                    raise SystemExit("the machine is too busy: the model does not stay on the event loop")
                self.close()
            else:
                pairs.append((first, second) if one == 0 else (second, first))
        return pairs

    def close(self) -> None:
        """Ends the process. One that drops spans would be a cheap one."""
        if self._servers:
            tracing = self._servers[1]
            lost = [_metric(tracing, "turnout_trace_spans_total", o) for o in ("dropped", "rejected", "failed")]
            if any(lost) or (self._share and not _metric(tracing, "turnout_trace_spans_total", "exported")):
                raise SystemExit(f"spans were lost: {lost}")
        self._stack.close()
        self._process, self._servers = None, ()

    def _window(self, server: int, mode: str, seconds: float) -> _Window:
        assert self._process is not None
        before = _cpu_seconds(self._process.pid)
        load = self._generator.run(_target(self._servers[server]["grpc"]), mode, IN_FLIGHT, seconds)
        return _Window(load.rps, (_cpu_seconds(self._process.pid) - before) / load.answers * 1e6)

    def _start(self) -> None:
        command = [sys.executable, str(HERE / "together.py"), str(self._models), "{}", json.dumps(self._tracing)]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._stack.callback(process.kill)
        assert process.stdout is not None
        self._process, self._servers = process, json.loads(process.stdout.readline())
        for server in (0, 1):
            for mode in ("unary", "stream"):
                self._window(server, mode, 0.5)


def _target(address: str) -> Target:
    return Target(address, "tiny", "", "x", "f32", "1,64")


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _metric(server: dict[str, str], name: str, label: str = "") -> float:
    """Returns the sum of a metric's samples, of those that have the label where one is given."""
    with urlopen(f"http://{server['http']}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(n) for labels, n in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE) if label in labels)


@contextmanager
def _collector() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
