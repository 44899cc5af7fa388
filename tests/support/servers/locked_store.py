"""Holds the write lock of an SQLite state store in another process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@asynccontextmanager
async def locked(models: Path) -> AsyncIterator[None]:
    """Holds the write lock of the repository's state store while the context is entered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLD, str(models / ".turnout" / "state.db"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 100) == b"held\n"
        yield
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 100)
