"""`turnout_gpu_*`: nothing where there is no GPU, and all that its driver tells where there is.

The driver is the only thing that is not real here: a stand-in for NVIDIA's bindings, which are looked for at start.
"""

import os
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import httpx
import pynvml
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from onnx_models import scaled
from turnout.app.server import running
from turnout.config import Address, Settings
from turnout.serving.sessions.nvml import Nvml, pci_address
from turnout.telemetry.families import families_of
from turnout.telemetry.logging import make_logger
from turnout.telemetry.metrics.gpu import Gpu

GIB = 2**30


@dataclass
class Board:
    """A GPU that is not there."""

    uuid: str | bytes
    bus: str | bytes
    used: int = GIB
    percent: int = 25
    processes: dict[int, int | None] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)


class Driver(ModuleType):
    """Stands in for `pynvml` on a machine with such boards; refuses what a board refuses."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *boards: Board) -> None:
        super().__init__("pynvml")
        self.boards = boards
        self.opened = self.closed = 0

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:
        return self._asked(self.boards[index], "handle")

    def nvmlDeviceGetUUID(self, board: Board) -> str | bytes:
        return board.uuid

    def nvmlDeviceGetPciInfo(self, board: Board) -> SimpleNamespace:
        return SimpleNamespace(busId=board.bus)

    def nvmlDeviceGetUtilizationRates(self, board: Board) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._asked(board, "utilization").percent, memory=0)

    def nvmlDeviceGetMemoryInfo(self, board: Board) -> SimpleNamespace:
        return SimpleNamespace(used=self._asked(board, "memory").used, total=80 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, board: Board) -> list[SimpleNamespace]:
        running = self._asked(board, "processes").processes
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in running.items()]

    def _asked(self, board: Board, what: str) -> Board:
        if what in board.refuses:
            raise pynvml.NVMLError_NotSupported
        return board


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Puts boards into the machine."""

    def put(*boards: Board) -> Driver:
        driver = Driver(*boards)
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        return driver

    return put


async def samples(server) -> dict[tuple[str, str], float]:
    """`turnout_gpu_*` by name and index."""
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples if sample.name.startswith("turnout_gpu_")]
    return {(s.name.removeprefix("turnout_gpu_"), s.labels["index"]): s.value for s in found}


async def test_a_scrape_shows_what_the_driver_tells(publish_model, start_server, install) -> None:
    publish_model("m", "1.0.0", scaled(2))
    first = Board("GPU-a", "00000000:3B:00.0", processes={1: GIB, os.getpid(): 3 * GIB})
    second = Board(b"GPU-b", b"00000000:AF:00.0", used=5, percent=100)
    driver = install(first, second)
    server = await start_server()

    before = await samples(server)
    first.percent = 50
    after = await samples(server)

    assert before == {
        ("utilization_ratio", "0"): 0.25,
        ("memory_used_bytes", "0"): GIB,
        ("memory_total_bytes", "0"): 80 * GIB,
        ("process_memory_bytes", "0"): 3 * GIB,
        ("utilization_ratio", "1"): 1,
        ("memory_used_bytes", "1"): 5,
        ("memory_total_bytes", "1"): 80 * GIB,
    }
    assert after["utilization_ratio", "0"] == 0.5
    assert (driver.opened, driver.closed) == (1, 0)


@pytest.mark.parametrize(
    ("refused", "missing"),
    [
        ("utilization", {"utilization_ratio"}),
        ("memory", {"memory_used_bytes", "memory_total_bytes"}),
        ("processes", {"process_memory_bytes"}),
    ],
)
def test_what_a_board_does_not_tell_has_no_series(install, refused, missing) -> None:
    install(Board("GPU-a", "0:1:0.0", processes={os.getpid(): 7}, refuses={refused}))
    nvml = Nvml.open(make_logger("json", "warning"))
    assert nvml is not None
    names = {family.name for family in families_of(nvml.read({}), Gpu) if list(family.series)}
    everything = {"utilization_ratio", "memory_used_bytes", "memory_total_bytes", "process_memory_bytes"}
    assert names == {f"turnout_gpu_{name}" for name in everything - missing}


def test_a_lost_board_is_left_out_and_the_others_are_shown(install) -> None:
    install(Board("GPU-a", "0:1:0.0", refuses={"handle"}), Board("GPU-b", "0:2:0.0"))
    nvml = Nvml.open(make_logger("json", "warning"))
    assert nvml is not None
    assert [(gpu.index, gpu.uuid) for gpu in nvml.read({})] == [(1, "GPU-b")]


def test_a_process_whose_memory_the_driver_hides_has_no_series(install) -> None:
    install(Board("GPU-a", "0:1:0.0", processes={os.getpid(): None}))
    nvml = Nvml.open(make_logger("json", "warning"))
    assert nvml is not None
    assert nvml.read({})[0].process_memory is None


def test_a_gpu_goes_by_the_name_that_versions_use(install) -> None:
    install(Board("GPU-a", "00000000:3B:00.0"), Board("GPU-b", "00000000:AF:00.0"))
    nvml = Nvml.open(make_logger("json", "warning"))
    assert nvml is not None
    devices = [gpu.device for gpu in nvml.read({"0000:af:00.0": "cuda:0"})]
    assert devices == ["", "cuda:0"]


def test_cuda_and_nvml_write_one_address_two_ways() -> None:
    assert pci_address("0000:3b:00.0") == pci_address("00000000:3B:00.0") == (0, 0x3B, 0, 0)
    assert pci_address("0000:3b:00.0") != pci_address("0001:3b:00.0")


async def test_the_driver_is_let_go_at_the_end(models, publish_model, install) -> None:
    publish_model("m", "1.0.0", scaled(2))
    driver = install()
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(models=models, grpc=anywhere, http=anywhere, control=anywhere)
    async with running(settings, make_logger("json", "error")):
        assert (driver.opened, driver.closed) == (1, 0)
    assert driver.closed == 1


async def test_without_a_driver_nothing_is_shown_and_nothing_said(publish_model, start_server, capfd) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("there is a driver here")
    publish_model("m", "1.0.0", scaled(2))
    assert await samples(await start_server()) == {}
    assert "GPU" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("missing", ["bindings", "driver"])
def test_what_is_missing_is_said_to_the_debug_log_only(monkeypatch, missing) -> None:
    if missing == "bindings":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: (_ for _ in ()).throw(pynvml.NVMLError_LibraryNotFound()))
    with capture_logs() as entries:
        assert Nvml.open(structlog.get_logger()) is None
    assert [entry["log_level"] for entry in entries] == ["debug"]
