"""Captured runs, driven on the CPU provider: the same calls as on CUDA, whose graphs are plain runs there."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from semver import Version

from onnx_models import matmul, model, save, tensor
from turnout.config import Runtime
from turnout.registry.compatibility.agreement import differs, tolerance_of
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry, Manifest
from turnout.registry.onnx.graph_reader import read_graph
from turnout.registry.onnx.model import read_model
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batchability import BatchPlan, prove
from turnout.serving.cuda_graphs import preparation
from turnout.serving.cuda_graphs.graph_runner import GraphRunner, GraphsFailed
from turnout.serving.cuda_graphs.plan import GraphPlan, plan_graphs
from turnout.serving.sessions.io_binding import HostBuffer, pageable
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session, Stop
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.sessions.tensor import Array

BOUND = 30.0


class Captured(Session):
    """A session that counts its launches by thread, and whose launches can be made to lie."""

    launched: list[tuple[int, int]]
    lie: Callable[[int, int], bool] = staticmethod(lambda number, launch: False)  # type: ignore[assignment]

    def capture(self, binding: Any, graph: int) -> Callable[[], None]:
        launch = super().capture(binding, graph)
        self.launched = getattr(self, "launched", [])
        count = 0

        def counted() -> None:
            nonlocal count
            count += 1
            self.launched.append((graph, threading.get_ident()))
            if not self.lie(graph, count):
                launch()

        return counted


class Subject:
    """A model, loaded so that it captures."""

    def __init__(self, proto: onnx.ModelProto, path: Path, rows: int = 8) -> None:
        save(proto, path)
        signature = read_model(path).signature
        files = (FileEntry(MODEL_FILE, 1, "sha256:" + "0" * 64),)
        self.manifest = Manifest("m", Version(1), files, signature, {"": 17}, 8)
        self.session = Captured(SessionSpec(path, signature, [CPU], 0, Runtime()), captures=True)
        self.plain = Session(SessionSpec(path, signature, [CPU], 0, Runtime()))
        self.batch_plan = prove(self.plain.run, self.manifest, rows, (), read_graph(path))
        self.plan = plan_graphs(signature, self.batch_plan)
        self.outputs = [spec.name for spec in signature.outputs]

    def runner(self, **given: Any) -> GraphRunner:
        return GraphRunner(self.session, self.plan, self.outputs, given.pop("allocate", pageable), **given)

    def capture(self, runner: GraphRunner) -> None:
        rows = preparation._rows(self.plain.run, PlanInForce(self.batch_plan), self.outputs)
        tolerances = {spec.name: tolerance_of(self.manifest, spec) for spec in self.manifest.signature.outputs}
        runner.capture(rows, lambda name, got, expected: differs(got, expected, tolerances[name]))


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    return functools.partial(lambda proto, rows=8: Subject(proto, tmp_path / "model.onnx", rows))


def _two_axes() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "rate"], ["y"]),
        helper.make_node("Neg", ["state"], ["next"]),
    ]
    return model(
        nodes,
        [tensor("x", TensorProto.FLOAT, ["N", 4]), tensor("state", TensorProto.INT64, [2, "N", 3]),
         tensor("rate", TensorProto.FLOAT, [])],
        [tensor("y", TensorProto.FLOAT, ["N", 4]), tensor("next", TensorProto.INT64, [2, "N", 3])],
    )  # fmt: skip


def _inputs(proto_name: str, rows: int, random: np.random.Generator) -> Mapping[str, Array]:
    if proto_name == "matmul":
        return {"x": random.standard_normal((rows, 64)).astype(np.float32)}
    return {
        "x": random.standard_normal((rows, 4)).astype(np.float32),
        "state": random.integers(-9, 9, (2, rows, 3)),
        "rate": np.array(random.standard_normal(), np.float32),
    }


@pytest.mark.parametrize(("name", "proto"), [("matmul", matmul()), ("two axes", _two_axes())])
def test_each_size_up_to_the_largest_is_answered_as_plainly_run_by_the_next_larger_graph(subject, name, proto) -> None:
    made, random = subject(proto), np.random.default_rng(1)
    assert made.plan.buckets == (1, 2, 4, 8), made.plan.reason
    with made.runner() as run:
        made.capture(run)
        numbers = {graph.rows: number for number, graph in zip(_ids(made.session), run._graphs.values(), strict=True)}
        for rows in (*range(1, 9), *range(8, 0, -1)):
            inputs = _inputs(name, rows, random)
            made.session.launched.clear()
            got = run(inputs, made.outputs[::-1])
            assert [number for number, _ in made.session.launched] == [numbers[1 << (rows - 1).bit_length()]]
            for value, expected in zip(got, made.plain.run(inputs, made.outputs[::-1]), strict=True):
                assert value.dtype == expected.dtype
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def _ids(session: Captured) -> Sequence[int]:
    return list(dict.fromkeys(number for number, _ in session.launched))


@pytest.mark.parametrize("rows", [0, 9, 100])
def test_other_sizes_run_plainly(subject, rows: int) -> None:
    made = subject(matmul())
    with made.runner() as run:
        made.capture(run)
        made.session.launched.clear()
        x = np.ones((rows, 64), np.float32)
        np.testing.assert_allclose(run({"x": x}, ["y"])[0], made.plain.run({"x": x}, ["y"])[0], rtol=1e-5)
    assert made.session.launched == []


def test_an_answer_outlives_the_next_run_and_the_runner(subject) -> None:
    made = subject(matmul())
    first, second = np.ones((1, 64), np.float32), np.full((1, 64), 2, np.float32)
    with made.runner() as run:
        made.capture(run)
        (kept,) = run({"x": first}, ["y"])
        run({"x": second}, ["y"])
    np.testing.assert_allclose(kept, made.plain.run({"x": first}, ["y"])[0], rtol=1e-5)


def test_once_rows_are_seen_to_mix_no_batch_is_filled_up(subject) -> None:
    made, apart = subject(matmul()), [True]
    with made.runner(may_fill_up=lambda: apart[0]) as run:
        made.capture(run)
        for expected in (1, 0):
            made.session.launched.clear()
            run({"x": np.ones((3, 64), np.float32)}, ["y"])
            assert len(made.session.launched) == expected
            apart[0] = False
        run({"x": np.ones((4, 64), np.float32)}, ["y"])
        assert len(made.session.launched) == 1


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda number, launch: True, "output y of a graph of 1 row differs"),
        (lambda number, launch: launch == 3, "output y of a graph of"),
        (lambda number, launch: launch == 6, "output y of a graph of"),
    ],
    ids=["never runs", "misses a change of its inputs", "misses one later"],
)
def test_a_graph_that_answers_otherwise_than_a_plain_run_is_not_used(subject, lie, reason: str) -> None:
    made = subject(matmul())
    made.session.lie = lie
    with made.runner() as run, pytest.raises(GraphsFailed, match=reason):
        made.capture(run)


def test_whatever_the_runtime_raises_while_it_captures_is_a_reason_to_do_without(subject) -> None:
    made, threads = subject(matmul()), []

    def fail(array: Array) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    made.session.value_like = fail
    plan, runners = preparation.prepare(
        [made.session], made.manifest, PlanInForce(made.batch_plan), pageable, _started(threads)
    )
    assert (plan.buckets, runners) == ((), [])
    assert plan.reason == "off: a graph of 1 row cannot be captured: CUDA failure 2: out of memory"
    for thread in threads:
        thread.join(BOUND)


def test_leaving_the_context_frees_every_host_buffer(subject) -> None:
    made, held = subject(matmul()), set()

    def allocate(size: int) -> HostBuffer:
        buffer = pageable(size)
        held.add(buffer.address)
        return HostBuffer(size, buffer.address, buffer, lambda: held.discard(buffer.address))

    with made.runner(allocate=allocate) as run:
        made.capture(run)
        run({"x": np.ones((3, 64), np.float32)}, ["y"])
        assert held
    assert not held


def test_a_session_that_captures_takes_one_run_at_a_time_and_is_stopped_like_others(subject) -> None:
    made = subject(matmul())
    inside, most = [0], [0]
    really = made.session._run

    def slow(*arguments: object) -> object:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return really(*arguments)
        finally:
            inside[0] -= 1

    made.session._run = slow
    x = {"x": np.ones((64, 64), np.float32)}

    def run_some() -> None:
        for _ in range(100):
            made.session.run(x, ["y"], Stop())

    threads = [threading.Thread(target=run_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert most == [1]


def test_numbers_of_graphs_are_never_given_twice(subject) -> None:
    made = subject(matmul())
    seen: list[int] = []
    for _ in range(2):
        with made.runner() as run:
            made.capture(run)
        seen += _ids(made.session)
        made.session.launched.clear()
    assert len(set(seen)) == len(seen) == 8


def _started(threads: list[threading.Thread]) -> Callable[[Callable[[], None]], None]:
    def start(work: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()

    return start


def test_preparing_captures_in_the_thread_that_will_launch(subject) -> None:
    made, threads = subject(matmul()), []
    in_force = PlanInForce(made.batch_plan)
    plan, runners = preparation.prepare([made.session], made.manifest, in_force, pageable, _started(threads))
    assert plan.reason == "captured for 1, 2, 4, 8 rows, proved against plain runs"
    assert len(runners) == 1
    assert {ident for _, ident in made.session.launched} == {threads[0].ident}
    preparation.close(runners)
    threads[0].join(BOUND)


def test_where_nothing_is_captured_there_are_no_runners_and_the_reason_is_told(subject) -> None:
    made, threads = subject(matmul()), []
    made.session.lie = lambda number, launch: launch == 2
    plan, runners = preparation.prepare(
        [made.session], made.manifest, PlanInForce(made.batch_plan), pageable, _started(threads)
    )
    assert (plan.buckets, runners) == ((), [])
    assert plan.reason.startswith("off: ")
    assert "differs from a plain run's" in plan.reason
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()


def test_buffers_that_are_too_large_are_not_made(subject) -> None:
    made = subject(matmul())
    nothing = GraphPlan((1, 2), "").within(100, 99)
    assert nothing.buckets == ()
    assert made.plan.within(1 << 28).reason.startswith("captured for 1 row,")


def test_a_plan_that_batches_nothing_still_has_its_one_size(subject) -> None:
    made = subject(matmul(batch=2))
    assert isinstance(made.batch_plan, BatchPlan)
    with made.runner() as run:
        made.capture(run)
        made.session.launched.clear()
        run({"x": np.ones((2, 64), np.float32)}, ["y"])
    assert len(made.session.launched) == 1
