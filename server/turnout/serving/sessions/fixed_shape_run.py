"""Runs a session for requests of one kind, which have the same names, shapes and dtypes: bound to memory once.

ONNX Runtime looks names up, wraps inputs and makes outputs for each run. In a loop of its own a run of a small model
takes 2.9 microseconds, and 2.3 where inputs and outputs are bound, copies included; between the rest of a request, with
caches that others use, two to five less (docs/decisions/0066-what-a-small-call-costs-beside-its-run.md).
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from turnout.errors import TurnoutError
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.tensor import Array

MOST_BYTES = 64 * 1024
"""Of the inputs and outputs of a kind, to be bound."""


class PreparedRun:
    """Runs for requests of one kind, one run at a time; implements `turnout.serving.sessions.session.Run`.

    Outputs may have other shapes for other values. ONNX Runtime refuses to write these to memory that was made for the
    shapes seen before: such a kind is run as any other from then on.
    """

    def __init__(
        self, session: Session, inputs: Mapping[str, Array], outputs: Sequence[str], seen: Sequence[Array]
    ) -> None:
        """Binds memory for inputs and outputs like those of a run; `of` tells whether that may be.

        Args:
            session: On the CPU.
            inputs: Of the run.
            outputs: Names of its outputs.
            seen: Their values.
        """
        self._session = session
        self._inputs = [(name, np.empty(array.shape, array.dtype)) for name, array in inputs.items()]
        self._outputs = [np.empty(array.shape, array.dtype) for array in seen]
        self._binding = session.bind()
        for name, array in self._inputs:
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        for name, array in zip(outputs, self._outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        self._bound = True

    @classmethod
    def of(
        cls, session: Session, inputs: Mapping[str, Array], outputs: Sequence[str], seen: Sequence[Array]
    ) -> Self | None:
        """Returns what runs for requests like one that was answered; None if these are not to be bound.

        What was answered is computed again, into memory that holds something else: it has to come out the same, bit by
        bit.
        """
        arrays = [*inputs.values(), *seen]
        if sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) > MOST_BYTES:
            return None
        if not all(isinstance(array, np.ndarray) and array.dtype.isbuiltin == 1 and array.size for array in arrays):
            return None
        if any(array.dtype.kind not in "biuf" for array in arrays):
            return None
        made = cls(session, inputs, outputs, seen)
        for value, memory in zip(seen, made._outputs, strict=True):
            memory.view(np.uint8).reshape(-1)[:] = ~np.frombuffer(value.tobytes(), np.uint8)
        try:
            again = made(inputs, outputs)
        except TurnoutError:
            return None
        same = all(a.tobytes() == b.tobytes() for a, b in zip(again, seen, strict=True))
        return made if made._bound and same else None

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once; arguments, answer and errors are those of `Session.run`."""
        if self._bound:
            for name, memory in self._inputs:
                memory[...] = inputs[name]
            try:
                self._session.run_bound(self._binding)
            except TurnoutError:
                pass  # either the run fails for these values, or its outputs have other shapes
            else:
                return [memory.copy() for memory in self._outputs]
        values = self._session.run(inputs, outputs)
        self._bound = False
        return values
