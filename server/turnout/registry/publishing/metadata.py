"""Reads a publisher's statements about a version besides its files: the file given to `publish --meta`.

description = "Content type of a file"      # TOML, or the same as JSON
authors = ["Ada", "Grace"]
licence = "Apache-2.0"
notes = "Trained on the spring set."

[metadata]                                  # anything else that JSON can represent
dataset = "2026-04"

[batching]
max_rows = 64
axes = { bytes = 0, target_label = 0 }

[labels]                                    # names of the classes along an output's last axis, in order
target_label = ["3gp", "ace", "ai"]

[preprocessing]                             # how raw data becomes inputs, in any form; a change breaks clients
bytes = "first and last 1024 bytes, padded with 256"

[scores]                                    # whether only the class with the highest value matters
target_label = true

[tolerances.target_label]                   # or a dtype: [tolerances.float32]
atol = 1e-5
rtol = 1e-3
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from turnout.errors import InvalidModel, InvalidRequest
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.manifest.json_form import JsonForm, fields_to_json
from turnout.registry.manifest.manifest import BatchingDeclaration, Manifest, Tolerance
from turnout.registry.manifest.provenance import Provenance
from turnout.registry.manifest.signature import DataType, Signature
from turnout.registry.publishing.provenance_tables import PROVENANCE, parse_provenance
from turnout.registry.publishing.tables import (
    MAX_INTEGER,
    check_json,
    check_keys,
    read_entries,
    read_flag,
    read_integer,
    read_list,
    read_table,
    read_text,
)
from turnout.registry.storage.files import explain, open_outside, read_small
from turnout.text.toml import parse_toml

MAX_METADATA_BYTES = 1 << 18
MAX_LOCK_BYTES = 64 << 20

_TEXTS = ("description", "licence", "notes")
_TOP = (*_TEXTS, "authors", *PROVENANCE, "metadata", "batching", "tolerances", "scores", "labels", "preprocessing")
_STATED = (*_TEXTS, "authors")


@dataclass(frozen=True, slots=True)
class VersionMetadata(JsonForm):
    """A publisher's statements about a version. Attributes that `Manifest` has too are as there.

    Attributes:
        free: Anything else, as JSON values, under names other than those of the text fields.
    """

    description: str = ""
    authors: tuple[str, ...] = ()
    licence: str = ""
    notes: str = ""
    free: Mapping[str, Any] = field(default_factory=dict)
    batching: BatchingDeclaration | None = None
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    scores: Mapping[str, bool] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    OMIT_DEFAULTS = True

    def __post_init__(self) -> None:
        if taken := sorted(set(_STATED) & set(self.free)):
            raise InvalidRequest.at(f"metadata.{taken[0]}", f"expected at the top level, as {taken[0]}")
        check_json(dict(self.free), "metadata")
        check_json(dict(self.preprocessing), "preprocessing")

    def to_manifest(self) -> dict[str, Any]:
        """Returns the `metadata` of a manifest. Values that were not given are left out."""
        meta = self.to_meta()
        return {name: meta[name] for name in _STATED if name in meta} | dict(self.free)

    def to_meta(self) -> dict[str, Any]:
        """Returns the form that `parse_metadata` accepts."""
        meta = fields_to_json(self)
        if "free" in meta:
            meta["metadata"] = meta.pop("free")
        meta |= meta.pop("provenance", {})
        return meta

    def applied_to(self, manifest: Manifest) -> Manifest:
        """Returns the manifest of a version with the same files and this metadata."""
        return replace(
            manifest,
            batching=self.batching,
            tolerances=self.tolerances,
            scores=self.scores,
            labels=self.labels,
            preprocessing=self.preprocessing,
            metadata=self.to_manifest(),
            provenance=self.provenance,
        )

    def over(self, base: "VersionMetadata") -> "VersionMetadata":
        """Returns this metadata, with missing values taken from `base`, name by name."""
        if base == VersionMetadata():
            return self
        merged = base.to_meta() | self.to_meta()
        if free := dict(base.free) | dict(self.free):
            merged["metadata"] = free
        return parse_metadata(merged)

    def check_against(self, signature: Signature) -> None:
        """Checks that the metadata names only inputs and outputs that exist.

        Raises:
            InvalidModel: A name is unknown, or a value does not fit its input or output.
        """
        _check_batching(self.batching, signature)
        outputs = [spec.name for spec in signature.outputs]
        for name in self.tolerances:
            if name not in outputs and name not in list(DataType):
                raise InvalidModel(f"tolerances.{name}: no output and no dtype; the outputs are {', '.join(outputs)}")
        for name in self.scores:
            if name not in outputs:
                raise InvalidModel(f"scores.{name}: no output; the outputs are {', '.join(outputs)}")
        for name, labels in self.labels.items():
            _check_labels(name, labels, signature)


def read_metadata(path: Path) -> VersionMetadata:
    """Reads a metadata file. Its suffix, `.toml` or `.json`, determines its format.

    Raises:
        InvalidRequest: The file does not exist, is not in this format, or contains something unknown.
    """
    forms: dict[str, Callable[[str], object]] = {
        ".toml": parse_toml,
        ".json": partial(json.loads, object_pairs_hook=_unrepeated),
    }
    if path.suffix not in forms:
        raise InvalidRequest.at("meta", f"expected a file named *.toml or *.json, got {path.name!r}")
    try:
        data = read_small(path, MAX_METADATA_BYTES)
    except OSError as error:
        raise InvalidRequest.at("meta", f"{path.name} {explain(error)}") from error
    if len(data) > MAX_METADATA_BYTES:
        raise InvalidRequest.at("meta", f"{path.name} is larger than {MAX_METADATA_BYTES} bytes")
    try:
        body = forms[path.suffix](data.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.at("meta", f"{path.name} is not {path.suffix[1:].upper()}: {error}") from error
    if isinstance(body, dict) and isinstance(body.get("dependencies"), dict) and "lock_file" in body["dependencies"]:
        body = body | {"dependencies": _with_lock(body["dependencies"], path.parent)}
    return parse_metadata(body)


def parse_metadata(body: object) -> VersionMetadata:
    """Parses the contents of a metadata file. Raises InvalidRequest if a key is unknown, or a value is invalid."""
    top = read_table(body, "meta")
    check_keys(top, _TOP, "")
    return VersionMetadata(
        authors=read_list(top.get("authors", []), "authors", read_text, "strings"),
        free=read_table(top.get("metadata", {}), "metadata"),
        batching=_batching(read_table(top["batching"], "batching")) if "batching" in top else None,
        tolerances=read_entries(top.get("tolerances", {}), "tolerances", _tolerance),
        scores=read_entries(top.get("scores", {}), "scores", read_flag),
        labels=read_entries(top.get("labels", {}), "labels", _labels),
        preprocessing=read_table(top.get("preprocessing", {}), "preprocessing"),
        provenance=parse_provenance(top),
        **{name: read_text(top[name], name) for name in _TEXTS if name in top},
    )


def _with_lock(table: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Replaces the path of a lock file, which is relative to `directory`, with its name and digest."""
    others, where = dict(table), "dependencies.lock_file"
    path = directory / read_text(others.pop("lock_file"), where)
    if "lock" in others:
        raise InvalidRequest.at(where, "expected either this or dependencies.lock")
    try:
        with open_outside(path) as file:
            if path.stat().st_size > MAX_LOCK_BYTES:
                raise InvalidRequest.at(where, f"{path.name} is larger than {MAX_LOCK_BYTES} bytes")
            return others | {"lock": {"name": path.name, "digest": stream_digest(file)}}
    except OSError as error:
        raise InvalidRequest.at(where, f"{path.name[:64]} {explain(error)}") from error
    except ValueError as error:  # a NUL character
        raise InvalidRequest.at(where, "is not a path") from error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python silently takes the last of two values for one key. The TOML parser refuses duplicates by itself.
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is used twice in one table")
    return table


