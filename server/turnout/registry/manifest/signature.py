"""What a model takes and gives: element types, tensor specifications, signatures. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class DataType(StrEnum):
    """Element types of tensors on the wire: those of ONNX that NumPy or ml_dtypes can hold."""

    BOOL = "bool"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"


Dimension = int | str | None
"""A fixed size, a symbolic name, or None where anything is accepted."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Its name in the graph.
        dtype: Its element type.
        shape: Its dimensions, outermost first.
        has_default: An input that may be left out, since an initialiser of the graph gives its value.
    """

    name: str
    dtype: DataType
    shape: tuple[Dimension, ...]
    has_default: bool = False

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"

    def to_json(self) -> dict[str, Any]:
        """Returns the form that manifests hold."""
        body: dict[str, Any] = {"name": self.name, "dtype": str(self.dtype), "shape": list(self.shape)}
        return body | {"has_default": True} if self.has_default else body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, ValueError: It did not write that.
        """
        shape = tuple(body["shape"])
        if not all(d is None or isinstance(d, str) or (type(d) is int and d >= 0) for d in shape):
            raise ValueError(f"shape {shape!r} is not a list of sizes, names and nulls")
        return cls(str(body["name"]), DataType(body["dtype"]), shape, bool(body.get("has_default", False)))


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs of a model, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for side, specs in (("input", self.inputs), ("output", self.outputs)):
            if repeated := _first_repeated(spec.name for spec in specs):
                raise ValueError(f"two {side}s are named {repeated!r}")

    def input(self, name: str) -> TensorSpec | None:
        """Returns the input of that name, or None."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """Returns the output of that name, or None."""
        return next((spec for spec in self.outputs if spec.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Returns the form that manifests hold."""
        return {"inputs": [s.to_json() for s in self.inputs], "outputs": [s.to_json() for s in self.outputs]}

    @classmethod
    def from_json(cls, body: Mapping[str, Sequence[Mapping[str, Any]]]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, ValueError: It did not write that.
        """
        return cls(
            tuple(TensorSpec.from_json(s) for s in body["inputs"]),
            tuple(TensorSpec.from_json(s) for s in body["outputs"]),
        )


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
