"""A rolling restart, under load, of three servers behind Envoy: counts the outcomes of all predictions.

    python benchmarks/rolling_restart.py [--requests 200000] [--retries] [--seconds 3600]

Runs three `turnout serve` processes on one repository and one state store, behind Envoy with the configuration in
deploy/envoy (with other addresses). Clients use unary gRPC, PredictStream (16 requests on each stream) and REST, and
never retry; without `--retries`, Envoy does not retry either. Meanwhile, each server in turn gets SIGTERM, exits, is
started again and becomes ready, round after round, until the requested number of predictions is reached. Prints counts
by kind and code and each server's share, and writes them to results/rolling-restart.json. Exit status 1 if a prediction
failed.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import harness  # noqa: F401 (what follows is found by it)
from fleet import NAMES
from harness.servers import matmul
from rolling import Outcomes, Rolling, load, rolling
from turnout.testing import publish_models

CLIENTS = {"unary": 12, "stream": 4, "rest": 2}
RESULTS = Path(__file__).with_name("results") / "rolling-restart.json"


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--retries", action="store_true", help="let Envoy retry, as configured in deploy/envoy")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time limit")
    parser.add_argument("--delay", type=float, default=5.0, help="drain.delay_s of the servers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnout-rolling-") as scratch:
        models, file = Path(scratch) / "models", Path(scratch) / "tiny.onnx"
        onnx.save(matmul(), file)
        publish_models(models, {"tiny@1.0.0": file})
        with rolling(models, retries=arguments.retries, delay=arguments.delay) as servers:
            found = asyncio.run(_restarted(servers, arguments.requests, arguments.seconds))
    found = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other load",
        "date": datetime.now(UTC).date().isoformat(),
        "envoy_retries": arguments.retries, "drain_delay_s": arguments.delay, **found,
    }  # fmt: skip
    text = json.dumps(found, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")
    return 1 if found["failed"] or found["predictions"] < arguments.requests else 0


async def _restarted(servers: Rolling, wanted: int, seconds: float) -> dict[str, Any]:
    began = time.monotonic()
    rounds = 0
    async with load(servers, "tiny", np.ones((1, 64), np.float32), CLIENTS) as outcomes:
        while rounds == 0 or (_made(outcomes) < wanted and time.monotonic() - began < seconds):
            for name in NAMES:
                await asyncio.to_thread(servers.restart, name)
                print(f"{servers.restarts} restarts, {_made(outcomes)} predictions", file=sys.stderr, flush=True)
            rounds += 1
    return {
        "predictions": _made(outcomes), "failed": outcomes.failed, "seconds": round(time.monotonic() - began),
        "rolling_restarts": rounds, "restarts": servers.restarts, "sent_again_by_envoy": servers.retried(),
        "by_kind_and_code": {f"{kind} {code}": count for (kind, code), count in sorted(outcomes.codes.items())},
        "server_shares": dict(servers.shares()), "told": outcomes.reported,
    }  # fmt: skip


def _made(outcomes: Outcomes) -> int:
    return outcomes.codes.total()


if __name__ == "__main__":
    sys.exit(main())
