"""The temporary files of a run with several workers: in memory, if there is enough, and never left there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
import files_in_memory
free = int(sys.argv[2])
os.statvfs = lambda _: SimpleNamespace(f_bavail=free, f_frsize=1, f_flag=int(sys.argv[3]))
files_in_memory.keep_files_in_memory(Path(sys.argv[1]))
print(tempfile.gettempdir(), flush=True)
Path(tempfile.gettempdir(), "left").touch()
sys.stdin.readline()
"""
ENOUGH = 8 << 30
NO_PROGRAMS = 8  # ST_NOEXEC of Linux

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files in memory")


def run(memory: Path, elsewhere: Path, free: int = ENOUGH, flags: int = 0, **more: str) -> "subprocess.Popen[str]":
    """Starts a run whose files are in `memory` if that suits."""
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TEMP": str(elsewhere)} | more
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(memory), str(free), str(flags)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def directory(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_files_in_memory_go_with_their_run_or_with_the_next(models: Path, tmp_path: Path) -> None:
    models.mkdir()
    with run(models, tmp_path) as ended, run(models, tmp_path) as killed:
        assert directory(ended).parent == directory(killed).parent == models
        ended.communicate("\n")
        killed.kill()
        killed.wait()
    assert len(list(models.iterdir())) == 1
    with run(models, tmp_path) as running:
        used = directory(running)
        with run(models, tmp_path) as another:
            directory(another)
            another.communicate("\n")
        assert list(models.iterdir()) == [used]
        assert (used / "left").exists()
        running.communicate("\n")
    assert list(models.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "flags", "chosen"),
    [(ENOUGH - 1, 0, False), (ENOUGH, NO_PROGRAMS, False), (ENOUGH, 0, True)],
    ids=["too small", "no programs", "TMPDIR"],
)
def test_files_stay_where_they_were(models: Path, tmp_path: Path, free: int, flags: int, chosen: bool) -> None:
    models.mkdir()
    with run(models, tmp_path, free, flags, **({"TMPDIR": str(tmp_path)} if chosen else {})) as process:
        assert directory(process) == tmp_path
        process.communicate("\n")
    assert list(models.iterdir()) == []
