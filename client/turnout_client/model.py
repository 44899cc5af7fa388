"""The values that a client returns: predictions, models and versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from turnout_proto.tensors import Array


class Role(StrEnum):
    """The role in which a version answered: how it was selected."""

    UNSPECIFIED = "unspecified"
    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


class Standing(StrEnum):
    """The release status of a version."""

    UNSPECIFIED = "unspecified"
    CANDIDATE = "candidate"
    RELEASED = "released"
    YANKED = "yanked"


class VersionState(StrEnum):
    """The lifecycle state of a version in the server."""

    UNSPECIFIED = "unspecified"
    NEW = "new"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a request took, measured in the server.

    Attributes:
        queue_seconds: Time from admission to the start of the run.
        compute_seconds: Duration of the model's run, for the whole batch.
        batch_rows: Number of rows in the batch, including this request's own; 0 if the version is not batched.
    """

    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to one request.

    `prediction["probabilities"]` is `prediction.outputs["probabilities"]`.

    Attributes:
        outputs: Output arrays by name, in the requested order. They are read-only; copy one to modify it. Strings are
            object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`.
        model: Name of the model.
        version: The exact version that answered, for example `3.2.0`.
        digest: Digest of that version: `sha256:` and 64 hexadecimal digits.
        role: The role in which the version answered.
        epoch: Epoch of the routing policy that selected the version; 0 if the model has no policy.
        timing: How long the request took in the server.
        request_id: Id of the request in the server's log.
        warning: A warning from the server, for example that the pinned version was yanked; "" for none.
    """

    outputs: Mapping[str, Array]
    model: str
    version: str
    digest: str
    role: Role
    epoch: int
    timing: Timing
    request_id: str
    warning: str = ""

    def __getitem__(self, output: str) -> Array:
        """Returns the output named `output`.

        Raises:
            KeyError: The model has no such output, or it was not requested.
        """
        try:
            return self.outputs[output]
        except KeyError:
            raise KeyError(f"no output {output!r}; there are: {', '.join(self.outputs)}") from None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        name: Name of the tensor.
        dtype: Element type, for example `float32`, `bfloat16`, `bool` or `string`.
        shape: Dimensions, outermost first: a size, a symbolic name, or None for any size.
        has_default: Whether the tensor is an input that may be omitted.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    has_default: bool

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version of a model, as the server currently reports it.

    Attributes:
        version: The version number, for example `3.2.0`.
        digest: Digest of all its content: `sha256:` and 64 hexadecimal digits.
        standing: Release status.
        state: Lifecycle state.
        reason: Why the version is in that state; "" if the server gives no reason.
        tags: Tags that point to the version, sorted.
        inputs: Inputs, in the model's order.
        outputs: Outputs, in the model's order.
        size_bytes: Total size of the version's files, in bytes.
        max_batch_rows: Maximum number of rows in a batch; 0 if the version is served unbatched.
        batching: Explanation of why the version is or is not batched.
        providers: Execution providers of the ONNX Runtime session, in order; () if the version is not loaded.
        load_seconds: Time that loading and warming up took; 0.0 if the version is not loaded.
        isolation: Explanation of why the version runs in the server's process or in child processes; "" if the version
            is not loaded, or the server is too old to report it.
        cuda_graphs: The batch sizes that are captured as CUDA graphs, or why there are none; "" if the version does not
            run on a GPU and CUDA graphs were not requested, or the server is too old to report it.
        tensorrt: Whether the version runs on TensorRT, with which precision, and why; "" if TensorRT was not requested,
            or the server is too old to report it.
    """

    version: str
    digest: str
    standing: Standing
    state: VersionState
    reason: str
    tags: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    size_bytes: int
    max_batch_rows: int
    batching: str
    providers: tuple[str, ...]
    load_seconds: float
    isolation: str = ""
    cuda_graphs: str = ""
    tensorrt: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model, as the server currently reports it.

    Attributes:
        name: Name of the model.
        versions: All versions, highest precedence first.
        default_version: The version that the empty selector resolves to; "" if there is none.
    """

    name: str
    versions: tuple[VersionInfo, ...]
    default_version: str
