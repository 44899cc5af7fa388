"""Runs a Prometheus that scrapes a server under test and evaluates the shipped rules, and queries it over HTTP."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from debian import needs, program
from ports import free_port

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "rules"
PROMETHEUS = program("prometheus", "prometheus")
needs_prometheus = needs(PROMETHEUS, "prometheus")

_CONFIG = """\
global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: 1s}}
rule_files: [rules/*.yml]
scrape_configs:
  - job_name: turnout
    {how}
    static_configs: [{{targets: ["{target}"]}}]
"""


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    def ask(self, what: str, **parameters: str) -> Any:
        """Sends a request to the HTTP API. An error fails the test with its message."""
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def now(self, expression: str) -> dict[tuple[str, ...], float]:
        """Returns the current samples of an expression, by their labels as `key=value`, sorted."""
        result = self.ask("query", query=expression)["result"]
        return {
            tuple(f"{k}={v}" for k, v in sorted(s["metric"].items()) if k != "__name__"): float(s["value"][1])
            for s in result
        }

    def ever_fired(self, seconds: float) -> set[tuple[str, ...]]:
        """Returns the labels of all alerts that fired within the last `seconds`."""
        end = time.time()
        found = self.ask(
            "query_range", query='ALERTS{alertstate="firing"}', start=str(end - seconds), end=str(end), step="1"
        )
        return {
            tuple(f"{k}={v}" for k, v in sorted(s["metric"].items()) if k not in ("__name__", "alertstate"))
            for s in found["result"]
        }

    def wait(self, what: str, holds: Callable[[], bool], limit: float = 120.0) -> None:
        """Returns as soon as `holds` is true; fails after `limit` seconds."""
        end = time.monotonic() + limit
        while not holds():
            assert time.monotonic() < end, f"not within {limit} s: {what}"
            time.sleep(0.2)


@contextmanager
def prometheus(
    directory: Path, target: str, *flags: str, every: str = "500ms", how: str = "", port: int = 0
) -> Iterator[Prometheus]:
    """Runs Prometheus with the shipped rules. It has scraped `target` before the context is entered.

    Args:
        directory: Directory for its files.
        target: The target; several as in YAML, `a", "b`.
        flags: Additional flags.
        every: Interval between scrapes. A scrape that takes longer fails.
        how: More of the scrape configuration, such as its scheme.
        port: Port to listen on; 0 for any free one.

    Two things differ from the shipped rules: scrapes and evaluations are at least every two seconds, and an alert fires
    a second after its condition holds (`for: 2m` and the like become `for: 1s`). Expressions and windows are the same.
    TurnoutDown keeps its minute, because a busy machine may fail a single scrape.
    """
    assert PROMETHEUS is not None
    (directory / "rules").mkdir(parents=True)
    for file in RULES.glob("*.yml"):
        rules = yaml.safe_load(file.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            if "for" in rule and rule["alert"] != "TurnoutDown":
                rule["for"] = "1s"
        (directory / "rules" / file.name).write_text(yaml.safe_dump(rules))
    (directory / "prometheus.yml").write_text(_CONFIG.format(target=target, every=every, how=how))
    port = port or free_port()
    command = [
        PROMETHEUS, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", *flags,
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(f"127.0.0.1:{port}")

        def scrapes() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            try:
                urllib.request.urlopen(f"http://{running.address}/-/ready", timeout=10).close()
                return running.now("up{job='turnout'} == 1") != {}
            except (OSError, AssertionError):  # it does not listen yet, or answers 503 while it starts
                return False

        running.wait("the first scrape", scrapes)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
