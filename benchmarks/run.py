"""Prints all benchmark tables: `make bench`, or `python benchmarks/run.py [--quick] [--json] [TABLE ...]`."""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from harness.comparison import show
from harness.load import Generator
from tables import (
    isolation,
    large,
    magika,
    memory,
    rollouts,
    routing,
    scrape,
    shadow,
    tiny,
    tracing,
    triton,
    versions,
    workers,
)

TABLES = {
    "tiny": tiny,
    "triton": triton,
    "magika": magika,
    "large": large,
    "versions": versions,
    "routing": routing,
    "shadow": shadow,
    "isolation": isolation,
    "workers": workers,
    "tracing": tracing,
    "scrape": scrape,
    "memory": memory,
}

ROLLOUTS = "rollouts"
"""A table with a different format: it has the outcome of each rollout, and no comparison."""


def main() -> int:
    """Runs the benchmarks and returns the number of missed targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES, ROLLOUTS], help="tables to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="short windows, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    arguments = parser.parse_args()
    windows, seconds = (3, 0.7) if arguments.quick else (9, 2.0)
    generator = Generator() if set(arguments.tables) != {ROLLOUTS} else None
    if not arguments.json:
        print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
              f"medians of {windows} interleaved windows of {seconds} s")  # fmt: skip
    missed = 0
    for name in [name for name in arguments.tables or TABLES if name != ROLLOUTS]:
        with tempfile.TemporaryDirectory(prefix="turnout-bench-") as scratch:
            rows = TABLES[name].measure(Path(scratch), generator, windows, seconds)
        show(TABLES[name].TITLE, rows, as_json=arguments.json)
        missed += sum(not row.met for row in rows)
    if ROLLOUTS in arguments.tables or not arguments.tables:
        with tempfile.TemporaryDirectory(prefix="turnout-bench-") as scratch:
            played = rollouts.measure(Path(scratch))
        rollouts.show(played, as_json=arguments.json)
        missed += sum(not row.met for row in played)
    return missed


if __name__ == "__main__":
    sys.exit(main())
