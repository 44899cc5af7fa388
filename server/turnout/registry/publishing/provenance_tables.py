"""Parses provenance in the form that `publish --meta` accepts:

parents = ["magika@3.1.0"]                  # or digests

[training]
commit = "0123456789abcdef0123456789abcdef01234567"
seed = 7
datasets = [{ name = "files-2026-04", digest = "sha256:..." }]
hyperparameters = { learning_rate = 1e-3, layers = 4 }
metrics = { accuracy = 0.987 }

[dependencies]
lock = { name = "uv.lock", digest = "sha256:..." }     # or lock_file = "uv.lock", beside this file: digested at publish

[environment]                               # compared with the machine that loads the version
onnxruntime = ">=1.22,<2"
cuda = "13"
cudnn = ">=9"
driver = ">=580"
python = ">=3.11"
"""

from collections.abc import Mapping
from typing import Any

from turnout.errors import InvalidRequest
from turnout.registry.manifest.environment import NAMES, Environment, check_range
from turnout.registry.manifest.provenance import PinnedSource, Provenance, Training
from turnout.registry.publishing.tables import (
    check_json,
    check_keys,
    read_entries,
    read_integer,
    read_list,
    read_number,
    read_table,
    read_text,
)

PROVENANCE = ("training", "dependencies", "environment", "parents")
"""Keys of a metadata file that belong to the provenance."""

_TRAINING = ("commit", "seed", "datasets", "hyperparameters", "metrics")
_NAMED = ("name", "digest")


def parse_provenance(top: Mapping[str, Any]) -> Provenance:
    """Parses the provenance in a metadata file. Ignores other keys.

    Raises:
        InvalidRequest: A key is unknown, or a value is invalid.
    """
    dependencies = read_table(top.get("dependencies", {}), "dependencies")
    check_keys(dependencies, ("lock", "lock_file"), "dependencies.")
    if "lock_file" in dependencies:
        raise InvalidRequest.at("dependencies.lock_file", "expected dependencies.lock, with the file's name and digest")
    parents = read_list(top.get("parents", []), "parents", read_text, "strings")
    lock = dependencies.get("lock")
    environment = read_table(top.get("environment", {}), "environment")
    check_keys(environment, NAMES, "environment.")
    try:
        return Provenance(
            _training(read_table(top.get("training", {}), "training")),
            None if lock is None else _named(lock, "dependencies.lock"),
            Environment(**read_entries(environment, "environment", _range)),
            parents,
        )
    except ValueError as error:
        raise InvalidRequest.at("parents", str(error)) from error


def _training(table: Mapping[str, Any]) -> Training:
    check_keys(table, _TRAINING, "training.")
    datasets = read_list(table.get("datasets", []), "training.datasets", _named, "tables")
    free = read_table(table.get("hyperparameters", {}), "training.hyperparameters")
    check_json(free, "training.hyperparameters")
    metrics = read_entries(table.get("metrics", {}), "training.metrics", read_number)
    for name in metrics:
        check_json(name, "training.metrics")
    try:
        return Training(
            datasets,
            read_text(table.get("commit", ""), "training.commit"),
            free,
            read_integer(table["seed"], "training.seed") if "seed" in table else None,
            metrics,
        )
    except ValueError as error:
        raise InvalidRequest.at("training", str(error)) from error


def _named(value: object, where: str) -> PinnedSource:
    table = read_table(value, where)
    check_keys(table, _NAMED, f"{where}.")
    for name in _NAMED:
        if name not in table:
            raise InvalidRequest.at(f"{where}.{name}", "is missing")
    try:
        return PinnedSource(*(read_text(table[name], f"{where}.{name}") for name in _NAMED))
    except ValueError as error:
        raise InvalidRequest.at(where, str(error)) from error


def _range(value: object, where: str) -> str:
    try:
        return check_range(read_text(value, where))
    except ValueError as error:
        raise InvalidRequest.at(where, str(error)) from error
