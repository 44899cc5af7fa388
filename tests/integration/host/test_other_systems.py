"""Linux is the platform; macOS, which has less, is for development: there everything imports, and serves on the CPU.

A process of its own has taken from it what Linux alone has, and then what POSIX has, before Turnout is imported.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_models import scaled

ROOT = Path(__file__).parents[3]
NOT_EVERYWHERE = re.compile(r"fcntl|resource|pwd|grp|termios|setpriority|sysconf|getuid|sched_|SCHED_|memfd|MFD")
PACKAGES = [ROOT / "server" / "turnout", ROOT / "client" / "turnout_client"]

MACOS = """
import os, sys
import asyncio, getpass, grpc, httpx, multiprocessing, onnxruntime, sqlite3, ssl, subprocess, urllib.request, h2corn
import google.protobuf.message, prometheus_client, starlette.applications, watchfiles

LINUX = ("sched_", "SCHED_", "memfd_", "MFD_", "eventfd", "EFD_", "splice", "pidfd_", "getrandom", "O_TMPFILE")
for name in dir(os):
    if name.startswith(LINUX):
        delattr(os, name)

def deny(event, args):
    if event == "open" and str(args[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", args[0])

sys.addaudithook(deny)
"""

BARE = (
    MACOS
    + """
for name in ("fcntl", "resource", "pwd", "grp", "uvloop"):
    sys.modules[name] = None
for name in ("getuid", "geteuid", "setpriority", "sysconf"):
    if hasattr(os, name):
        delattr(os, name)
"""
)

SERVE = """
import importlib, pkgutil
import turnout, turnout_client

for package in (turnout, turnout_client):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".migrations.env" not in module.name:
            importlib.import_module(module.name)
sys.platform = "darwin"  # libraries have chosen by now

import numpy as np
from pathlib import Path
from semver import Version
from turnout.app.server import running
from turnout.config import Address, Settings
from turnout.app.process import loop_factory
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.telemetry.logging import make_logger
from turnout_client import AsyncClient

async def main(models, file):
    publish(Repository(models), PublishRequest("m", Version(1, 0, 0), file))
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(models=models, grpc=anywhere, http=anywhere, control=anywhere)
    async with running(settings, make_logger("json", "warning")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        async with AsyncClient(str(server.grpc), version="1.0.0") as client:
            x = np.ones((1, 4), np.float32)
            answer = await client.predict("m", {"x": x})
            assert (answer["y"] == 2 * x).all() and answer.version == "1.0.0"
        async with httpx.AsyncClient() as http:
            metrics = await http.get(f"http://{server.http}/metrics")
            assert "turnout_requests_total" in metrics.text, metrics
    print("served")

with asyncio.Runner(loop_factory=loop_factory(gpu=False)) as runner:
    runner.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize("system", [MACOS, BARE], ids=["what macOS lacks", "what POSIX has"])
def test_without_what_linux_has_everything_imports_and_serves_on_the_cpu(tmp_path: Path, system: str) -> None:
    import onnx

    onnx.save(scaled(2), tmp_path / "model.onnx")
    program = system + SERVE
    command = [sys.executable, "-c", program, tmp_path / "models", tmp_path / "model.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "served"


def test_what_not_every_system_has_is_asked_for_in_one_module() -> None:
    found = []
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            text = file.read_text()
            # To parse all takes 1.7 s of CPU; whatever is looked for has one of these names in it.
            if file.parent.name == "host" or not NOT_EVERYWHERE.search(text):
                continue
            for node in ast.walk(ast.parse(text)):
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    named = [node.module]
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                    named = [f"os.{node.attr}"]
                bad = {"fcntl", "resource", "pwd", "grp", "termios", "os.setpriority", "os.sysconf", "os.getuid"}
                found += [
                    f"{file.relative_to(ROOT)}: {name}"
                    for name in named
                    if name in bad or name.startswith(("os.sched_", "os.SCHED_", "os.memfd", "os.MFD"))
                ]
    assert not found, "turnout.host has what not every system has"
