"""Runs commands in this process against a server under test, and compares their output with the server's answers."""

import asyncio
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc

import command_line
from routing_wire import send
from turnout.app.server import Running

ASKED = 100
"""Number of requests used to measure the answers of a selector. Any share of them is exact up to two requests (decision
84), and shares in tests are multiples of 5 %.
"""


@dataclass(frozen=True)
class Said:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


async def run(server: Running, models: Path, *arguments: str, local: bool = False) -> Said:
    """Runs `turnout` through the server or, for commands that support it, on the state store."""
    where = ["--models", str(models)] if local else ["--server", str(server.control)]
    done = await asyncio.to_thread(command_line.run, *arguments, *where, env=os.environ | {"COLUMNS": "400"})
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


async def answered(server: Running, selector: str = "", model: str = "m") -> dict[str, int]:
    """Sends requests. Returns the percentage that each version answered, in steps of 5; {} if they are refused."""
    items = await send(server, [""] * ASKED, selector, model)
    if all(item.error.code == grpc.StatusCode.NOT_FOUND.value[0] for item in items):
        return {}
    assert not any(item.HasField("error") for item in items), items
    seen = Counter(item.response.route.version for item in items)
    return {version: 5 * round(count * 20 / ASKED) for version, count in seen.items()}


async def until_answered(server: Running, expected: dict[str, int], selector: str = "", model: str = "m") -> None:
    """Waits until a server that follows its state store answers like this: usually a second, on a busy machine more."""
    deadline = time.monotonic() + 60.0
    while (seen := await answered(server, selector, model)) != expected:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.02)


def printed(text: str) -> dict[str, dict[str, int]]:
    """Parses the line about which versions answer: percentages by version, by selector ("" for plain requests)."""
    line = next(line for line in text.splitlines() if line.startswith("plain requests: "))
    found: dict[str, dict[str, int]] = {}
    for name, parts in re.findall(r"(plain requests|latest|\^[0-9.]+): ([^;]*)", line):
        several = re.findall(r"([0-9][^ ,]*) \(([0-9]+)%", parts)
        whole = {} if parts == "no version" else {parts: 100}
        found["" if name == "plain requests" else name] = {v: int(n) for v, n in several} or whole
    return found


async def check_printed(server: Running, text: str, model: str = "m") -> dict[str, dict[str, int]]:
    """Checks that the server answers as the command printed, and returns what it printed."""
    message = printed(text)
    for selector, expected in message.items():
        seen = await answered(server, selector, model)
        assert set(seen) == set(expected), (selector, text)
        assert all(abs(seen[version] - percent) < 5 for version, percent in expected.items()), (selector, seen, text)
    return message
