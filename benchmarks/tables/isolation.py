"""The cost of isolation: the same model in child processes, compared with the server's process."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from harness.comparison import Row, compare_pairs, take_turns
from harness.load import Generator, Target
from harness.servers import tiny_and_magika, turnout

TITLE = "isolated in child processes, against the server's own process"
IN_FLIGHT = (1, 16)

_ALL_CHILDREN_SECONDS = 5.0
"""Seconds of load after which all child processes of a version have started."""


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares requests per second of the tiny model and of magika 3.3.0, unary, at 1 and 16 in flight."""
    models = tiny_and_magika(scratch)
    requests = {"tiny": ("x", "f32", "1,64"), "magika": ("bytes", "i32", "1,2048")}
    # The batch sizes that pay are determined by timing, and could differ between the two servers by chance.
    settings = {"TURNOUT_RUNTIME__PROVIDERS": "cpu", "TURNOUT_BATCHING__ONLY_WHERE_IT_PAYS": "false"}
    rows = []
    with ExitStack() as stack:
        servers = [
            stack.enter_context(turnout(models, os.environ | settings | {"TURNOUT_RUNTIME__ISOLATION": isolation}))
            for isolation in ("thread", "process")
        ]
        for model, request in requests.items():
            targets = [Target(server.grpc, model, "", *request) for server in servers]

            def measured(side: int, in_flight: int, targets: list[Target] = targets) -> tuple[float, float]:
                """Returns requests per second, and CPU milliseconds per request of the server and its children."""
                before = _cpu_seconds(servers[side].pid)
                load = generator.run(targets[side], "unary", in_flight, seconds)
                return load.rps, (_cpu_seconds(servers[side].pid) - before) / max(load.answers, 1) * 1e3

            for side in (0, 1):
                generator.run(targets[side], "unary", max(IN_FLIGHT), _ALL_CHILDREN_SECONDS)
            for count in IN_FLIGHT:
                pairs = take_turns(partial(measured, 0, count), partial(measured, 1, count), windows)
                name = f"{model}, unary, {count} in flight"
                rates = [(plain[0], isolated[0]) for plain, isolated in pairs]
                costs = [(plain[1], isolated[1]) for plain, isolated in pairs]
                rows.append(compare_pairs(name, rates, None))
                rows.append(compare_pairs(f"{name}: CPU", costs, None, "ms a request", at_least=False))
    return rows


def _cpu_seconds(pid: int) -> float:
    """Returns the CPU time of a process and its running children, in seconds."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(time.user + time.system for time in times)
