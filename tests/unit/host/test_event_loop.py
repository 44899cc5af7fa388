"""Which event loop servers run on."""

import subprocess
import sys

import pytest

_MODULE = """
import sys
from turnout.app.process import loop_factory

def print_kind(gpu):
    loop = loop_factory(gpu=gpu)()
    print(type(loop).__module__.partition(".")[0])
    loop.close()

print_kind(gpu=False)
print_kind(gpu=True)
sys.modules["uvloop"] = None  # an import of it fails
print_kind(gpu=False)
"""


@pytest.mark.slow
def test_it_is_libuvs_where_that_is_known_to_serve() -> None:
    done = subprocess.run([sys.executable, "-c", _MODULE], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split() == ["uvloop", "asyncio", "asyncio"]
