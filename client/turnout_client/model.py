"""The values that a client returns: predictions, models and versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from turnout_proto.tensors import Array


class Role(StrEnum):
    """Why a version answered."""

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
    """Where the time went, measured in the server.

    Attributes:
        queue_seconds: From admission to the start of the run.
        compute_seconds: The model's run, of the whole batch.
        batch_rows: Rows in the batch that the request ran in, its own included; 0 if the version is not batched.
    """

    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to one request.

    `prediction["probabilities"]` is `prediction.outputs["probabilities"]`.

    Attributes:
        outputs: By name, in the order asked for. The arrays are read-only (copy one to write to it); strings are object
            arrays of `str`, bfloat16 is `ml_dtypes.bfloat16`.
        model: The model's name.
        version: The exact version that answered, for example `3.2.0`.
        digest: That version's digest, `sha256:` and 64 hexadecimal digits.
        role: Why the version answered.
        epoch: Epoch of the routing policy that decided; 0 if the model has none.
        timing: Where the time went.
        request_id: Names the request in the server's log.
        warning: What the server wants the caller to know, such as that a pinned version was yanked; "" for nothing.
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
        """Returns the output of that name.

        Raises:
            KeyError: The model has no output of that name, or it was not asked for.
        """
        try:
            return self.outputs[output]
        except KeyError:
            raise KeyError(f"no output {output!r}; there are: {', '.join(self.outputs)}") from None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: Its name.
        dtype: Its element type, for example `float32`, `bfloat16`, `bool` or `string`.
        shape: Its dimensions, outermost first: a size, a symbolic name, or None if anything is accepted.
        has_default: An input that may be left out.
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
    """One version of a model, as the server sees it now.

    Attributes:
        version: The version, for example `3.2.0`.
        digest: `sha256:` and 64 hexadecimal digits; pins the version's whole content.
        standing: Its release status.
        state: Its lifecycle state.
        reason: Why it is in that state; "" if there is nothing to say.
        tags: Tags that name it, sorted.
        inputs: In the model's order.
        outputs: In the model's order.
        size_bytes: Size of its files.
        max_batch_rows: Requests are batched up to this many rows; 0 if it is served unbatched.
        batching: Why it is batched as it is, in words.
        providers: Execution providers its session runs on, in order; () if it is not loaded.
        load_seconds: Time that loading and warming took; 0.0 if it is not loaded.
        isolation: Whether it runs in the server's process or in child processes, and why, in words; "" if it is not
            loaded, or the server is too old to tell.
        cuda_graphs: The batch sizes that are captured as CUDA graphs, or why there are none, in words; "" if it does
            not run on a GPU and they were not requested, or the server is too old to tell.
        tensorrt: Whether it runs on TensorRT, with which precision, and why, in words; "" if nobody asked for that,
            or the server is too old to tell.
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
    """One model, as the server sees it now.

    Attributes:
        name: Its name.
        versions: The highest precedence first.
        default_version: The version that the empty selector answers with; "" if there is none.
    """

    name: str
    versions: tuple[VersionInfo, ...]
    default_version: str
