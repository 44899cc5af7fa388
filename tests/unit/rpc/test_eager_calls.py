"""A call is begun without a task, and has one only if it waits for something."""

import asyncio
from typing import Any

import pytest

from turnout.app.process import loop_factory
from turnout.rpc.transport.asgi.eager_tasks import ENDED, allow_ended, begun, begun_in_task, started


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest):
    factory = asyncio.new_event_loop if request.param == "asyncio" else loop_factory(gpu=False)

    def run(call):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(call)

    return run


class Call:
    """A call that notes what becomes of it."""

    def __init__(self) -> None:
        self.entered: list[object] = []
        self.seen: list[object] = []

    def enter(self) -> None:
        self.entered.append(asyncio.current_task())

    async def waits(self, future: "asyncio.Future[int]") -> None:
        try:
            self.seen.append(await future)
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    async def waits_for_nothing(self) -> None:
        self.seen.append(asyncio.current_task())


def test_a_call_that_waits_for_nothing_ends_without_a_task(run) -> None:
    call = Call()

    async def main() -> None:
        allow_ended(asyncio.get_running_loop())
        rest = begun(call.waits_for_nothing(), call.enter)
        assert rest is ENDED
        task: Any = asyncio.get_running_loop().create_task(rest, name="a request")
        assert task is ENDED
        assert task.done()
        task.result()
        await rest

    run(main())
    assert not call.entered


def test_all_else_has_a_task_as_before(run) -> None:
    made = []

    def factory(loop, coroutine, **options):
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        allow_ended(loop)
        allow_ended(loop)
        assert loop.create_task(ENDED) is ENDED
        seven = asyncio.sleep(0, 7)
        task = asyncio.create_task(seven, name="seven")
        assert isinstance(task, asyncio.Task)
        assert task.get_name() == "seven"
        assert made[-1] is seven
        return await task

    assert run(main()) == 7
    assert ENDED not in made


@pytest.mark.parametrize("early", [True, False], ids=["before the task begins", "later"])
def test_a_call_that_waits_goes_on_in_a_task(run, early: bool) -> None:
    call = Call()

    async def main() -> "asyncio.Task[None]":
        loop = asyncio.get_running_loop()
        allow_ended(loop)
        future = loop.create_future()
        task = loop.create_task(begun(call.waits(future), call.enter))
        if early:
            future.set_result(7)
        else:
            loop.call_later(0.001, future.set_result, 7)
        await task
        return task

    task = run(main())
    assert call.seen == [7]
    assert call.entered == [task]


@pytest.mark.parametrize("steps", [0, 1], ids=["before its task begins", "while it waits"])
def test_a_call_learns_that_it_is_cancelled(run, steps: int) -> None:
    """Also of a task that never made a step: what the call has begun is to be ended by it."""
    call = Call()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        allow_ended(loop)
        task = loop.create_task(begun(call.waits(loop.create_future()), call.enter))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.entered == [task]

    run(main())
    assert call.seen == ["cancelled"]


def test_what_a_call_waits_for_is_cancelled_with_it_before_its_first_step(run) -> None:
    async def main() -> list[bool]:
        loop, cancelled = asyncio.get_running_loop(), []
        for begin in (lambda rest: asyncio.create_task(begun(rest, lambda: None)), begun_in_task):
            future: asyncio.Future[int] = loop.create_future()
            task = begin(Call().waits(future))
            task.cancel()
            await asyncio.wait([task])
            cancelled.append(task.cancelled() and future.cancelled())
        return cancelled

    assert run(main()) == [True, True]


def test_a_call_may_wait_again_and_again(run) -> None:
    async def many() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def main() -> None:
        await begun(many(), lambda: None)

    run(main())


def test_a_call_that_fails_fails_as_a_task_does(run) -> None:
    async def fails() -> None:
        raise OSError("the client left")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(begun(fails(), lambda: None))
        with pytest.raises(OSError, match="the client left"):
            await task

    run(main())


def test_what_is_there_is_had_at_once(run) -> None:
    async def seven() -> int:
        return 7

    async def main() -> None:
        assert started(seven()) == (7,)
        future = asyncio.get_running_loop().create_future()
        rest = started(future)
        assert not isinstance(rest, tuple)
        future.set_result(8)
        assert await rest == 8

    run(main())


def test_what_is_waited_for_learns_that_it_is_cancelled(run) -> None:
    call = Call()

    async def main() -> None:
        rest = started(call.waits(asyncio.get_running_loop().create_future()))
        assert not isinstance(rest, tuple)

        async def wait() -> None:
            await rest

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert call.seen == ["cancelled"]
