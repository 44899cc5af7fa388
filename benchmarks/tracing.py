"""What tracing costs: a server that traces against one that does not, in interleaved windows."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import onnx

from load import Generator, Load, Target
from servers import Served, matmul, publish_all, turnout
from tables import Row, compare

TITLE = "tiny model (64x64 MatMul) with tracing on against tracing off"
IN_FLIGHT = 16

_ON_THE_LOOP = {"TURNOUT_RUNTIME__INLINE_THRESHOLD_US": "5000"}
"""A run that is often interrupted has its model moved to threads, for good. On a busy machine that happens to one
server and not to the other, and would be all that is seen."""

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
    """Requests a second with a tenth of them traced; and what a request costs with a tenth, with none and with all."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_all(scratch / "models", {("tiny", "1.0.0"): model})
    with ExitStack() as stack:
        endpoint = stack.enter_context(_collector())

        def serve(ratio: float) -> Served:
            settings = {"TURNOUT_TRACING__ENDPOINT": endpoint, "TURNOUT_TRACING__SAMPLE_RATIO": str(ratio)}
            environment = os.environ | _ON_THE_LOOP | (settings if ratio >= 0 else {})
            return stack.enter_context(turnout(scratch / "models", environment))

        off, tenth, none, all_ = (serve(ratio) for ratio in (-1.0, 0.1, 0.0, 1.0))
        for server in (off, tenth, none, all_):
            generator.run(_target(server), "unary", IN_FLIGHT, 1.0)
            generator.run(_target(server), "stream", IN_FLIGHT, 1.0)

        def against_off(name: str, on: Served, mode: str, target: float | None) -> Row:
            return compare(
                f"{mode}, {IN_FLIGHT} in flight, {name}",
                lambda: generator.run(_target(on), mode, IN_FLIGHT, seconds).rps,
                lambda: generator.run(_target(off), mode, IN_FLIGHT, seconds).rps,
                windows,
                target,
            )

        def cpu(name: str, on: Served, mode: str, target: float | None) -> Row:
            return compare(
                f"CPU of the server, {mode}, {name}",
                lambda: _cpu_us(on, lambda: generator.run(_target(on), mode, IN_FLIGHT, seconds)),
                lambda: _cpu_us(off, lambda: generator.run(_target(off), mode, IN_FLIGHT, seconds)),
                windows,
                target,
                "us/request",
                at_least=False,
            )

        rows = [against_off("10 % traced", tenth, mode, 0.97) for mode in ("unary", "stream")]
        for name, on, target in (("10 %", tenth, 1 / 0.97), ("0 %", none, None), ("100 %", all_, None)):
            rows += [cpu(f"{name} traced", on, mode, target) for mode in ("unary", "stream")]
        _all_went(tenth)
    return rows


def _target(server: Served) -> Target:
    return Target(server.grpc, "tiny", "", "x", "f32", "1,64")


def _cpu_us(server: Served, run: Callable[[], Load]) -> float:
    """Returns microseconds of CPU that a request took in the server's process, whoever else is on the machine."""
    before = _cpu_seconds(server.pid)
    answers = run().answers
    return (_cpu_seconds(server.pid) - before) / answers * 1e6


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _all_went(server: Served) -> None:
    """A server that drops spans would be a cheap one."""
    with urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts = {o: float(n) for o, n in re.findall(r'^turnout_trace_spans_total{outcome="(\w+)"} (\S+)$', text, re.M)}
    if not counts["exported"] or sum(counts.values()) > counts["exported"]:
        raise SystemExit(f"spans were lost: {counts}")


@contextmanager
def _collector() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
