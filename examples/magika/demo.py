"""The demonstration that `make demo` runs: serves real versions of magika and moves traffic between them.

It publishes with the command line, runs a server process, sends requests with the client, shadows and splits traffic,
reads the results from the metrics, rolls out a good version, rolls back a bad one, and stops the server with SIGTERM.
Exits with 1 if a claim does not hold.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from magika import pins, promotion, traffic
from magika.features import labels
from magika.process import console, publish_by_command, serving
from magika.rollouts import ENVIRONMENT
from magika.samples import REPOSITORY
from zoo import fetch

REPORTS = REPOSITORY / "build"
"""The folder for the report of the rollback."""

VERSIONS = ("1.0.0", "3.2.0", "3.3.0")


def main() -> int:
    """Runs the demonstration. Returns 1 if a claim did not hold, else 0."""
    models = {version: fetch("magika", version) for version in VERSIONS}
    names = {version: labels(path) for version, path in models.items()}
    with tempfile.TemporaryDirectory(prefix="turnout-demo-") as scratch:
        root = Path(scratch) / "models"
        console.rule("[bold]publish[/] three real versions of magika: file types from bytes")
        for version, path in models.items():
            publish_by_command("publish", "magika", version, str(path), "--release", models=root, show=path.name)
        publish_by_command("tag", "magika", "stable", "3.2.0", models=root)
        console.rule("[bold]serve[/] all of them at once")
        with serving(root, ENVIRONMENT) as server:
            failures = pins.classify(server, names) + pins.refuse(server) + pins.latencies(server, VERSIONS)
            console.rule("[bold]shadow[/] 3.3.0 gets a copy of what 3.2.0 answers, and nobody sees what it says")
            failures += traffic.shadow(server)
            console.rule("[bold]canary[/] 3.3.0 answers a fifth of the users")
            failures += traffic.canary(server)
            console.rule("[bold]rollout[/] 3.3.0 becomes the baseline, step by step, as the evidence allows")
            failures += promotion.good(server)
            console.rule("[bold]rollback[/] 3.4.0 is slower, and is rolled back")
            failures += promotion.slow(server, root, REPORTS)
    console.rule("[green]all as it should be[/]" if not failures else f"[red]{failures} claims did not hold[/]")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
