"""Runs a session with captured CUDA graphs if the request's shapes match one, and plainly otherwise.

    capture:  fixed values on the device -> bound -> two runs, and a third that is captured    proved against plain runs
    run:      inputs -> pinned host buffer, padded to the bucket -> device -> launch -> host -> rows of the request

On the CPU provider the steps are the same, with values in host memory and runs instead of launches. The tests use that.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import onnxruntime as ort

from turnout.errors import TurnoutError
from turnout.serving.cuda_graphs.plan import GraphPlan
from turnout.serving.inputs.rows import join, part
from turnout.serving.sessions.io_binding import Allocate, BoundRunner, HostBuffer
from turnout.serving.sessions.runtime_errors import sentence
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.tensor import Array

Row = Mapping[str, Array]
Differs = Callable[[str, Array, Array], bool]
"""Returns whether two values of the named output differ by more than the tolerance."""

_NUMBERS = itertools.count(1)


class GraphsFailed(Exception):
    """Raised when CUDA graphs cannot be used; the message gives the reason."""


class GraphRunner:
    """Runs one session in one thread, which captures and launches the graphs."""

    def __init__(
        self,
        session: Session,
        plan: GraphPlan,
        outputs: Sequence[str],
        allocate: Allocate,
        may_fill_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepares the runner; `capture` captures the graphs.

        Other threads must use the session for plain runs only. `may_fill_up` returns whether rows are still independent
        of each other, so that a batch may be padded.
        """
        self._session = session
        self._plan = plan
        self._outputs = outputs
        self._allocate = allocate
        self._may_fill_up = may_fill_up
        self._plain = BoundRunner(session, allocate)
        self._graphs: dict[int, _Graph] = {}

    def capture(self, rows: Sequence[Row], differs: Differs) -> None:
        """Captures a graph for each bucket of the plan and checks it against plain runs.

        The model runs on each of these one-row inputs, which are different if possible.

        Raises:
            GraphsFailed: A graph cannot be captured, or its answers differ from a plain run's.
        """
        for bucket in self._plan.buckets:
            first, second = (
                join(self._plan.input_axes, [rows[(start + index) % len(rows)] for index in range(bucket)])
                for start in (0, 1)
            )
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
            except Exception as error:  # any error of ONNX Runtime: the version can be served without graphs
                why = error.message if isinstance(error, TurnoutError) else sentence(str(error)) or repr(error)
                raise GraphsFailed(f"a graph of {_rows(bucket)} cannot be captured: {why}") from error

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once. Arguments, result and errors are those of `Session.run`."""
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
        """Frees all buffers."""
        self._plain.__exit__()
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()

    def _prove(
        self, graph: "_Graph", batches: Sequence[Row], expected: Sequence[Sequence[Array]], differs: Differs
    ) -> None:
        """Launches a graph on changing inputs, over outputs with other contents, and on fewer rows.

        Raises:
            GraphsFailed: An answer differs from the plain run's.
        """
        for inputs, answers in zip(batches, expected, strict=True):
            for rows in dict.fromkeys((graph.rows, max(graph.rows - 1, 1))):
                graph.spoil_outputs()
                axes = self._plan.input_axes
                first = {name: part(array, axes.get(name), 0, rows) for name, array in inputs.items()}
                got = graph.run(first, rows)
                for name, answer in zip(self._outputs, answers, strict=True):
                    if differs(name, got[name], part(answer, self._plan.output_axes.get(name), 0, rows)):
                        raise GraphsFailed(
                            f"output {name} of a graph of {_rows(graph.rows)} differs from a plain run's"
                        )


class _Graph:
    """One captured graph of `rows` rows: values at fixed addresses and their binding."""

    def __init__(self, session: Session, plan: GraphPlan, rows: int, like: tuple[Row, Row], allocate: Allocate) -> None:
        """Allocates values like the inputs and outputs of a plain run of `rows` rows."""
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
        """Captures the graph while it runs on `inputs`. Raises as `Session.capture`."""
        with self._session.turn():
            self._write(inputs, self.rows)
        self._launch = self._session.capture(self._binding, next(_NUMBERS))

    def run(self, inputs: Row, rows: int) -> dict[str, Array]:
        assert self._launch is not None, "it is captured first"
        with self._session.turn():
            self._write(inputs, rows)
            self._launch()
            return {
                name: part(self._read(value), self._plan.output_axes.get(name), 0, rows)
                for name, value in self._outputs.items()
            }

    def spoil_outputs(self) -> None:
        with self._session.turn():
            for value in self._outputs.values():
                held = self._read(value)
                value.update_inplace((~held.view(np.uint8)).view(held.dtype) if held.size and held.ndim else held)

    def close(self) -> None:
        """Frees the memory. The graph itself stays in the session and is never launched again."""
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
        array: Array = value.numpy()
        return array.copy() if self._session.device == "cpu" else array  # on the CPU it is the value's own memory


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
