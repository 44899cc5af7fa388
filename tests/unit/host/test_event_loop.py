"""Which event loop servers run on."""

import subprocess
import sys

import pytest

_MODULE = """
import sys
if "without" in sys.argv:
    sys.modules["uvloop"] = None  # an import of it fails

from turnout.app.process import loop_factory

loop = loop_factory(gpu="gpu" in sys.argv)()
print(type(loop).__module__.partition(".")[0])
loop.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("given", "expected"), [("cpu", "uvloop"), ("gpu", "asyncio"), ("without", "asyncio")])
def test_it_is_libuvs_where_that_is_known_to_serve(given: str, expected: str) -> None:
    command = [sys.executable, "-c", _MODULE, given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.strip() == expected
