"""What a real driver tells."""

import pytest

from onnx_models import matmul
from turnout.serving.sessions.memory import pci_addresses
from turnout.serving.sessions.nvml import Nvml
from turnout.telemetry.logging import make_logger

pytestmark = pytest.mark.gpu


async def test_the_driver_knows_the_device_that_a_version_is_on(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul(4096))
    server = await start_server()
    nvml = Nvml.open(make_logger("json", "debug"))
    assert nvml is not None
    (gpu,) = [g for g in nvml.read(pci_addresses(server.parts.serving.manager.devices)) if g.device == "cuda:0"]
    nvml.close()
    assert gpu.uuid.startswith("GPU-")
    assert gpu.utilization is None or 0 <= gpu.utilization <= 1
    assert gpu.memory_used is not None
    assert gpu.memory_total is not None
    assert 64 * 2**20 < gpu.memory_used <= gpu.memory_total  # 64 MiB of weights
    assert gpu.process_memory is None or 0 < gpu.process_memory <= gpu.memory_used
