"""Benchmark scripts start as benchmarks/README.md says: from any directory, with nothing added to the path."""

import subprocess
import sys
from pathlib import Path

import pytest

from processes import running

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = [file for file in sorted(BENCHMARKS.glob("*.py")) if "ArgumentParser(" in file.read_text()]

# As an interpreter does it, in a process that has imported other packages: a second of CPU each. Ours it imports anew,
# in the script's order.
PROGRAM = """
import os, runpy, sys
_, script, output, *path = sys.argv
for name in list(sys.modules):
    if name.partition(".")[0] in ("turnout", "turnout_client", "forked", "botocore_models"):
        del sys.modules[name]
os.chdir(os.path.dirname(output))
sys.path[:] = [os.path.dirname(script), *path]
sys.argv = [script, "--help"]
with open(output, "w") as sys.stdout:
    runpy.run_path(script, run_name="__main__")
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def interpreters_path() -> list[str]:
    """The path of an interpreter to which nothing was added."""
    command = [sys.executable, "-P", "-c", "import sys; print(*sys.path, sep='\\n')"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_starts_as_a_script(script: Path, tmp_path: Path, interpreters_path: list[str]) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    with running(PROGRAM, script, output, *interpreters_path, log=errors) as process:
        process.join(200)
        assert (process.exitcode, errors.read_text()) == (0, "")
    assert output.read_text().startswith("usage: ")
