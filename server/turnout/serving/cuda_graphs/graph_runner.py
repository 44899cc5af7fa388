"""Runs one session by captured CUDA graphs where a request's shapes are those of one, and plainly else.

    capture:  fixed values on the device -> bound -> two runs, and a third that is captured    proved against plain runs
    run:      inputs -> pinned host buffer, filled up to the bucket -> device -> launch -> host -> rows of the request

On the CPU provider all of it is done in the same way, with values in host memory and runs in place of launches: that is
what the tests drive.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import onnxruntime as ort

from turnout.errors import TurnoutError
from turnout.serving.cuda_graphs.plan import GraphPlan
from turnout.serving.sessions.io_binding import Allocate, BoundRunner, HostBuffer
from turnout.serving.sessions.runtime_errors import sentence
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.tensor import Array

Row = Mapping[str, Array]
Differs = Callable[[str, Array, Array], bool]
"""Tells whether two values of an output, by its name, are further apart than they may be."""

_NUMBERS = itertools.count(1)


class GraphsFailed(Exception):
    """No graph is to be used; the message is why."""


class GraphRunner:
    """Runs one session in one thread, which captures the graphs and launches them."""

    def __init__(
        self,
        session: Session,
        plan: GraphPlan,
        outputs: Sequence[str],
        allocate: Allocate,
        may_fill_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepares; `capture` captures.

        Args:
            session: Captures, and runs nothing else in other threads that is not plain.
            plan: What is captured.
            outputs: Names of all outputs.
            allocate: Makes host buffers.
            may_fill_up: Tells whether rows still keep to themselves, so that a batch may be filled up.
        """
        self._session = session
        self._plan = plan
        self._outputs = outputs
        self._allocate = allocate
        self._may_fill_up = may_fill_up
        self._plain = BoundRunner(session, allocate)
        self._graphs: dict[int, _Graph] = {}

    def capture(self, rows: Sequence[Row], differs: Differs) -> None:
        """Captures a graph for each bucket of the plan, and proves each against plain runs.

        Args:
            rows: That the model runs on, of one row each; different ones, as far as there are.
            differs: Tells whether an answer is another.

        Raises:
            GraphsFailed: One cannot be captured, or answers otherwise than a plain run.
        """
        for bucket in self._plan.buckets:
            first, second = (self._joined(rows, start, bucket) for start in (0, 1))
            try:
                expected = [self._plain(inputs, self._outputs) for inputs in (first, second)]
                graph = _Graph(
                    self._session,
                    self._plan,
                    bucket,
                    (first, dict(zip(self._outputs, expected[0], strict=True))),
                    self._allocate,
                )
                self._graphs[bucket] = graph
                graph.capture(first)
                self._prove(graph, (first, second, first), (*expected, expected[0]), differs)
            except GraphsFailed:
                raise
            except Exception as error:  # whatever ONNX Runtime raises: the version can be served without
                why = error.message if isinstance(error, TurnoutError) else sentence(str(error)) or repr(error)
                raise GraphsFailed(f"a graph of {_rows(bucket)} cannot be captured: {why}") from error

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once; arguments, answer and errors are those of `Session.run`."""
        rows = self._plan.rows_of(inputs)
        bucket = None if rows is None else self._plan.bucket(rows)
        graph = None if bucket is None else self._graphs.get(bucket)
        if rows is None or graph is None or (rows != bucket and not self._may_fill_up()):
            return self._plain(inputs, outputs)
        answers = graph.run(inputs, rows)
        return [answers[name] for name in outputs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives all buffers back."""
        self._plain.__exit__()
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()

    def _joined(self, rows: Sequence[Row], start: int, count: int) -> Row:
        chosen = [rows[(start + index) % len(rows)] for index in range(count)]
        axes = self._plan.input_axes
        return {
            name: np.concatenate([row[name] for row in chosen], axis=axes[name]) if name in axes else array
            for name, array in chosen[0].items()
        }

    def _prove(
        self, graph: "_Graph", batches: Sequence[Row], expected: Sequence[Sequence[Array]], differs: Differs
    ) -> None:
        """Launches a graph on inputs that change, over outputs that hold something else, and on fewer rows.

        Raises:
            GraphsFailed: An answer differs.
        """
        for inputs, answers in zip(batches, expected, strict=True):
            for rows in dict.fromkeys((graph.rows, max(graph.rows - 1, 1))):
                graph.spoil_outputs()
                got = graph.run(self._first(inputs, rows), rows)
                for name, answer in zip(self._outputs, answers, strict=True):
                    if differs(name, got[name], _first(answer, self._plan.output_axes.get(name), rows)):
                        raise GraphsFailed(
                            f"output {name} of a graph of {_rows(graph.rows)} differs from a plain run's"
                        )

    def _first(self, inputs: Row, rows: int) -> Row:
        return {name: _first(array, self._plan.input_axes.get(name), rows) for name, array in inputs.items()}


