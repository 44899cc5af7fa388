"""What a process imports is not searched for garbage; a server that has started is, as often as in any program."""

import subprocess
import sys

import pytest

COUNTED = """
import gc, sys
begun = 0
def count(phase, _):
    global begun
    begun += phase == "start"
gc.callbacks.append(count)
"""

COMMAND = """
from turnout.__main__ import main
begun, sys.argv = 0, ["turnout", "--version"]
try:
    main()
finally:
    print(begun)
"""

WORKER = """
from turnout import worker
begun, sys.argv = 0, ["worker", "not a descriptor"]
try:
    worker.main()
except ValueError:
    print(begun)
"""

SERVER = """
from turnout.host.garbage import collect_seldom, freeze_objects
usual = gc.get_threshold()
collect_seldom()
assert gc.get_threshold()[0] > usual[0]
begun = 0
freeze_objects()
assert gc.get_threshold() == usual
assert gc.isenabled() and gc.get_freeze_count() > 1000
print(begun)
"""

LONG = """
from turnout.host.garbage import collect_seldom
usual = gc.get_threshold()
collect_seldom()
callbacks, begun = len(gc.callbacks), 0
kept = [[] for _ in range(600_000)]
assert gc.get_threshold() == usual
assert len(gc.callbacks) == callbacks - 1
print(begun > 1)
"""
"""A process that never says that it has started, such as a supervisor or a view in a terminal."""


@pytest.mark.parametrize(("program", "collections"), [(COMMAND, 0), (WORKER, 0), (SERVER, 1), (LONG, True)])
def test_imports_are_not_collected(program: str, collections: int | bool) -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED + program], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1:] == [str(collections)], done.stderr
