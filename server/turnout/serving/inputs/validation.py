"""Checks a request against a version's signature. Pure.

On the way of every request: compiled once per version, about two microseconds a check.
"""

import math
from collections.abc import Mapping, Sequence

from turnout.errors import FieldViolation, InvalidTensor
from turnout.registry.manifest.signature import Signature, TensorSpec
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

MAX_BESIDE_ZERO = 1 << 26
"""Product of an empty input's other dimensions, about as many elements as a message of the default size can hold.

ONNX Runtime's MatMul goes through the outer ones one by one, empty or not: 2**31 of them did not end in 5 s.
"""


class Validator:
    """What one signature accepts.

    Attributes:
        output_names: Of all outputs, in the signature's order.
    """

    def __init__(
        self,
        signature: Signature,
        in_step: Sequence[Sequence[tuple[str, int]]] = (),
        never_empty: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        """Compiles what a request is checked against.

        Args:
            signature: Of the model.
            in_step: Groups of dimensions of inputs, by name and axis, that are 0 together or not at all.
            never_empty: Dimensions of inputs, by name and axis, that may not be 0.
        """
        self._in_step = in_step
        self._never_empty = never_empty
        self.output_names = [spec.name for spec in signature.outputs]
        self._outputs = frozenset(self.output_names)
        self._inputs = {
            spec.name: (
                spec,
                NUMPY_DTYPES[spec.dtype],
                len(spec.shape),
                [(axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int)],
            )
            for spec in signature.inputs
        }
        self._symbols = shared_symbols(signature)
        self._required = frozenset(spec.name for spec in signature.inputs if not spec.has_default)

    def check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[str]:
        """Returns the names of the outputs wanted.

        Args:
            inputs: By name.
            outputs: Names wanted; none means all.

        Raises:
            InvalidTensor: An input is unknown or missing, or of another dtype, rank or fixed dimension, or is empty and
                claims great sizes beside that, or where another that names its empty dimension is not; or an output is
                unknown or wanted twice. All that is wrong is told at once.
        """
        known, empty = self._inputs, False
        if not self._required <= inputs.keys():
            raise _invalid(self._faults(inputs, outputs))
        for name, array in inputs.items():
            expected = known.get(name)
            if expected is None:
                raise _invalid(self._faults(inputs, outputs))
            _, dtype, rank, fixed = expected
            shape = array.shape
            if array.dtype != dtype or len(shape) != rank:
                raise _invalid(self._faults(inputs, outputs))
            for axis, size in fixed:
                if shape[axis] != size:
                    raise _invalid(self._faults(inputs, outputs))
            if 0 in shape:
                empty = True
                if _hides_too_much(shape):
                    raise _invalid(self._faults(inputs, outputs))
        if empty and (conflicts := self._wrongly_empty(inputs)):
            raise _invalid(conflicts)
        if not outputs:
            return self.output_names
        if not self._outputs.issuperset(outputs) or len(set(outputs)) != len(outputs):
            raise _invalid(self._faults(inputs, outputs))
        return outputs

    def size_conflicts(self, inputs: Mapping[str, Array]) -> Sequence[FieldViolation]:
        """Returns where two inputs that name one symbolic dimension differ in its size.

        Looked at after a run failed, not before: models that broadcast run on such inputs, and exporters reuse symbols.
        """
        conflicts = []
        for symbol, places in self._symbols.items():
            given = [(name, inputs[name].shape[axis]) for name, axis in places if name in inputs]
            for name, size in given[1:]:
                first, expected = given[0]
                if size != expected:
                    description = f"expected {symbol} = {expected}, as inputs.{first} has it, got {size}"
                    conflicts.append(FieldViolation(f"inputs.{name}", description))
        return conflicts

    def _wrongly_empty(self, inputs: Mapping[str, Array]) -> Sequence[FieldViolation]:
        """Returns where an input is empty that may not be: at all, or where another is not that has to be of its size.

        No model gets anything out of that, and it must not run: it would end the process, or answer with what was in
        memory before (`turnout.serving.isolation.empty_inputs`, `turnout.serving.batching.in_step`).
        """
        conflicts = [
            FieldViolation(f"inputs.{name}", f"expected 1 or more along axis {axis}, got {_described(inputs[name])}")
            for name, axis in sorted(self._never_empty)
            if name in inputs and not inputs[name].shape[axis]
        ]
        for group in self._in_step:
            sizes = [(name, axis, inputs[name].shape[axis]) for name, axis in group if name in inputs]
            for name, axis, size in sizes[1:]:
                first, _, expected = sizes[0]
                if bool(size) != bool(expected):
                    description = f"expected {expected} along axis {axis}, as inputs.{first} has, got {size}"
                    conflicts.append(FieldViolation(f"inputs.{name}", description))
        return conflicts

    def _faults(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[FieldViolation]:
        """Lists everything that is wrong; run only when something is."""
        faults = [
            FieldViolation(f"inputs.{name}", f"missing; expected {self._inputs[name][0]}")
            for name in sorted(self._required - inputs.keys())
        ]
        for name, array in inputs.items():
            entry = self._inputs.get(name)
            if entry is None:
                faults.append(FieldViolation(f"inputs.{name[:64]}", f"unknown; expected {', '.join(self._inputs)}"))
            elif not _fits(entry[0], array):
                faults.append(FieldViolation(f"inputs.{name}", f"expected {entry[0]}, got {_described(array)}"))
            elif _hides_too_much(array.shape):
                sizes = f"at most {MAX_BESIDE_ZERO} elements beside its dimension of 0"
                faults.append(FieldViolation(f"inputs.{name}", f"expected {sizes}, got {_described(array)}"))
        for name in outputs:
            if name not in self._outputs:
                expected = ", ".join(self.output_names)
                faults.append(FieldViolation(f"outputs.{name[:64]}", f"unknown; expected some of {expected}"))
        if len(set(outputs)) != len(outputs):
            faults.append(FieldViolation("outputs", "an output is wanted twice"))
        return faults


def shared_symbols(signature: Signature) -> dict[str, list[tuple[str, int]]]:
    """Returns by symbol the dimensions (input, axis) that bear it, for symbols that more than one dimension bears."""
    places: dict[str, list[tuple[str, int]]] = {}
    for spec in signature.inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                places.setdefault(size, []).append((spec.name, axis))
    return {symbol: found for symbol, found in places.items() if len(found) > 1}


def _invalid(faults: Sequence[FieldViolation]) -> InvalidTensor:
    return InvalidTensor("; ".join(f"{fault.field}: {fault.description}" for fault in faults), violations=faults)


def _fits(spec: TensorSpec, array: Array) -> bool:
    return (
        array.dtype == NUMPY_DTYPES[spec.dtype]
        and array.ndim == len(spec.shape)
        and all(not isinstance(d, int) or d == got for d, got in zip(spec.shape, array.shape, strict=True))
    )


def _hides_too_much(shape: tuple[int, ...]) -> bool:
    """Tells whether a shape has a dimension of 0, which costs no bytes, and others that no message could fill."""
    return 0 in shape and math.prod(size for size in shape if size) > MAX_BESIDE_ZERO


def _described(array: Array) -> str:
    dtype = "string" if array.dtype == object else array.dtype.name
    return f"{dtype}[{', '.join(map(str, array.shape))}]"
