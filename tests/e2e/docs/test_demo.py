"""The demonstration shows what the README promises."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from forked_commands import turnout_program

DEMO = Path(__file__).parents[3] / "examples" / "magika" / "demo.py"

# As `make demo` runs it, but that its twenty commands need not import: a second of CPU each.
PROGRAM = """
import runpy, sys
from pathlib import Path
demo, turnout = map(Path, sys.argv[1:])
sys.path.insert(0, str(demo.parents[1]))
from magika import process
assert process.TURNOUT.exists()
process.TURNOUT = turnout
runpy.run_path(str(demo), run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demonstration_holds_all_it_claims() -> None:
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-c", PROGRAM, str(DEMO), str(turnout_program())]
        demo = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            code = demo.wait(timeout=580)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(demo.pid, signal.SIGKILL)  # a demonstration that hangs leaves no server behind
        output.seek(0)
        printed = output.read()
    assert code == 0, printed
    expected = (
        *("^1 -> 1.0.0", "^3 -> 3.3.0", "stable -> 3.2.0", "NOT_FOUND", "p99"),
        *("baseline 3.2.0, shadow 3.3.0 100%", "3.3.0 beside 3.2.0, from /metrics", "another first choice", "top1"),
        *("baseline 3.2.0 80%, canary 3.3.0 20%", "users that met both versions: 0", "answer      3."),
        *("drained, exit code 0", "all as it should be"),
    )
    for text in expected:
        assert text in printed
