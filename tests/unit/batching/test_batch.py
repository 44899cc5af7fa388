"""How requests are put together and outputs taken apart, and that nothing is cut whose size does not add up."""

import sys
import threading

import numpy as np
import pytest

from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batch import BatchSizeMismatch, Lines, shape_of, split
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.proven_sizes import ProvenSizes
from turnout.serving.inputs.rows import join

PLAN = BatchPlan(8, {"x": 0}, {"y": 0, "z": 1})


def test_outputs_are_cut_by_rows_along_their_axes():
    outputs = {"y": np.arange(3), "z": np.arange(6).reshape(2, 3), "c": np.array([7])}
    first, second = split(PLAN, outputs, [1, 2], [["y", "c"], ["z"]])
    assert [part.tolist() for part in first] == [[0], [7]]
    assert [part.tolist() for part in second] == [[[1, 2], [4, 5]]]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("y", (2,)), ("y", (4,)), ("y", (0,)), ("y", ()), ("z", (3,)), ("z", (3, 2)), ("z", (2, 6))],
)
def test_a_run_whose_output_has_other_rows_than_its_requests_is_not_cut(name, shape):
    outputs = {"y": np.zeros(3), "z": np.zeros((2, 3))} | {name: np.zeros(shape)}
    with pytest.raises(BatchSizeMismatch, match=f"output {name} had .* of 3"):
        split(PLAN, outputs, [1, 2], [["y"], ["z"]])


def test_a_request_by_itself_has_whatever_its_model_answers():
    assert split(PLAN, {"y": np.zeros(5)}, [1], [["y"]])[0][0].shape == (5,)


def test_outputs_that_nobody_asked_for_are_not_looked_for():
    assert [len(parts) for parts in split(PLAN, {"y": np.zeros(2)}, [1, 1], [["y"], ["y"]])] == [1, 1]


def _proof(answer: bool):
    asked, done = [], threading.Event()

    def prove(sizes):
        asked.append(sizes)
        done.set()
        return answer

    return prove, asked, done


def _wait_until(condition) -> bool:
    return any(condition() or threading.Event().wait(0.01) for _ in range(10_000))


@pytest.mark.parametrize("plan", [PLAN, BatchPlan(0, {}, {})], ids=["batched", "unbatched"])
def test_the_line_of_a_request_is_that_of_the_next_of_its_kind(plan):
    lines, kind = Lines(), object()
    first = lines.of(plan, {"x": np.zeros((2, 4))}, kind)
    assert lines.of(plan, {"x": np.ones((2, 4))}, kind) is first
    assert first[1:] == (*(shape_of(plan, {"x": np.zeros((2, 4))}) or (None, 1)), 64)
    assert lines.of(plan, {"x": np.zeros((3, 4))}, object())[2] == (3 if plan is PLAN else 1)
    assert lines.of(plan, {"x": np.zeros((3, 4))}, None)[3] == 96


def test_a_line_is_another_once_the_plan_is():
    lines, kind, inputs = Lines(), object(), {"x": np.zeros((2, 4))}
    assert lines.of(PLAN, inputs, kind)[1] is not None
    assert lines.of(BatchPlan(0, {}, {}), inputs, kind)[1] is None


def test_inputs_that_are_compared_by_value_are_looked_at_each_time():
    lines, kind = Lines(), object()
    one, other = (lines.of(PLAN, {"x": np.zeros((2, 4)), "rate": np.array([rate])}, kind) for rate in (1, 2))
    assert one[1] != other[1]


def test_a_kind_runs_alone_only_until_its_sizes_are_proved():
    prove, _, _ = _proof(True)
    plan = BatchPlan(8, {"x": 0}, {"y": 0}, sizes=ProvenSizes(prove, []))
    lines, kind, inputs = Lines(), object(), {"x": np.zeros((1, 4))}
    assert lines.of(plan, inputs, kind)[1] is None
    assert _wait_until(lambda: lines.of(plan, inputs, kind)[1] is not None)


def test_kinds_that_are_remembered_are_bounded():
    lines = Lines()
    for _ in range(1000):
        lines.of(PLAN, {"x": np.zeros((2, 4))}, object())
    assert len(lines._known) <= 256


def test_sizes_that_are_new_run_alone_until_they_are_proved():
    prove, asked, done = _proof(True)
    plan = BatchPlan(8, {"x": 0}, {"y": 0}, sizes=ProvenSizes(prove, [(("x", (4,)),)]))
    assert shape_of(plan, {"x": np.zeros((1, 4))}) is not None
    assert shape_of(plan, {"x": np.zeros((1, 5))}) is None
    assert done.wait(100)
    assert _wait_until(lambda: shape_of(plan, {"x": np.zeros((2, 5))}) is not None)
    assert asked == [(("x", (5,)),)]


def test_sizes_that_are_disproved_stay_alone_and_are_asked_for_once():
    prove, asked, done = _proof(False)
    sizes = ProvenSizes(prove, [])
    assert not sizes.holds((("x", (5,)),))
    assert done.wait(100)
    assert _wait_until(lambda: (("x", (5,)),) in sizes._known)
    assert not sizes.holds((("x", (5,)),))
    assert len(asked) == 1


def test_requests_of_equal_sizes_are_joined_in_their_order():
    together = join(PLAN.input_axes, [{"x": np.zeros((1, 2))}, {"x": np.ones((2, 2))}])
    assert together["x"][:, 0].tolist() == [0, 1, 1]


def test_a_request_runs_alone_whose_sizes_differ_where_the_proof_takes_them_for_equal():
    plan = BatchPlan(8, {"x": 0, "y": 0}, {"z": 0}, equal=[[("x", 1), ("y", 1)]])
    assert shape_of(plan, {"x": np.zeros((1, 6)), "y": np.zeros((1, 6))}) is not None
    assert shape_of(plan, {"x": np.zeros((1, 6)), "y": np.zeros((1, 2))}) is None


def test_what_runs_share_is_kept_by_several_threads_at_once():
    in_force, failed = PlanInForce(PLAN), []

    def check(thread: int) -> None:
        for index in range(4000):  # far more than are kept
            try:
                in_force.check((thread, index), {"c": np.zeros(1)})
            except RuntimeError as error:
                failed.append(error)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed
