"""Serves three versions of magika at once and has real files classified by them: what `make demo` runs.

Publishes by the command line, serves in a process of its own, asks through the client, reads the metrics as Prometheus
would, and stops the server with SIGTERM. Exits with 1 where anything is not as it should be.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from turnout_client import Client, NotFound

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from magika.features import Guess, best, features_v1, features_v3, labels
from zoo import fetch

REPOSITORY = Path(__file__).resolve().parents[2]
TURNOUT = Path(sys.executable).with_name("turnout")
VERSIONS = ("1.0.0", "3.2.0", "3.3.0")
ROUNDS = 20
"""Times that each file is asked for, so that the latencies mean something."""

console = Console(width=118, highlight=False)

_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000100000001008060000001ff3ff610000001349444154789c63fcffff3f0325806"
    "9d4005d03006a5d05fb2b0cf8b20000000049454e44ae426082"
)
_C = b'#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf("%d\\n", argc);\n    return 0;\n}\n'


@dataclass(frozen=True, slots=True)
class Sample:
    """A real file, and what it is."""

    name: str
    content: bytes
    expected: str


def main() -> int:
    """Runs the demonstration, and returns how many of its claims did not hold."""
    models = {version: fetch("magika", version) for version in VERSIONS}
    names = {version: labels(path) for version, path in models.items()}
    with tempfile.TemporaryDirectory(prefix="turnout-demo-") as scratch:
        root = Path(scratch) / "models"
        console.rule("[bold]publish[/] three real versions of magika: file types from bytes")
        for version, path in models.items():
            run("publish", "magika", version, str(path), "--release", models=root, show=f"{path.name}")
        run("tag", "magika", "stable", "3.2.0", models=root)
        console.rule("[bold]serve[/] all of them at once")
        with serving(root) as (server, http):
            failures = classify(server, names) + refuse(server) + report(http)
    console.rule("[green]all as it should be[/]" if not failures else f"[red]{failures} claims did not hold[/]")
    return failures


def run(*arguments: str, models: Path, show: str = "") -> None:
    """Runs the `turnout` command as a user would, showing what is run."""
    shown = [show if show and argument.startswith("/") else argument for argument in arguments]
    console.print(f"[bold cyan]$ turnout {' '.join(shown)}[/]")
    command = [str(TURNOUT), *arguments, "--models", str(models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first = [line for line in done.stdout.splitlines() if re.match(r"magika|stable|inputs|outputs", line)]
    console.print("  " + "\n  ".join(line.rstrip() for line in first), style="dim", markup=False)


@contextmanager
def serving(models: Path) -> Iterator[tuple[str, str]]:
    """Serves `models` in a process of its own on free ports; yields the gRPC and HTTP addresses."""
    listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command = [str(TURNOUT), "serve", "--models", str(models), *listen, "--json"]
    with (models.parent / "server.log").open("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            addresses = _listening(process, Path(log.name))
            console.print(f"[bold cyan]$ turnout serve[/]  [dim]gRPC {addresses[0]}, HTTP {addresses[1]}[/]")
            with Client(addresses[0]) as client:
                client.wait_ready("magika", timeout=60)
            yield addresses
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        console.print(f"[bold cyan]$ kill -TERM ...[/]  [dim]drained, exit code {code}[/]")
        if code:
            raise SystemExit(f"the server ended with {code}:\n{Path(log.name).read_text()}")


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> tuple[str, str]:
    """Waits for the server's log line that says where it listens."""
    for _ in range(600):
        if match := re.search(r'"grpc": "([^"]+)", "http": "([^"]+)"', log.read_text()):
            return match[1], match[2]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def classify(server: str, names: dict[str, list[str]]) -> int:
    """Asks every way of naming a version for every file; returns how many answers were wrong."""
    table = Table(title="one server, one model name, four selectors", title_justify="left")
    for heading in ("file", "^1", "^3", "3.2.0", "stable"):
        table.add_column(heading)
    wrong = 0
    answered: dict[str, str] = {}
    with Client(server) as client:
        for sample in samples():
            cells = []
            for selector in ("^1", "^3", "3.2.0", "stable"):
                features = features_v1(sample.content) if selector == "^1" else features_v3(sample.content)
                for _ in range(ROUNDS):
                    prediction = client.predict("magika", {"bytes": features}, version=selector)
                guess = best(prediction["target_label"][0], names[prediction.version])
                answered[selector] = prediction.version
                wrong += guess.label != sample.expected
                cells.append(_cell(guess, sample.expected))
            table.add_row(sample.name, *cells)
    for column in table.columns[1:]:
        column.header = f"{column.header} -> {answered[str(column.header)]}"
    console.print(table)
    expected = {"^1": "1.0.0", "^3": "3.3.0", "3.2.0": "3.2.0", "stable": "3.2.0"}
    return wrong + sum(answered[selector] != version for selector, version in expected.items())


def refuse(server: str) -> int:
    """Shows what a pin that names nothing gets; returns 1 if it were answered."""
    with Client(server) as client:
        try:
            client.predict("magika", {"bytes": features_v3(b"x" * 64)}, version="2.0.0")
        except NotFound as error:
            console.print(
                f'[bold cyan]predict("magika", version="2.0.0")[/]  [yellow]{error.code.name}[/] {error.message}'
            )
            return 0
    return 1


def report(http: str) -> int:
    """Prints per-version latency out of /metrics; returns how many versions have none."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    family = next(f for f in families if f.name == "turnout_request_duration_seconds")
    buckets: dict[str, list[tuple[float, float]]] = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            bucket = (float(sample.labels["le"]), sample.value)
            buckets.setdefault(sample.labels["version"], []).append(bucket)
    table = Table(title="latency by version, from /metrics", title_justify="left")
    for heading in ("version", "requests", "p50", "p99"):
        table.add_column(heading, justify="right")
    for version, rows in sorted(buckets.items()):
        table.add_row(version, f"{rows[-1][1]:.0f}", *(f"{quantile(rows, q) * 1e3:.2f} ms" for q in (0.5, 0.99)))
    console.print(table)
    return len(set(VERSIONS) - buckets.keys())


def quantile(rows: list[tuple[float, float]], q: float) -> float:
    """Returns a quantile by linear interpolation in cumulative buckets, as Prometheus's histogram_quantile does."""
    rank = q * rows[-1][1]
    low_bound, low_count = 0.0, 0.0
    for bound, count in rows:
        if count >= rank:
            if bound == float("inf") or count == low_count:
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
        low_bound, low_count = bound, count
    return low_bound


def samples() -> list[Sample]:
    """Returns real files of this repository and this machine."""

    def read(path: str) -> bytes:
        return (REPOSITORY / path).read_bytes()

    header = Path("/usr/include/stdio.h")
    return [
        Sample("server/turnout/app.py", read("server/turnout/app.py"), "python"),
        Sample("README.md", read("README.md"), "markdown"),
        Sample(".ci/run", read(".ci/run"), "shell"),
        Sample("Makefile", read("Makefile"), "makefile"),
        Sample(*(("stdio.h", header.read_bytes()) if header.exists() else ("main.c", _C)), "c"),
        Sample("a 16x16 PNG", _PNG, "png"),
        Sample("python, the program", Path(sys.executable).resolve().read_bytes(), "elf"),
    ]


def _cell(guess: Guess, expected: str) -> str:
    colour = "green" if guess.label == expected else "red"
    return f"[{colour}]{guess.label}[/] [dim]{guess.score:.2f}[/]"


if __name__ == "__main__":
    sys.exit(main())
