"""Three servers behind Envoy are restarted one after the other, under load: nobody who asks notices."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from fleet import NAMES, envoy_path
from onnx_models import scaled
from rolling import load, rolling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_rolling_restart_of_all_three_fails_no_request(models: Path, publish_model) -> None:
    """Without a retry anywhere: neither the clients' nor Envoy's."""
    envoy_path()
    publish_model("m", "1.0.0", scaled(2))

    with rolling(models, retries=False, interval="0.2s", delay=1.5) as servers:
        async with load(servers, "m", np.ones((1, 4), np.float32), {"unary": 4, "stream": 1, "rest": 2}) as outcomes:
            for name in NAMES:
                before = dict(outcomes.codes)
                await asyncio.to_thread(servers.restart, name)
                for kind in (("unary", "OK"), ("stream", "OK"), ("rest", "200")):
                    assert outcomes.codes[kind] > before.get(kind, 0), "they go on all the time"
        assert outcomes.failed == 0, (outcomes.codes, outcomes.told)
        assert servers.retried() == 0
        assert outcomes.answered > 1000
        assert min(servers.shares().values()) > 0.1, servers.shares()
