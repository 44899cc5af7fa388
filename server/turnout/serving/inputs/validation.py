"""Checks a request against a version's signature. Pure.

Runs for every request, so it is prepared once per version; a check takes about two microseconds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from turnout.errors import FieldViolation, InvalidTensor
from turnout.registry.manifest.signature import Signature, TensorSpec
from turnout.serving.inputs.dimensions import InputDimension, SizeRange
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

MAX_BESIDE_ZERO = 1 << 26
"""Maximum product of an empty input's other dimensions: about as many elements as fit into a message of default size.

ONNX Runtime's MatMul iterates over the outer ones even if the input is empty: 2**31 of them did not finish in 5 s.
"""


class Validator:
    """Validates requests for one signature."""

    def __init__(
        self,
        signature: Signature,
        in_step: Sequence[Sequence[InputDimension]] = (),
        never_empty: frozenset[InputDimension] = frozenset(),
        sizes: Mapping[InputDimension, SizeRange] = MappingProxyType({}),
    ) -> None:
        """Prepares the checks.

        `in_step` and `never_empty` are described at `LoadedVersion`; `sizes` are those that TensorRT engines take.
        """
        self._in_step = in_step
        self._sizes = sizes
        self._never_empty = never_empty
        self.output_names = signature.output_names
        self._outputs = frozenset(self.output_names)
        self._inputs = {
            spec.name: (spec, NUMPY_DTYPES[spec.dtype], len(spec.shape), list(_bounds(spec, sizes)))
            for spec in signature.inputs
        }
        self._symbols = shared_symbols(signature)
        self._required = frozenset(spec.name for spec in signature.required)

    def check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[str]:
        """Returns the names of the requested outputs, which are all if `outputs` is empty.

        Raises:
            InvalidTensor: An input is unknown or missing, has a wrong dtype, rank, fixed dimension or size, or is empty
                with excessive other dimensions; an input is empty that the model must not get empty, or not unless
                another is; or an output is unknown or requested twice. The error lists everything that is wrong.
        """
        known, empty = self._inputs, False
        if not self._required <= inputs.keys():
            raise _invalid(self._faults(inputs, outputs))
        for name, array in inputs.items():
            expected = known.get(name)
            if expected is None:
                raise _invalid(self._faults(inputs, outputs))
            _, dtype, rank, bounds = expected
            shape = array.shape
            if array.dtype != dtype or len(shape) != rank:
                raise _invalid(self._faults(inputs, outputs))
            for axis, least, most in bounds:
                if not least <= shape[axis] <= most:
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
        """Returns the inputs that give the same symbolic dimension different sizes.

        Checked only after a run has failed: models that broadcast run on such inputs, and exporters reuse symbols.
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
        """Returns the inputs that are empty but must not be, either at all or because a matching input is not empty.

        No model computes anything useful from such inputs, and they must not run: they could end the process, or return
        old contents of memory (`turnout.serving.isolation.empty_inputs`).
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
        """Returns everything that is wrong with a request. Called only if something is."""
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
            elif wrong := self._beyond_engines(name, array):
                faults.append(wrong)
            elif _hides_too_much(array.shape):
                sizes = f"at most {MAX_BESIDE_ZERO} elements beside its dimension of 0"
                faults.append(FieldViolation(f"inputs.{name}", f"expected {sizes}, got {_described(array)}"))
        for name in outputs:
            if name not in self._outputs:
                expected = ", ".join(self.output_names)
                faults.append(FieldViolation(f"outputs.{name[:64]}", f"unknown; expected some of {expected}"))
        if len(set(outputs)) != len(outputs):
            faults.append(FieldViolation("outputs", "an output is requested twice"))
        return faults

    def _beyond_engines(self, name: str, array: Array) -> FieldViolation | None:
        for axis, size in enumerate(array.shape):
            bounds = self._sizes.get((name, axis))
            if bounds is not None and not bounds.min <= size <= bounds.max:
                expected = f"{bounds.min} to {bounds.max} along axis {axis}, for which TensorRT has built engines"
                return FieldViolation(
                    f"inputs.{name}", f"expected {expected} (runtime.tensorrt_sizes), got {_described(array)}"
                )
        return None


def shared_symbols(signature: Signature) -> dict[str, list[tuple[str, int]]]:
    """Returns the dimensions (input, axis) of each symbol that occurs more than once."""
    places: dict[str, list[tuple[str, int]]] = {}
    for spec in signature.inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                places.setdefault(size, []).append((spec.name, axis))
    return {symbol: found for symbol, found in places.items() if len(found) > 1}


def _invalid(faults: Sequence[FieldViolation]) -> InvalidTensor:
    return InvalidTensor("; ".join(f"{fault.field}: {fault.description}" for fault in faults), violations=faults)


def _bounds(spec: TensorSpec, sizes: Mapping[InputDimension, SizeRange]) -> Iterator[tuple[int, int, int]]:
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            yield axis, size, size
        elif found := sizes.get((spec.name, axis)):
            yield axis, found.min, found.max


def _fits(spec: TensorSpec, array: Array) -> bool:
    return (
        array.dtype == NUMPY_DTYPES[spec.dtype]
        and array.ndim == len(spec.shape)
        and all(not isinstance(d, int) or d == got for d, got in zip(spec.shape, array.shape, strict=True))
    )


def _hides_too_much(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape has a dimension of 0, which costs no bytes, and others too large for any message."""
    return 0 in shape and math.prod(size for size in shape if size) > MAX_BESIDE_ZERO


def _described(array: Array) -> str:
    dtype = "string" if array.dtype == object else array.dtype.name
    return f"{dtype}[{', '.join(map(str, array.shape))}]"
