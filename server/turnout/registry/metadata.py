"""What a publisher says about a version beyond its files: the file given by `publish --meta`.

description = "Content type of a file"      # TOML, or the same as JSON
authors = ["Ada", "Grace"]
licence = "Apache-2.0"
notes = "Trained on the spring set."

[metadata]                                  # anything else, as JSON can hold it
dataset = "2026-04"

[batching]
max_rows = 64
axes = { bytes = 0, target_label = 0 }

[labels]                                    # what the classes along an output's last axis are called, in order
target_label = ["3gp", "ace", "ai"]

[preprocessing]                             # how raw data becomes inputs, in any form: a change of it breaks clients
bytes = "first and last 1024 bytes, padded with 256"

[scores]                                    # the class with the highest value is what matters
target_label = true

[tolerances.target_label]                   # or a dtype: [tolerances.float32]
atol = 1e-5
rtol = 1e-3
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from turnout.errors import InvalidModel, InvalidRequest
from turnout.registry.manifest import Batching, Tolerance
from turnout.registry.signature import DataType, Signature

MAX_METADATA_BYTES = 1 << 18
MAX_DEPTH = 16
"""How deep free metadata may be nested."""

_TEXTS = ("description", "licence", "notes")
_TOP = (*_TEXTS, "authors", "metadata", "batching", "tolerances", "scores", "labels", "preprocessing")
_STATED = (*_TEXTS, "authors")
_MAX_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class VersionMetadata:
    """What a publisher says about a version.

    Attributes:
        description: What the model does.
        authors: Who made it.
        licence: Under which terms.
        notes: What else readers should know of this version.
        free: Anything else, as JSON values; none of the names above.
        batching: How requests may be put together; None leaves it to the server.
        tolerances: By output name, or by dtype for outputs not named.
        scores: By output name, whether it holds scores of classes.
        labels: By output name, what the classes along its last axis are called, in order.
        preprocessing: How raw data becomes inputs, as JSON values.
    """

    description: str = ""
    authors: tuple[str, ...] = ()
    licence: str = ""
    notes: str = ""
    free: Mapping[str, Any] = field(default_factory=dict)
    batching: Batching | None = None
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    scores: Mapping[str, bool] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := sorted(set(_STATED) & set(self.free)):
            raise InvalidRequest.at(f"metadata.{taken[0]}", f"expected as {taken[0]} at the top, not among the rest")
        _check_json(dict(self.free), "metadata", 0)
        _check_json(dict(self.preprocessing), "preprocessing", 0)

    def to_manifest(self) -> dict[str, Any]:
        """Returns the form that a manifest's `metadata` has; what was left unsaid is left out."""
        stated = {
            "description": self.description,
            "authors": list(self.authors),
            "licence": self.licence,
            "notes": self.notes,
        }
        return {name: value for name, value in stated.items() if value} | dict(self.free)

    def check_against(self, signature: Signature) -> None:
        """Checks that what is said of inputs and outputs is said of such as exist.

        Raises:
            InvalidModel: It is not.
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
    """Reads a metadata file; its suffix, `.toml` or `.json`, says which form it has.

    Raises:
        InvalidRequest: It is not there, is no such file, or says something that Turnout does not know.
    """
    forms: dict[str, Callable[[str], object]] = {".toml": tomllib.loads, ".json": _json}
    if path.suffix not in forms:
        raise InvalidRequest.at("meta", f"expected a file named *.toml or *.json, got {path.name!r}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        raise InvalidRequest.at("meta", f"{path.name} cannot be read ({error.strerror})") from error
    if len(data) > MAX_METADATA_BYTES:
        raise InvalidRequest.at("meta", f"{path.name} is larger than {MAX_METADATA_BYTES} bytes")
    try:
        body = forms[path.suffix](data.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.at("meta", f"{path.name} is no {path.suffix[1:].upper()}: {error}") from error
    return parse_metadata(body)


def parse_metadata(body: object) -> VersionMetadata:
    """Makes sense of the content of a metadata file.

    Raises:
        InvalidRequest: A key is unknown, or a value is not what is expected there.
    """
    top = _table(body, "meta")
    _check_keys(top, _TOP, "")
    authors = top.get("authors", [])
    if not isinstance(authors, list):
        raise InvalidRequest.at("authors", "expected a list of strings")
    return VersionMetadata(
        authors=tuple(_text(author, f"authors[{index}]") for index, author in enumerate(authors)),
        free=_table(top.get("metadata", {}), "metadata"),
        batching=_batching(_table(top["batching"], "batching")) if "batching" in top else None,
        tolerances={
            name: _tolerance(_table(value, f"tolerances.{name}"), f"tolerances.{name}")
            for name, value in _table(top.get("tolerances", {}), "tolerances").items()
        },
        scores={
            name: _flag(value, f"scores.{name}") for name, value in _table(top.get("scores", {}), "scores").items()
        },
        labels={
            name: _labels(value, f"labels.{name}") for name, value in _table(top.get("labels", {}), "labels").items()
        },
        preprocessing=_table(top.get("preprocessing", {}), "preprocessing"),
        **{name: _text(top[name], name) for name in _TEXTS if name in top},
    )


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_unrepeated)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python would take the last of two values for one key in silence; TOML's reader refuses it by itself.
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice in one table")
    return table


def _batching(table: Mapping[str, Any]) -> Batching:
    _check_keys(table, ("enabled", "max_rows", "axes"), "batching.")
    enabled = _flag(table.get("enabled", True), "batching.enabled")
    max_rows, axes = table.get("max_rows"), table.get("axes")
    if max_rows is not None:
        _integer(max_rows, "batching.max_rows")
    if axes is not None:
        axes = {name: _integer(v, f"batching.axes.{name}") for name, v in _table(axes, "batching.axes").items()}
    try:
        return Batching(enabled, max_rows, axes)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest.at(where, "expected true or false")
    return value


def _labels(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest.at(where, "expected a list of strings")
    labels = tuple(_text(label, f"{where}[{index}]") for index, label in enumerate(value))
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


def _tolerance(table: Mapping[str, Any], where: str) -> Tolerance:
    _check_keys(table, ("atol", "rtol"), f"{where}.")
    bounds = {}
    for name in ("atol", "rtol"):
        value = table.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_INTEGER:
            raise InvalidRequest.at(f"{where}.{name}", "expected a number of 0 or more")
        bounds[name] = float(value)
    return Tolerance(**bounds)


def _check_batching(batching: Batching | None, signature: Signature) -> None:
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
        # An output's fixed dimension is not held against it: exporters write down the batch they traced with.
        fed = signature.input(name)
        if fed is not None and isinstance(fed.shape[axis], int):
            raise InvalidModel(f"batching.axes.{name}: axis {axis} has the fixed size {fed.shape[axis]}")
    if batching.enabled and not any(spec.name in batching.axes for spec in signature.inputs):
        raise InvalidModel("batching.axes: names no input, so no batch can be formed")


def _check_keys(table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0)
            raise InvalidRequest.at(f"{prefix}{key[:64]}", f"unknown; the nearest known is {prefix}{near[0]}")


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest.at(where, "expected a table")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest.at(where, "expected a string")
    _check_json(value, where, 0)
    return value


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_INTEGER:
        raise InvalidRequest.at(where, "expected an integer")
    return value


def _check_json(value: object, where: str, depth: int) -> None:
    """Refuses what the canonical form of RFC 8785 has no room for."""
    if depth > MAX_DEPTH:
        raise InvalidRequest.at(where, f"is nested more than {MAX_DEPTH} deep")
    match value:
        case None | bool():
            return
        case str():
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise InvalidRequest.at(where, "holds half of a surrogate pair, which is no Unicode text")
        case int():
            if abs(value) > _MAX_INTEGER:
                raise InvalidRequest.at(where, "is an integer beyond 2**53, which JSON readers round; write it as text")
        case float():
            if not math.isfinite(value):
                raise InvalidRequest.at(where, "is a float that is not finite, which JSON has no form for")
        case list():
            for index, item in enumerate(value):
                _check_json(item, f"{where}[{index}]", depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidRequest.at(where, "has a key that is no string")
                _check_json(key, where, depth)
                _check_json(item, f"{where}.{key}", depth + 1)
        case _:
            raise InvalidRequest.at(where, f"is of type {type(value).__name__}, which JSON has no form for; quote it")
