"""The manifest of a version: the publisher's statements about it, as a frozen value. Without side effects.

A version's digest covers the canonical form of its manifest (`turnout.registry.manifest.digest`). So the manifest must
not contain times, or anything that is found out later.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from semver import Version

from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.registry.manifest.names import MODEL_NAME
from turnout.registry.manifest.provenance import DIGEST, Provenance
from turnout.registry.manifest.signature import DataType, Signature

SCHEMA = 1
"""Version of the manifest's schema. Readers refuse any other."""

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"


def is_plain_path(path: str) -> bool:
    """Returns whether a path is relative, with forward slashes, and without `.` and `..`, so that it stays inside."""
    return "\\" not in path and "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


@dataclass(frozen=True, slots=True)
class FileEntry(JsonForm):
    """One file of a version.

    Attributes:
        path: Path relative to the version's directory, with forward slashes. It does not leave the directory.
        size: Size in bytes.
        digest: SHA-256 of its content, `sha256:...`.
    """

    path: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        if not is_plain_path(self.path):
            raise ValueError(f"file path {self.path!r} leaves the version's directory or is not in its plain form")
        if self.size < 0:
            raise ValueError(f"file {self.path!r} has size {self.size}")
        if not DIGEST.fullmatch(self.digest):
            raise ValueError(f"file {self.path!r} has digest {self.digest!r}, expected sha256: and 64 hex digits")


@dataclass(frozen=True, slots=True)
class BatchingDeclaration(JsonForm):
    """A publisher's declaration of how requests may be batched.

    Attributes:
        enabled: Whether the version may be batched at all.
        max_rows: Maximum number of rows in a batch; None if the server decides.
        axes: Batch axis of each input and output that grows with the batch. An input that is not named is the same for
            the whole batch, such as a scalar sampling rate. If None, the server finds and proves the axes.
    """

    enabled: bool = True
    max_rows: int | None = None
    axes: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"batching.max_rows is {self.max_rows}, expected 1 or more")
        for name, axis in (self.axes or {}).items():
            if axis < 0:
                raise ValueError(f"batching.axes.{name} is {axis}, expected 0 or more")


@dataclass(frozen=True, slots=True)
class Tolerance(JsonForm):
    """How much an output may differ from the expected value: |got - expected| <= atol + rtol * |expected|."""

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0):
            raise ValueError(f"a tolerance of atol={self.atol}, rtol={self.rtol} is negative or not a number")


DEFAULT_TOLERANCES: Mapping[DataType, Tolerance] = MappingProxyType(
    {
        DataType.FLOAT64: Tolerance(1e-7, 1e-5),
        DataType.FLOAT32: Tolerance(1e-5, 1e-3),
        DataType.FLOAT16: Tolerance(1e-3, 1e-2),
        DataType.BFLOAT16: Tolerance(1e-2, 5e-2),
    }
)
"""Default tolerances by dtype, for outputs for which the manifest declares none. Answers of the same model differ
slightly, because kernels use other block sizes, and thus other orders of summation, for other batch sizes. Values of
all other dtypes must be equal."""


@dataclass(frozen=True, slots=True)
class Manifest(JsonForm):
    """A publisher's statements about one version.

    Attributes:
        model: Name of the model; see `turnout.registry.manifest.names.MODEL_NAME`.
        files: All files of the version except the manifest, sorted by path.
        signature: Inputs and outputs of the graph.
        opset: Operator set version by domain; the default domain is "".
        ir_version: Version of the ONNX format.
        tolerances: Tolerances by output name, or by dtype for outputs that are not named.
        scores: By output name, whether the output contains class scores along its last axis, so that only the class
            with the highest score matters. For outputs that are not named, this is inferred from their values.
        labels: By output name, the names of the classes along its last axis, in order.
        preprocessing: How raw data is converted to inputs, in a form of the publisher's choice. Changing it breaks
            clients.
        metadata: Free text about the version (description, authors, licence, notes ...), as JSON values.
        provenance: Where the version comes from, and the environment that it is made for.
    """

    model: str
    version: Version
    files: tuple[FileEntry, ...]
    signature: Signature
    opset: Mapping[str, int]
    ir_version: int
    batching: BatchingDeclaration | None = None
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    scores: Mapping[str, bool] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    OMIT_DEFAULTS = True

    def __post_init__(self) -> None:
        if not MODEL_NAME.fullmatch(self.model):
            raise ValueError(f"model name {self.model!r} is not of the form {MODEL_NAME.pattern}")
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files are not sorted by path, or one is listed twice")
        if MANIFEST_FILE in paths or MODEL_FILE not in paths:
            raise ValueError(f"files must contain {MODEL_FILE} and must not contain {MANIFEST_FILE}")

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form. Values that the publisher did not give are left out."""
        return {"schema": SCHEMA} | fields_to_json(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads the JSON form.

        Raises:
            ValueError: The body is not a manifest, or was written by a later release of Turnout.
        """
        try:
            if body["schema"] != SCHEMA:
                raise ValueError(f"manifest schema {body['schema']!r} is not {SCHEMA}, the one this release reads")
            return fields_from_json(cls, body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {type(error).__name__} {error}") from error


def metadata_text(value: Any) -> str:
    """Formats a metadata value for display: lists of texts separated by commas, other nested values as JSON."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
