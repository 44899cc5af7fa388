"""Three servers behind Envoy are restarted one after the other, under load: nobody who asks notices."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from fleet import NAMES, envoy_path
from onnx_models import scaled
from rolling import load, rolling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = {"unary": 4, "stream": 1, "rest": 2}
X = np.ones((1, 4), np.float32)


async def test_a_rolling_restart_of_all_three_fails_no_request(models: Path, publish_model) -> None:
    """Without a retry anywhere, neither in the clients nor in Envoy. benchmarks/rolling_restart.py does it at length.

    Envoy looks more often than deploy/envoy says, and the servers wait less: five times as long as it takes to notice,
    as with the defaults, and then as much again for a machine that does other things.
    """
    envoy_path()
    publish_model("m", "1.0.0", scaled(2))
    with rolling(models, retries=False, interval="0.2s", delay=2.5) as servers:
        async with load(servers, "m", X, CLIENTS, pause=0.02) as outcomes:
            for name in NAMES:
                before = outcomes.codes.copy()
                await asyncio.to_thread(servers.restart, name)
                assert all((outcomes.codes - before)[kind] for kind in before), "all of them went on"
        assert outcomes.failed == 0, (outcomes.codes, outcomes.failures)
        assert {kind for kind, _ in outcomes.codes} == CLIENTS.keys()
        assert outcomes.answered > 500
        assert servers.retried() == 0
        assert min(servers.shares().values()) > 0.1, servers.shares()
