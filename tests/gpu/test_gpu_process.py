"""The command and its server, as processes, on a machine with a GPU."""

import json
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from onnx_models import matmul
from processes import serving, turnout
from turnout_client import Client

pytestmark = pytest.mark.gpu


def test_the_doctor_finds_the_device() -> None:
    output = json.loads(turnout("doctor", "--json").stdout)
    by_name = {check["name"]: check for check in output["checks"]}
    assert output["ok"]
    assert by_name["cuda"]["health"] == "ok"
    assert by_name["cuda libraries"]["health"] == "ok"
    assert "NVIDIA" in by_name["cuda:0"]["detail"]


def test_a_scrape_has_the_gpu_and_what_each_version_took_of_it(publish_model, models) -> None:
    publish_model("m", "1.0.0", matmul(4096))
    with serving(models) as server:
        with Client(server.grpc) as client:
            client.wait_ready("m", timeout=60)
            for _ in range(50):
                client.predict("m", {"x": np.ones((8, 4096), np.float32)})
        with urlopen(f"http://{server.http}/metrics", timeout=10) as response:
            families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    (taken,) = [
        sample
        for sample in families["turnout_version_memory_bytes"].samples
        if sample.labels["model"] == "m" and sample.labels["device"] == "cuda:0"
    ]
    assert taken.value >= 64 * 2**20  # of weights
    (used,) = [s for s in families["turnout_gpu_memory_used_bytes"].samples if s.labels["device"] == "cuda:0"]
    assert used.value >= taken.value
    (total,) = [s for s in families["turnout_memory_limit_bytes"].samples if s.labels["device"] == "cuda:0"]
    assert total.value > used.value
    (busy,) = families["turnout_gpu_utilization_ratio"].samples
    assert 0 <= busy.value <= 1
