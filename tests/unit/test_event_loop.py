"""Which event loop servers run on."""

import subprocess
import sys

import pytest

_MODULE = """
import sys
if sys.argv[1] == "without":
    sys.modules["uvloop"] = None  # an import of it fails

from turnout.event_loop import new_event_loop

loop = new_event_loop()
print(type(loop).__module__.partition(".")[0])
loop.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
@pytest.mark.parametrize(("given", "expected"), [("with", "uvloop"), ("without", "asyncio")])
def test_it_is_libuvs_where_that_is_installed(given: str, expected: str) -> None:
    command = [sys.executable, "-c", _MODULE, given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == expected
