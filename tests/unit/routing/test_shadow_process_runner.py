"""A runner that is closed while its child starts leaves no child behind."""

import asyncio
import threading

import pytest

from turnout.errors import ModelCrashed
from turnout.routing.shadow.runner import ProcessRunner


class SlowToStart:
    """A fault: a child that is up only when it is let."""

    def __init__(self) -> None:
        self.starts = 0
        self.starting = threading.Event()
        self.let = threading.Event()
        self.ended = threading.Event()

    def start(self):
        self.starts += 1
        self.starting.set()
        assert self.let.wait(100)
        return self

    alive = True

    def run(self, inputs, outputs, timeout):
        return []

    def close(self) -> None:
        self.ended.set()


async def test_a_child_that_is_up_after_the_runner_was_closed_is_ended() -> None:
    child = SlowToStart()
    runner = ProcessRunner("m@1.0.0", child.start, 1.0)
    runs = [asyncio.create_task(runner.run({}, [])) for _ in range(2)]
    assert await asyncio.to_thread(child.starting.wait, 30)
    runner.close()
    child.let.set()
    for run in runs:
        with pytest.raises(ModelCrashed, match="was ended"):
            await run
    assert child.ended.is_set()
    assert child.starts == 1


async def test_a_child_that_runs_is_ended_with_its_runner() -> None:
    child = SlowToStart()
    child.let.set()
    runner = ProcessRunner("m@1.0.0", child.start, 1.0)
    assert await runner.run({}, []) == []
    runner.close()
    assert await asyncio.to_thread(child.ended.wait, 30)
