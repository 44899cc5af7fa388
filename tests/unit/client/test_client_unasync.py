"""The blocking client is what the generator makes of the asyncio one."""

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[3] / "client"


@pytest.fixture
def to_sync(monkeypatch):
    monkeypatch.syspath_prepend(str(CLIENT))
    from unasync import to_sync

    return to_sync


def test_the_committed_client_is_what_the_generator_makes():
    run = subprocess.run(
        [sys.executable, CLIENT / "unasync.py", "--check"], capture_output=True, text=True, timeout=200, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_keywords_go_and_names_turn(to_sync):
    source = (
        "from a._async.b import AsyncClient\n"
        "async def f(self) -> None:\n"
        "    async with AsyncClient() as c:\n"
        "        x = [await g(await h()) async for y in c]\n"
        "    await self.aclose()\n"
    )
    assert to_sync(source) == (
        "from a._sync.b import Client\n"
        "def f(self) -> None:\n"
        "    with Client() as c:\n"
        "        x = [g(h()) for y in c]\n"
        "    self.close()\n"
    )


def test_docstrings_and_comments_turn_with_the_code(to_sync):
    source = '"""See `AsyncClient`:\n\n    await client.aclose()\n"""\nx = 1  # as _async does\n'
    assert to_sync(source) == '"""See `Client`:\n\n    client.close()\n"""\nx = 1  # as _sync does\n'


def test_words_that_only_contain_a_name_stay(to_sync):
    source = 'asynchronous = MyAsyncClient = "awaiting preAsyncClient"\n'
    assert to_sync(source) == source
