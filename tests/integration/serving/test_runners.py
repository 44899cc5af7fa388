"""A version's runners: who is woken, what they take, and what callers are told when one dies. The threads are real."""

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from turnout.errors import DeadlineExceededError, ModelFailure, QueueFull
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.batcher import Batcher
from turnout.serving.batching.request_queue import QueueBounds
from turnout.serving.sessions.session import MakeRunner
from turnout.serving.sessions.tensor import Array

ALONE = BatchPlan(0)
BATCHED = BatchPlan(4, {"x": 0}, {"y": 0})
BOUND = 30.0
"""Seconds that anything may take on a busy machine."""

FOREVER = 1000.0
"""A `max_delay` that no test waits for."""


def _x(rows: int = 1, width: int = 2, value: float = 0.0) -> dict[str, Array]:
    return {"x": np.full((rows, width), value, np.float32)}


class Gate:
    """Runs that are held until the test opens the gate; it knows what came to it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = False
        self.begun: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, Array], _: Sequence[str]) -> list[Array]:
        with self._condition:
            self.begun.append(inputs["x"].shape)
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._open, BOUND)
        return [inputs["x"]]

    def open(self) -> None:
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._open = False

    async def wait_for(self, begun: int) -> None:
        """Waits until so many runs have begun."""

        def wait() -> bool:
            with self._condition:
                return self._condition.wait_for(lambda: len(self.begun) >= begun, BOUND)

        assert await asyncio.to_thread(wait), f"{self.begun} began, and not {begun} runs"


def _batcher(
    run: Callable[[Mapping[str, Array], Sequence[str]], list[Array]],
    plan: BatchPlan = ALONE,
    *,
    runners: int = 4,
    max_delay: float = 0.0,
    spin: float = 0.0,
    make: MakeRunner | None = None,
    demoted: Callable[[str], None] = lambda reason: None,
) -> Batcher:
    makers = [make or (lambda: contextlib.nullcontext(run))] * runners
    return Batcher(
        "m@1",
        PlanInForce(plan),
        QueueBounds(100, 1 << 20, max_delay, spin),
        makers,
        lambda rows, seconds: None,
        demoted,
    )


def _send(batcher: Batcher, inputs: dict[str, Array], deadline: float | None = None) -> "asyncio.Task[Array]":
    async def answer() -> Array:
        return (await batcher.submit(inputs, ["y"], deadline)).outputs[0]

    return asyncio.create_task(answer())


async def _close(batcher: Batcher) -> None:
    batcher.close()
    await asyncio.wait_for(batcher.wait_closed(), BOUND)
    assert batcher.runners == 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("plan", [ALONE, BATCHED], ids=["alone", "of other shapes"])
@pytest.mark.parametrize("idle", [0, 1, 3, 4])
async def test_requests_that_come_at_once_use_a_runner_each_however_many_are_idle(plan: BatchPlan, idle: int) -> None:
    barrier = threading.Barrier(max(idle, 1), timeout=BOUND)

    def run(inputs: Mapping[str, Array], _: Sequence[str]) -> list[Array]:
        barrier.wait()  # it breaks unless so many runs are under way at the same time
        return [inputs["x"]]

    batcher = _batcher(run, plan)
    if idle:
        await asyncio.gather(*(_send(batcher, _x(width=1 + i)) for i in range(idle)))
        await _until(lambda: len(batcher._idle) == idle)
    barrier = threading.Barrier(4, timeout=BOUND)
    for _ in range(20):
        await asyncio.gather(*(_send(batcher, _x(width=1 + i)) for i in range(4)))
    assert batcher.runners == 4
    await _close(batcher)


@pytest.mark.parametrize("plan", [ALONE, BATCHED], ids=["alone", "batched"])
async def test_an_idle_runner_keeps_nothing_of_what_it_ran(plan: BatchPlan) -> None:
    """A batch of large requests would lie in memory until the next comes."""
    batcher = _batcher(lambda inputs, _: [inputs["x"] + 1], plan, runners=1)
    sent = [_x(value=float(i)) for i in range(3)]
    kept = [weakref.ref(inputs["x"]) for inputs in sent]
    await asyncio.gather(*(_send(batcher, inputs) for inputs in sent))
    sent.clear()
    await _until(lambda: len(batcher._idle) == 1)
    await _until(lambda: not any(array() is not None for array in kept))
    await _close(batcher)


@pytest.mark.parametrize("runners", [1, 2, 4])
async def test_a_full_batch_does_not_wait_behind_a_line_that_is_held(runners: int) -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]], BATCHED, runners=runners, max_delay=FOREVER)
    held = [_send(batcher, _x(width=width)) for width in (1, 2, 3)]
    await _until(lambda: batcher.waiting == 3 and batcher._timekeeper is not None)
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(_send(batcher, _x(width=9)) for _ in range(4)))
        await _send(batcher, _x(rows=5, width=2))  # with what is held of that shape it is full
        await _send(batcher, {"x": np.zeros((0, 7), np.float32)})  # without rows it runs alone
    assert [one.done() for one in held] == [False, True, False]
    await _close(batcher)  # takes what is held along
    await asyncio.gather(*held)


@pytest.mark.parametrize("runners", [1, 2])
async def test_nobody_is_held_for_company_until_the_deadline_is_over(runners: int) -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]], BATCHED, runners=runners, max_delay=FOREVER)
    held = _send(batcher, _x(width=1))
    await _until(lambda: batcher._timekeeper is not None)
    company = _send(batcher, _x(width=2))
    for width in (3, 2):  # in a line of its own, then behind one that is in no hurry
        await _send(batcher, _x(width=width), deadline=time.monotonic() + 5.0)
    await company  # went along
    assert not held.done()
    await _close(batcher)
    await held


async def test_while_some_runners_hold_lines_and_others_run_every_held_line_is_taken_in_its_time() -> None:
    """The runner that kept the time takes the first line and is long about it: another has to keep it after."""
    gate = Gate()

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        return gate.run(inputs, names) if inputs["x"].shape[1] == 1 else [inputs["x"]]

    batcher = _batcher(run, BATCHED, runners=2, max_delay=0.05)
    for _ in range(5):
        gate = Gate()
        first = _send(batcher, _x(width=1))
        # A runner keeps the time for 50 ms, which may be over before it is seen.
        await _until(lambda begun=gate.begun: batcher._timekeeper is not None or bool(begun))
        second = _send(batcher, _x(width=2))
        await gate.wait_for(1)
        await asyncio.wait_for(second, BOUND)
        assert not first.done()
        gate.open()
        await first
    await _close(batcher)


async def test_lines_take_turns_though_one_of_them_is_always_full() -> None:
    gate, order = Gate(), []

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        order.append(inputs["x"].shape)
        return gate.run(inputs, names)

    batcher = _batcher(run, BATCHED, runners=1)
    first = _send(batcher, _x(width=9))
    await gate.wait_for(1)
    busy = [_send(batcher, _x(rows=4, width=1)) for _ in range(5)]
    quiet = [_send(batcher, _x(width=width)) for width in (2, 3)]
    await _until(lambda: batcher.waiting == 7)
    gate.open()
    await asyncio.gather(first, *busy, *quiet)
    assert order == [(1, 9), (4, 1), (1, 2), (1, 3), (4, 1), (4, 1), (4, 1), (4, 1)]
    await _close(batcher)


@pytest.mark.parametrize(("parallel", "shapes"), [(1, [(4, 1), (2, 1)]), (2, [(3, 1), (2, 1), (1, 1)])])
async def test_a_runner_leaves_the_others_their_share_of_a_line(parallel: int, shapes) -> None:
    gate = Gate()
    plan = BatchPlan(4, {"x": 0}, {"y": 0}, parallel=parallel)
    batcher = _batcher(gate.run, plan, runners=1)
    first = _send(batcher, _x(width=9))
    await gate.wait_for(1)
    waiting = [_send(batcher, _x(width=1, value=float(i))) for i in range(6)]
    await _until(lambda: batcher.waiting == 6)
    gate.open()
    answers = await asyncio.gather(first, *waiting)
    assert gate.begun == [(1, 9), *shapes]
    assert [float(answer[0, 0]) for answer in answers[1:]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    await _close(batcher)


async def test_a_caller_that_leaves_after_its_runner_was_called_takes_no_wakeup_from_the_next() -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]], runners=2)
    for _ in range(200):
        leaves = [_send(batcher, _x()) for _ in range(3)]
        await asyncio.sleep(0)  # they are queued, and runners called
        for task in leaves:
            task.cancel()
        await asyncio.wait_for(_send(batcher, _x()), BOUND)
        await asyncio.gather(*leaves, return_exceptions=True)
    assert batcher.waiting == 0
    await _close(batcher)


async def test_a_runner_that_cannot_be_made_fails_who_called_it_and_nobody_after() -> None:
    failures = iter([RuntimeError("no memory on the device"), SystemExit(3)])

    @contextlib.contextmanager
    def make() -> Iterator[Callable[[Mapping[str, Array], Sequence[str]], list[Array]]]:
        if (failure := next(failures, None)) is not None:
            raise failure
        yield lambda inputs, _: [inputs["x"]]

    batcher = _batcher(lambda inputs, _: [], make=make)
    for cause in ("RuntimeError", "SystemExit"):
        with pytest.raises(ModelFailure, match=cause):
            await asyncio.wait_for(_send(batcher, _x()), BOUND)
    await asyncio.wait_for(_send(batcher, _x()), BOUND)
    await _close(batcher)


async def test_a_runner_that_dies_leaves_no_caller_waiting_and_is_replaced() -> None:
    gate = Gate()

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        gate.run(inputs, names)
        if inputs["x"].max() == 1:
            raise SystemExit  # no Exception: nothing that a run is expected to raise
        return [inputs["x"]]

    batcher = _batcher(run, runners=1)
    dying = _send(batcher, _x(value=1))
    await gate.wait_for(1)
    waiting = [_send(batcher, _x()) for _ in range(3)]
    await _until(lambda: batcher.waiting == 3)
    gate.open()
    for task in [dying, *waiting]:
        with pytest.raises(ModelFailure, match="SystemExit"):
            await asyncio.wait_for(task, BOUND)
    await asyncio.wait_for(_send(batcher, _x()), BOUND)
    await _close(batcher)


async def test_one_runner_that_dies_leaves_the_queue_to_those_that_live() -> None:
    first, second = Gate(), Gate()

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        if inputs["x"].max() == 1:
            first.run(inputs, names)
            raise SystemExit
        return second.run(inputs, names)

    batcher = _batcher(run, runners=2)
    dying = _send(batcher, _x(value=1))
    await first.wait_for(1)
    lives = _send(batcher, _x())
    await second.wait_for(1)
    waits = _send(batcher, _x())
    first.open()
    with pytest.raises(ModelFailure):
        await asyncio.wait_for(dying, BOUND)
    await second.wait_for(2)  # by the one that was started in its place
    second.open()
    await asyncio.gather(lives, waits)
    await _close(batcher)


async def test_without_a_thread_to_be_had_the_request_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]])
    with monkeypatch.context() as patched:

        def fail(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(QueueFull, match="thread"):
            await batcher.submit(_x(), ["y"], None)
    assert batcher.waiting == 0
    await asyncio.wait_for(_send(batcher, _x()), BOUND)
    await _close(batcher)


async def test_a_version_whose_run_hangs_takes_no_thread_to_wait_for_its_end() -> None:
    gates = [Gate() for _ in range(40)]  # more than asyncio's own executor has threads
    batchers = [_batcher(gate.run) for gate in gates]
    calls = [_send(batcher, _x()) for batcher in batchers]
    for gate in gates:
        await gate.wait_for(1)
    closings = [asyncio.create_task(_close(batcher)) for batcher in batchers]
    await asyncio.sleep(0)
    threads = threading.active_count()
    await asyncio.wait_for(asyncio.to_thread(time.monotonic), BOUND)
    assert threading.active_count() <= threads + 1
    for gate in gates:
        gate.open()
    await asyncio.gather(*calls, *closings)


async def test_outputs_of_a_joined_run_that_do_not_add_up_are_nobodys_and_no_run_is_joined_after() -> None:
    gate, reasons = Gate(), []

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        x = gate.run(inputs, names)[0]
        return [x[x[:, 0] >= 0]]

    batcher = _batcher(run, BATCHED, runners=1, demoted=reasons.append)
    first = _send(batcher, _x(width=1))
    await gate.wait_for(1)
    values = (1.0, -1.0, 2.0, 3.0)
    sent = [_send(batcher, _x(value=value)) for value in values]
    later = [_send(batcher, _x(value=value)) for value in values]
    await _until(lambda: batcher.waiting == 8)
    gate.open()
    for task, value in zip([*sent, *later], values * 2, strict=True):
        np.testing.assert_array_equal(await task, np.full((int(value > 0), 2), value, np.float32))
    await first
    # The joined run, its requests again, and then those that were in one line with them already.
    assert gate.begun == [(1, 1), (4, 2)] + [(1, 2)] * 8
    assert reasons == ["unbatched: demoted at run time: output y had 3 rows of 4"]
    await _close(batcher)


async def test_a_joined_run_under_way_while_the_version_is_demoted_is_not_believed_either() -> None:
    bad, good = Gate(), Gate()

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        x = inputs["x"]
        if x.shape[1] == 1:
            bad.run(inputs, names)
            return [x[:1]]
        good.run(inputs, names)
        return [x[::-1]]  # adds up, and is wrong

    batcher = _batcher(run, BATCHED, runners=2, max_delay=FOREVER)
    wrong = [_send(batcher, _x(value=value, width=2)) for value in range(4)]
    await good.wait_for(1)
    shrunk = [_send(batcher, _x(value=value, width=1)) for value in range(4)]
    await bad.wait_for(1)
    bad.open()
    await asyncio.gather(*shrunk)
    good.open()
    for value, answer in enumerate(await asyncio.gather(*wrong)):
        np.testing.assert_array_equal(answer, np.full((1, 2), value, np.float32))
    await _close(batcher)


async def test_who_gave_up_is_not_run_again_with_the_rest_of_a_failed_batch() -> None:
    gate = Gate()

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        gate.run(inputs, names)
        if len(inputs["x"]) > 1:
            raise RuntimeError("the batch is bad")
        return [inputs["x"]]

    batcher = _batcher(run, BATCHED, runners=1, max_delay=FOREVER)
    stays = [_send(batcher, _x()) for _ in range(2)]
    leaves = _send(batcher, _x())
    late = _send(batcher, _x(), deadline=time.monotonic() + 0.5)
    await gate.wait_for(1)
    leaves.cancel()
    with pytest.raises(DeadlineExceededError):
        await late
    gate.open()
    await asyncio.gather(*stays)
    assert gate.begun == [(4, 2), (1, 2), (1, 2)]
    await _close(batcher)


async def _together(batcher: Batcher, gate: Gate, inputs: Sequence[dict[str, Array]]) -> list[Any]:
    """Has requests wait while the only runner is busy, so that it finds them all, and returns answers or errors."""
    gate.close()
    busy = _send(batcher, _x(width=9))
    await gate.wait_for(len(gate.begun) + 1)
    sent = [_send(batcher, one) for one in inputs]
    await _until(lambda: batcher.waiting == len(inputs))
    gate.open()
    await busy
    return await asyncio.gather(*sent, return_exceptions=True)


async def test_an_output_that_all_are_given_is_known_before_a_run_is_shared_and_is_the_same_in_each() -> None:
    gate, reasons, constant = Gate(), [], [True]
    plan = BatchPlan(4, {"x": 0}, {})

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        rows, width = gate.run(inputs, names)[0].shape
        return [np.array(rows if width == 2 and not constant[0] else 7)]

    batcher = _batcher(run, plan, runners=1, demoted=reasons.append)
    assert await _together(batcher, gate, [_x()] * 4) == [7] * 4
    assert gate.begun[-4:] == [(1, 2)] * 4  # what they would share was not known
    assert await _together(batcher, gate, [_x()] * 4) == [7] * 4
    assert gate.begun[-1] == (4, 2)
    assert await _together(batcher, gate, [_x(width=3)] * 2) == [7] * 2
    assert gate.begun[-2:] == [(1, 3)] * 2  # it may depend on what else the requests of a line have in common
    constant[0] = False
    assert await _together(batcher, gate, [_x()] * 4) == [1] * 4
    assert gate.begun[-6:] == [(4, 2), *[(1, 2)] * 5]  # the first that ran alone was not believed either
    assert reasons == [
        "unbatched: demoted at run time: output y, given to all requests of a run, is not always the same"
    ]
    await _close(batcher)


@pytest.mark.parametrize(
    ("proved", "fails", "demoted"),
    [(True, True, False), (True, False, False), (False, True, False), (False, False, True)],
    ids=["proved, fails", "proved, loses its row", "declared, fails", "declared, loses its row"],
)
async def test_a_request_that_is_odd_alone_too_is_to_blame_for_the_run_that_it_spoils(
    proved: bool, fails: bool, demoted: bool
) -> None:
    """One whose row is lost alone is one that ONNX would refuse, if the graph proves that rows are never lost."""
    gate, reasons = Gate(), []

    def run(inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        x = gate.run(inputs, names)[0]
        if fails and len(x) == 1 and x[0, 0] < 0:
            raise ModelFailure("it is negative")
        return [x[x[:, 0] >= 0]]

    batcher = _batcher(run, replace(BATCHED, proved=proved), runners=1, demoted=reasons.append)
    answers = await _together(batcher, gate, [_x(value=value) for value in (1.0, 2.0, -1.0, 3.0)])
    assert isinstance(answers[2], ModelFailure) if fails else len(answers[2]) == 0
    assert [answers[index][0, 0] for index in (0, 1, 3)] == [1.0, 2.0, 3.0]
    assert bool(reasons) == demoted
    assert len(await _together(batcher, gate, [_x()] * 4)) == 4
    assert gate.begun[-1] == ((1, 2) if demoted else (4, 2))
    await _close(batcher)


async def test_a_proof_that_a_run_contradicts_is_given_up_if_no_request_is_to_blame() -> None:
    gate, reasons = Gate(), []
    batcher = _batcher(
        lambda inputs, names: [gate.run(inputs, names)[0][:1]], replace(BATCHED, proved=True), runners=1,
        demoted=reasons.append,
    )  # fmt: skip
    assert len(await _together(batcher, gate, [_x()] * 4)) == 4
    assert reasons == ["unbatched: demoted at run time: output y had 1 rows of 4"]
    await _close(batcher)


async def test_how_many_rows_there_are_is_never_shared() -> None:
    gate, reasons = Gate(), []
    batcher = _batcher(
        lambda inputs, names: [np.array(len(gate.run(inputs, names)[0]))], BatchPlan(4, {"x": 0}, {}), runners=1,
        demoted=reasons.append,
    )  # fmt: skip
    for _ in range(3):
        assert await _together(batcher, gate, [_x()] * 3) == [1] * 3
    assert len(reasons) == 1
    await _close(batcher)


async def test_of_idle_runners_one_looks_for_requests_and_it_is_called_first() -> None:
    ran: list[str] = []

    def run(inputs: Mapping[str, Array], _: Sequence[str]) -> list[Array]:
        ran.append(threading.current_thread().name)
        barrier.wait()
        return [inputs["x"]]

    batcher = _batcher(run, runners=2, spin=FOREVER)
    barrier = threading.Barrier(2, timeout=BOUND)
    await asyncio.gather(_send(batcher, _x()), _send(batcher, _x()))
    await _until(lambda: len(batcher._idle) == 2)
    assert batcher._spinning
    barrier = threading.Barrier(1)
    first = batcher._idle[-1]
    for _ in range(50):
        await asyncio.wait_for(_send(batcher, _x()), BOUND)
        await _until(lambda: len(batcher._idle) == 2 and batcher._spinning)
        assert batcher._idle[-1] is first
    assert len(set(ran[2:])) == 1
    await _close(batcher)  # ends the one that looks, too


async def test_a_runner_that_looked_in_vain_sleeps_and_looks_no_more_until_requests_come_sooner() -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]], runners=1, spin=1e-6)
    for _ in range(20):
        await asyncio.wait_for(_send(batcher, _x()), BOUND)
        await _until(lambda: len(batcher._idle) == 1 and not batcher._spinning)  # it looked in vain
    assert not batcher._spin.worthwhile
    batcher._spin.seconds = BOUND
    await asyncio.wait_for(_send(batcher, _x()), BOUND)  # came in time, had it looked so long
    await _until(lambda: batcher._spinning)
    await asyncio.wait_for(_send(batcher, _x()), BOUND)
    await _close(batcher)


async def test_a_caller_that_leaves_a_runner_that_looks_takes_no_call_from_the_next() -> None:
    batcher = _batcher(lambda inputs, _: [inputs["x"]], runners=2, spin=1e-4)
    for _ in range(100):
        leaves = [_send(batcher, _x()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in leaves:
            task.cancel()
        await asyncio.wait_for(_send(batcher, _x()), BOUND)
        await asyncio.gather(*leaves, return_exceptions=True)
    assert batcher.waiting == 0
    await _close(batcher)
