"""The manifest of a version: what its publisher states, as a frozen value. Pure.

The canonical form of a manifest (`turnout.registry.manifest.digest`) is what a version's digest covers, so nothing that
is found out later, and no time, belongs here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from semver import Version

from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.registry.manifest.names import MODEL_NAME
from turnout.registry.manifest.provenance import DIGEST, Provenance
from turnout.registry.manifest.signature import Signature

SCHEMA = 1
"""Number of the manifest's form; a reader refuses a higher one."""

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"


def is_plain_path(path: str) -> bool:
    """Tells whether a path is relative, with forward slashes, without `.` and `..`: it never leaves its directory."""
    return "\\" not in path and "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


@dataclass(frozen=True, slots=True)
class FileEntry(JsonForm):
    """One file of a version.

    Attributes:
        path: Relative to the version's directory, with forward slashes; never leaves it.
        size: In bytes.
        digest: `sha256:` of its bytes.
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
    """How requests may be put together, as the publisher declares it.

    Attributes:
        enabled: False: never batch this version.
        max_rows: Most rows a batch may hold; None leaves it to the server.
        axes: For each input and output that grows with the batch, the axis along which it does. An input not named is
            the same for the whole batch (a scalar sampling rate, say). None: the server finds and proves the axes.
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
    """How far an output may be from what is expected: |got - expected| <= atol + rtol * |expected|."""

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0):
            raise ValueError(f"a tolerance of atol={self.atol}, rtol={self.rtol} is negative or not a number")


@dataclass(frozen=True, slots=True)
class Manifest(JsonForm):
    """What a publisher states about one version.

    Attributes:
        model: The model's name, `turnout.registry.manifest.names.MODEL_NAME`.
        version: Exact semantic version.
        files: Every file of the version but the manifest itself, by path.
        signature: Inputs and outputs of the graph.
        opset: Operator set version by domain; the default domain is "".
        ir_version: Version of the ONNX format.
        batching: As declared; None if the publisher says nothing.
        tolerances: By output name, or by dtype for outputs not named.
        scores: By output name, whether it holds scores of classes along its last axis, so that the class of the highest
            is what matters; of an output not named its values tell.
        labels: By output name, what the classes along its last axis are called, in order.
        preprocessing: How raw data becomes inputs, as its publisher declares it; changing it breaks clients.
        metadata: Free text about the version (description, authors, licence, notes ...), as JSON values.
        provenance: Where it comes from, and what it was made to run with.
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
            raise ValueError("files are not sorted by path, or one stands twice")
        if MANIFEST_FILE in paths or MODEL_FILE not in paths:
            raise ValueError(f"files must hold {MODEL_FILE} and must not hold {MANIFEST_FILE}")

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form. What the publisher left unsaid is left out."""
        return {"schema": SCHEMA} | fields_to_json(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It did not write that, or a later release of Turnout did.
        """
        try:
            if body["schema"] != SCHEMA:
                raise ValueError(f"manifest schema {body['schema']!r} is not {SCHEMA}, the one this release reads")
            return fields_from_json(cls, body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {type(error).__name__} {error}") from error


def metadata_text(value: Any) -> str:
    """Returns a value of a manifest's metadata for people: lists of texts with commas, anything nested as JSON."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
