"""A server keeps some of the memory that it frees for the next messages, and returns the rest."""

import subprocess
import sys

import pytest

PROGRAM = """
from turnout.host.memory import resident_bytes, return_freed_memory

return_freed_memory()
before = resident_bytes()
for _ in range(2):
    blocks = [bytes([1]) * (8 << 20) for _ in range(16)]
    del blocks
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a server leaves other allocators as they are")
def test_freed_memory_is_kept_up_to_a_limit() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert 32 < int(done.stdout) < 72  # MiB, of 128 that were freed
