"""What tracing costs: a server that traces against one that does not, in interleaved windows."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import onnx

from load import Generator, Target
from servers import Served, matmul, publish_all, turnout
from tables import Row, compare

TITLE = "tiny model (64x64 MatMul) with tracing on against tracing off"
IN_FLIGHT = 16

_TRIES = 20

_WINDOWS_OF_A_PAIR = 3
"""Two processes of one program differ by up to a tenth, for as long as they run; so both are started anew so often."""

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
    """Requests a second and CPU of the server with a tenth of the requests traced; the CPU with none and with all."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_all(scratch / "models", {("tiny", "1.0.0"): model})
    rows: list[Row] = []
    with ExitStack() as stack:
        endpoint = stack.enter_context(_collector())
        on = {"TURNOUT_TRACING__ENDPOINT": endpoint}
        off, tenth, none, all_ = (
            stack.enter_context(contextlib.closing(_Server(scratch / "models", generator, settings)))
            for settings in ({}, *(on | {"TURNOUT_TRACING__SAMPLE_RATIO": ratio} for ratio in ("0.1", "0", "1")))
        )
        for mode in ("unary", "stream"):
            pairs = []
            for number in range(windows):
                if number % _WINDOWS_OF_A_PAIR == 0:
                    off.close()
                    tenth.close()
                pairs.append((off.window(mode, seconds), tenth.window(mode, seconds)))
            rates = [(theirs.rps, ours.rps) for theirs, ours in pairs]
            rows.append(_row(f"{mode}, 10 % traced", rates, 0.97, "requests/s", at_least=True))
            rows.append(_row(f"{mode}, 10 % traced: CPU", _cpu(pairs), 1 / 0.97, "us/request"))
        for name, server in (("0 %", none), ("100 %", all_)):
            for mode in ("unary", "stream"):
                pairs = [(off.window(mode, seconds), server.window(mode, seconds)) for _ in range(windows)]
                rows.append(_row(f"{mode}, {name} traced: CPU", _cpu(pairs), None, "us/request"))
        tenth.check_spans()
    return rows


@dataclass(frozen=True, slots=True)
class _Window:
    """What one window saw: answers a second, and microseconds of CPU that each took in the server's process."""

    rps: float
    cpu_us: float


class _Server:
    """A server that is measured only while its model runs on the event loop.

    A run that takes too long moves the model to threads for good. On a busy machine that happens to one server and not
    to another, and would be all that is seen. Such a window is measured again, with a new server.
    """

    def __init__(self, models: Path, generator: Generator, settings: Mapping[str, str]) -> None:
        self._models, self._generator = models, generator
        self._environment = os.environ | settings
        self._stack = ExitStack()
        self._served: Served | None = None

    def window(self, mode: str, seconds: float) -> _Window:
        for _ in range(_TRIES):
            served = self._served or self._start()
            before = _cpu_seconds(served.pid)
            load = self._generator.run(_target(served), mode, IN_FLIGHT, seconds)
            took = _cpu_seconds(served.pid) - before
            if _metric(served, "turnout_queue_duration_seconds_sum") == 0:
                return _Window(load.rps, took / load.answers * 1e6)
            self.close()
        raise SystemExit("the machine is too busy: the model does not stay on the event loop")

    def check_spans(self) -> None:
        """A server that drops spans would be a cheap one."""
        assert self._served is not None
        lost = [_metric(self._served, "turnout_trace_spans_total", o) for o in ("dropped", "rejected", "failed")]
        if any(lost) or not _metric(self._served, "turnout_trace_spans_total", "exported"):
            raise SystemExit(f"spans were lost: {lost}")

    def close(self) -> None:
        self._stack.close()
        self._served = None

    def _start(self) -> Served:
        served = self._served = self._stack.enter_context(turnout(self._models, self._environment))
        for mode in ("unary", "stream"):
            self._generator.run(_target(served), mode, IN_FLIGHT, 0.5)
        return served


def _row(
    name: str,
    pairs: Sequence[tuple[float, float]],
    target: float | None,
    unit: str,
    *,
    at_least: bool = False,
) -> Row:
    """Compares what is in `pairs`, theirs before ours."""
    left = iter([value for pair in pairs for value in pair])
    return compare(name, lambda: next(left), lambda: next(left), len(pairs), target, unit, at_least=at_least)


def _cpu(pairs: Sequence[tuple[_Window, _Window]]) -> list[tuple[float, float]]:
    return [(theirs.cpu_us, ours.cpu_us) for theirs, ours in pairs]


def _target(server: Served) -> Target:
    return Target(server.grpc, "tiny", "", "x", "f32", "1,64")


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _metric(server: Served, name: str, label: str = "") -> float:
    """Returns the sum of a metric's samples, of those that have the label where one is given."""
    with urlopen(f"http://{server.http}/metrics", timeout=30) as answer:
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
