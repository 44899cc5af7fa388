"""What a session loads, and where it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.registry.manifest.signature import Signature

if TYPE_CHECKING:  # importing settings takes 0.16 s, which would delay replacement child processes
    from turnout.config import Runtime


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What a session loads, and where it runs.

    Attributes:
        model: Path of the ONNX file, with any external data beside it.
        providers: ONNX Runtime's names of execution providers, in order of preference.
        tensorrt: Options for the TensorRT provider, in addition to those from `runtime`.
    """

    model: Path
    signature: Signature
    providers: Sequence[str]
    device_id: int
    runtime: "Runtime"
    tensorrt: Mapping[str, str] = field(default_factory=dict)