class _Graph:
    """One captured graph: values that stay where they are, and a binding of them.

    Attributes:
        rows: That it computes.
    """

    def __init__(self, session: Session, plan: GraphPlan, rows: int, like: tuple[Row, Row], allocate: Allocate) -> None:
        """Makes values for inputs and outputs like those of a plain run of so many rows."""
        inputs, outputs = like
        self.rows = rows
        self._session = session
        self._plan = plan
        self._launch: Callable[[], None] | None = None
        self._staging: dict[str, tuple[HostBuffer, Array]] = {}
        self._inputs: dict[str, ort.OrtValue] = {}
        self._outputs: dict[str, ort.OrtValue] = {}
        self._binding = session.bind()
        for name, array in inputs.items():
            buffer = allocate(max(array.nbytes, 1))
            self._staging[name] = buffer, buffer.view(array.dtype, array.shape)
        with session.turn():
            for name, array in inputs.items():
                self._inputs[name] = session.value_like(array)
                self._binding.bind_ortvalue_input(name, self._inputs[name])
            for name, array in outputs.items():
                self._outputs[name] = session.value_like(array)
                self._binding.bind_ortvalue_output(name, self._outputs[name])

    def capture(self, inputs: Row) -> None:
        """Captures it, on inputs that it computes then. Raises as `Session.capture`."""
        with self._session.turn():
            self._write(inputs, self.rows)
        self._launch = self._session.capture(self._binding, next(_NUMBERS))

    def run(self, inputs: Row, rows: int) -> dict[str, Array]:
        """Returns all outputs by name, of so many rows. Raises as `Session.run`."""
        assert self._launch is not None, "it is captured first"
        with self._session.turn():
            self._write(inputs, rows)
            self._launch()
            return {
                name: _first(self._read(value), self._plan.output_axes.get(name), rows)
                for name, value in self._outputs.items()
            }

    def spoil_outputs(self) -> None:
        """Has its outputs hold what they do not hold now."""
        with self._session.turn():
            for value in self._outputs.values():
                held = self._read(value)
                value.update_inplace((~held.view(np.uint8)).view(held.dtype) if held.size and held.ndim else held)

    def close(self) -> None:
        """Gives its memory back; the graph itself stays in the session, and is never launched again."""
        self._launch = None
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        with self._session.turn():
            self._inputs.clear()
            self._outputs.clear()
        for buffer, _ in self._staging.values():
            buffer.close()
        self._staging.clear()

    def _write(self, inputs: Row, rows: int) -> None:
        for name, (_, staged) in self._staging.items():
            axis = self._plan.input_axes.get(name)
            if axis is None or rows == self.rows:
                staged[...] = inputs[name]
            else:
                before = (slice(None),) * axis
                staged[(*before, slice(0, rows))] = inputs[name]
                staged[(*before, slice(rows, None))] = inputs[name][(*before, slice(rows - 1, rows))]
            self._inputs[name].update_inplace(staged)

    def _read(self, value: ort.OrtValue) -> Array:
        """Returns a copy of a value in host memory."""
        array: Array = value.numpy()
        return array.copy() if self._session.device == "cpu" else array  # there it is the value's own memory


def _first(array: Array, axis: int | None, rows: int) -> Array:
    return array if axis is None or array.shape[axis] == rows else array[(*(slice(None),) * axis, slice(0, rows))]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
