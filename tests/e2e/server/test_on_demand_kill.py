"""A server that is killed while it loads a version on demand begins anew."""

import signal
import threading

import numpy as np
import pytest

from onnx_models import repeats, scaled
from processes import serving
from turnout_client import Client, TurnoutClientError

pytestmark = pytest.mark.slow

X = np.ones((1, 4), np.float32)


def test_a_server_killed_amid_a_load_loads_on_demand_when_it_is_back(publish_model, models) -> None:
    publish_model("m", "1.0.0", repeats(50_000))  # seconds of warm-up
    publish_model("m", "2.0.0", scaled(3))
    failures: list[TurnoutClientError] = []

    def ask() -> None:
        with Client(server.grpc, retries=0, timeout=100) as asking:
            try:
                asking.predict("m", {"x": X}, version="1.0.0")
            except TurnoutClientError as error:
                failures.append(error)

    # Warm-up goes on for as long as it takes to kill the server.
    with serving(models, TURNOUT_LOADING__LOAD="on_demand", TURNOUT_LOADING__WARMUP_RUNS="20000") as server:
        with Client(server.grpc, retries=0, timeout=60) as client:
            client.wait_ready("m")
        asking = threading.Thread(target=ask)
        asking.start()
        with Client(server.grpc, retries=0, timeout=60) as client:
            while {v.version: v.state for v in client.get_model("m").versions}["1.0.0"] not in ("loading", "warming"):
                pass
        server.send(signal.SIGKILL)
        asking.join(60)
        assert server.wait() == -signal.SIGKILL
    assert len(failures) == 1
    with serving(models, TURNOUT_LOADING__LOAD="on_demand") as server, Client(server.grpc, timeout=60) as client:
        client.wait_ready("m")
        assert {v.version: v.state for v in client.get_model("m").versions} == {"2.0.0": "ready", "1.0.0": "new"}
        np.testing.assert_array_equal(client.predict("m", {"x": X}, version="1.0.0")["y"], np.ones((1, 200_000)))
