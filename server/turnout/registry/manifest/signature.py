"""The inputs and outputs of a model: element types, tensor specifications, signatures. Without side effects."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from turnout.registry.manifest.json_form import JsonForm


class DataType(StrEnum):
    """Element types of tensors on the wire: those of ONNX that NumPy or ml_dtypes supports."""

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
"""Size of a dimension: a fixed size, a symbolic name, or None if any size is accepted."""


@dataclass(frozen=True, slots=True)
class TensorSpec(JsonForm):
    """Specification of one input or output.

    Attributes:
        name: Name in the graph.
        shape: Dimensions, outermost first.
        has_default: Whether an input is optional, because an initialiser of the graph gives its default value.
    """

    name: str
    dtype: DataType
    shape: tuple[Dimension, ...]
    has_default: bool = False

    OMIT_DEFAULTS = True

    def __post_init__(self) -> None:
        if any(isinstance(size, int) and size < 0 for size in self.shape):
            raise ValueError(f"shape {self.shape!r} has a size below 0")

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether a tensor of this shape has the stated rank and fixed sizes."""
        return len(shape) == len(self.shape) and all(
            not isinstance(fixed, int) or fixed == size for fixed, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class Signature(JsonForm):
    """All inputs and outputs of a model, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for side, specs in (("input", self.inputs), ("output", self.outputs)):
            counted = Counter(spec.name for spec in specs)
            if repeated := [name for name, count in counted.items() if count > 1]:
                raise ValueError(f"two {side}s are named {repeated[0]!r}")

    @property
    def required(self) -> tuple[TensorSpec, ...]:
        """Inputs that a request has to have, since they have no default."""
        return tuple(spec for spec in self.inputs if not spec.has_default)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return [spec.name for spec in self.outputs]

    def input(self, name: str) -> TensorSpec | None:
        """Returns the input with this name; None if there is none."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """Returns the output with this name; None if there is none."""
        return next((spec for spec in self.outputs if spec.name == name), None)
