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
from turnout.host.garbage import collect_as_usual, collect_seldom
usual = gc.get_threshold()
collect_seldom()
assert gc.get_threshold()[0] > usual[0]
begun = 0
collect_as_usual()
assert gc.get_threshold() == usual
assert gc.isenabled() and gc.get_freeze_count() > 1000
print(begun)
"""


@pytest.mark.parametrize(("program", "collections"), [(COMMAND, 0), (WORKER, 0), (SERVER, 1)])
def test_imports_are_not_collected(program: str, collections: int) -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED + program], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1:] == [str(collections)], done.stderr
