"""The gain from a second worker, and how evenly connections are distributed over the two."""

import os
import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from harness.comparison import Row, compare_pairs, take_turns
from harness.load import Generator, Target
from harness.servers import Served, tiny_and_magika, turnout

TITLE = "two workers against one"

_CONNECTIONS = 4
"""Number of connections, each from a separate process, since a connection is served by one worker."""

_SPREADS = (1, 4, 16, 64)
_TRIALS = 10
_SETTLED_SECONDS = 5.0


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares requests per second of the tiny model and magika 3.3.0 over four connections, and their distribution."""
    models = tiny_and_magika(scratch)
    requests = {"tiny": ("x", "f32", "1,64"), "magika": ("bytes", "i32", "1,2048")}
    environment = os.environ | {"TURNOUT_RUNTIME__PROVIDERS": "cpu"}
    rows = []
    with ExitStack() as stack:
        servers = [
            stack.enter_context(turnout(models, environment | {"TURNOUT_WORKERS": str(count)})) for count in (1, 2)
        ]
        for model, request in requests.items():
            targets = [Target(server.grpc, model, "", *request) for server in servers]

            def rps(side: int, in_flight: int, targets: list[Target] = targets) -> float:
                runs = [generator.start(targets[side], "unary", in_flight, seconds) for _ in range(_CONNECTIONS)]
                return sum(generator.finish(run).rps for run in runs)

            for side in (0, 1):
                rps(side, 4)
            for in_flight in (1, 4):
                pairs = take_turns(partial(rps, 0, in_flight), partial(rps, 1, in_flight), windows)
                rows.append(compare_pairs(f"{model}, {_CONNECTIONS} connections of {in_flight} in flight", pairs, None))
        rows += [_spread(servers[1], count) for count in _SPREADS]
    return rows


def _spread(server: Served, count: int) -> Row:
    """Returns the ratio of the busier worker's share of `count` connections to an even share."""
    shares = [_busiest(server, count) * 2 / count for _ in range(_TRIALS)]
    return Row(
        f"{count} connections: the busier worker's by an even share", statistics.median(shares), min(shares),
        max(shares), None, False, f"{statistics.mean(shares) * count / 2:.1f} of {count}", f"{count / 2:g}",
    )  # fmt: skip


def _busiest(server: Served, count: int) -> int:
    host, _, port = server.grpc.rpartition(":")
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)]
        own = {one.getsockname()[1] for one in opened}
        deadline = time.monotonic() + _SETTLED_SECONDS
        while sum(taken := _taken(server.pid, own)) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"of {count} connections only {sum(taken)} were taken")
            time.sleep(0.01)
    return max(taken)


def _taken(parent: int, ports: set[int]) -> Sequence[int]:
    """Returns, for each worker, its number of connections from these ports."""
    return [
        sum(bool(one.raddr) and one.raddr.port in ports for one in child.net_connections("tcp"))
        for child in psutil.Process(parent).children()
    ]
