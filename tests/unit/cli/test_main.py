"""How the command line starts."""

import os
import subprocess
import sys

import pytest

from turnout.host.cpu import KEEP_PRIORITY

_START = """
import os, sys
import turnout.__main__ as start

lower_priority = start.lower_priority

def watched():
    print("typer" in sys.modules)
    lower_priority()

start.lower_priority = watched
sys.argv = ["turnout", *sys.argv[1:]]
try:
    start.main()
finally:
    print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE)
"""


def started(*arguments: str) -> list[str]:
    """Returns what it printed; that took half a minute where four other tests wanted the two cores."""
    command = [sys.executable, "-c", _START, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != KEEP_PRIORITY}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200, env=environment)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(sys.platform != "linux", reason="threads have a scheduling policy of their own on Linux")
def test_what_can_wait_steps_back_before_anything_is_imported() -> None:
    publish = started("publish", "--help")
    assert publish[0] == "False"
    assert publish[-1] == "19 True"
    models = started("models", "--help")
    assert models[0] != "False"
    assert models[-1] == f"{os.getpriority(os.PRIO_PROCESS, 0)} False"