def _batching(table: Mapping[str, Any]) -> BatchingDeclaration:
    check_keys(table, ("enabled", "max_rows", "axes"), "batching.")
    enabled = read_flag(table.get("enabled", True), "batching.enabled")
    max_rows, axes = table.get("max_rows"), table.get("axes")
    if max_rows is not None:
        read_integer(max_rows, "batching.max_rows")
    if axes is not None:
        axes = read_entries(axes, "batching.axes", read_integer)
    try:
        return BatchingDeclaration(enabled, max_rows, axes)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _labels(value: object, where: str) -> tuple[str, ...]:
    labels = read_list(value, where, read_text, "strings")
    if not labels:
        raise InvalidRequest.at(where, "expected a list of strings")
    if len(set(labels)) < len(labels):
        raise InvalidRequest.at(where, "names a class twice")
    return labels


def _check_labels(name: str, labels: Sequence[str], signature: Signature) -> None:
    spec = signature.output(name)
    if spec is None:
        known = [spec.name for spec in signature.outputs]
        raise InvalidModel(f"labels.{name}: no output; the outputs are {', '.join(known)}")
    if not spec.shape:
        raise InvalidModel(f"labels.{name}: the output is a scalar, which has no classes")
    if isinstance(spec.shape[-1], int) and spec.shape[-1] != len(labels):
        raise InvalidModel(f"labels.{name}: {len(labels)} labels for the {spec.shape[-1]} classes of its last axis")


def _tolerance(value: object, where: str) -> Tolerance:
    table = read_table(value, where)
    check_keys(table, ("atol", "rtol"), f"{where}.")
    bounds = {}
    for name in ("atol", "rtol"):
        bound = table.get(name, 0.0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound <= MAX_INTEGER:
            raise InvalidRequest.at(f"{where}.{name}", "expected a number of 0 or more")
        bounds[name] = float(bound)
    return Tolerance(**bounds)


def _check_batching(batching: BatchingDeclaration | None, signature: Signature) -> None:
    if batching is None or batching.axes is None:
        return
    for name, axis in batching.axes.items():
        sides = [spec for spec in (signature.input(name), signature.output(name)) if spec is not None]
        if not sides:
            known = [spec.name for spec in (*signature.inputs, *signature.outputs)]
            raise InvalidModel(f"batching.axes.{name}: no input or output; there are {', '.join(known)}")
        for spec in sides:
            if axis >= len(spec.shape):
                raise InvalidModel(f"batching.axes.{name}: axis {axis} is beyond its {len(spec.shape)} dimensions")
        # A fixed dimension of an output is accepted: exporters write the batch size that they traced with.
        fed = signature.input(name)
        if fed is not None and isinstance(fed.shape[axis], int):
            raise InvalidModel(f"batching.axes.{name}: axis {axis} has the fixed size {fed.shape[axis]}")
    if batching.enabled and not any(spec.name in batching.axes for spec in signature.inputs):
        raise InvalidModel("batching.axes: names no input, so no batch can be formed")
