"""Copies models from an MLflow registry: their ONNX flavour, with MLflow's information about the model.

Registry and tracking server are those configured for MLflow (MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI).
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from turnout.config import Transfers
from turnout.errors import ConfigError, InvalidRequest, TurnoutError
from turnout.registry.manifest.manifest import is_plain_path
from turnout.registry.manifest.provenance import COMMIT, MAX_ITEMS
from turnout.registry.publishing.metadata import VersionMetadata, parse_metadata
from turnout.registry.sources.source import ModelSource, fetch_model

_URI = re.compile(r"models:/(?P<name>[^/@]{1,256})(?:@(?P<alias>[^/@]{1,256})|/(?P<version>[^/@]{1,64}))")
_COMMIT_TAG = "mlflow.source.git.commit"
_MAX_MLMODEL = 1 << 20


def fetch_registered(uri: str, home: Path, bounds: Transfers) -> ModelSource:
    """Copies a registered model, `models:/NAME@ALIAS` or `models:/NAME/VERSION`, to `home`.

    Raises:
        ConfigError: The extra mlflow is not installed.
        InvalidRequest: There is no such model, it has no ONNX flavour, or it is too large.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidRequest.at("FILE", "expected mlflow:models:/NAME@ALIAS or mlflow:models:/NAME/VERSION")
    # MLflow sends telemetry unless this is set before it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient
        from mlflow.models import Model
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    except ImportError as error:
        raise ConfigError(
            "mlflow: needs the extra 'mlflow', which is not installed: pip install 'turnout[mlflow]'"
        ) from error
    try:
        client = MlflowClient()
        known = (
            client.get_model_version_by_alias(match["name"], match["alias"])
            if match["alias"]
            else client.get_model_version(match["name"], match["version"])
        )
        # By number from here on, since an alias may move while the files are copied.
        files = _Artifacts(get_artifact_repository(f"models:/{match['name']}/{known.version}"), home / "mlflow", bounds)
        with files.open("MLmodel") as file:
            if len(file.read(_MAX_MLMODEL + 1)) > _MAX_MLMODEL:
                raise InvalidRequest.at("FILE", f"its MLmodel is larger than {_MAX_MLMODEL} bytes")
        described = Model.load(str(files.home / "MLmodel"))
        run = None
        if known.run_id:
            with suppress(Exception):  # the run may be deleted or not readable, but the model exists
                run = client.get_run(known.run_id)
    except TurnoutError:
        raise
    except Exception as error:
        code = getattr(error, "error_code", "") or type(error).__name__
        raise InvalidRequest.at("FILE", f"MLflow has no such model, or denies access to it ({code})") from error
    directory, _, name = onnx_path(described.flavors).rpartition("/")
    prefix = f"{directory}/" if directory else ""
    path = fetch_model(lambda one: files.open(prefix + one), name, home / "model", bounds)
    return ModelSource(path, _metadata(known, described, run))


class _Artifacts:
    """The files of one model, copied one at a time."""

    def __init__(self, repository: Any, home: Path, bounds: Transfers) -> None:
        self.home = home
        self._repository = repository
        self._bounds = bounds
        home.mkdir(parents=True)

    def open(self, path: str) -> BinaryIO:
        """Copies a file, unless it is too large, and opens the copy.

        Raises:
            InvalidRequest: The file is too large.
            FileNotFoundError: The file does not exist.
        """
        parent = path.rpartition("/")[0]
        listed = {file.path: file for file in self._repository.list_artifacts(parent)}
        if path not in listed or listed[path].is_dir:
            raise FileNotFoundError(path)
        if (listed[path].file_size or 0) > self._bounds.max_file_bytes:
            raise InvalidRequest.at("FILE", f"{path!r} is larger than {self._bounds.max_file_bytes} bytes")
        for old in self.home.iterdir():  # one file at a time is enough
            if old.is_file() and old.name != "MLmodel":
                old.unlink()
        return Path(self._repository.download_artifacts(path, str(self.home))).open("rb")


def onnx_path(flavors: Mapping[str, Any]) -> str:
    """Returns the path of the ONNX file in the model.

    Raises:
        InvalidRequest: The model has no ONNX flavour, or its path is outside the model.
    """
    flavor = flavors.get("onnx")
    if not isinstance(flavor, dict):
        raise InvalidRequest.at(
            "FILE", f"the model has no ONNX flavour, only {', '.join(sorted(map(str, flavors))) or 'none'}"
        )
    path = flavor.get("data")
    if not isinstance(path, str) or not is_plain_path(path):
        raise InvalidRequest.at("FILE", "the model's ONNX flavour does not name a file of the model")
    return path


def _metadata(known: Any, described: Any, run: Any) -> VersionMetadata:
    """Converts MLflow's information to a version's metadata."""
    tags = {str(key): str(value) for key, value in (known.tags or {}).items()}
    about: dict[str, Any] = {"model": str(known.name), "version": str(known.version)}
    if known.run_id:
        about["run_id"] = str(known.run_id)
    if tags:
        about["tags"] = tags
    if described.signature is not None:
        about["signature"] = {
            side: json.loads(text) for side, text in described.signature.to_dict().items() if isinstance(text, str)
        }
    meta: dict[str, Any] = {"metadata": {"mlflow": about}}
    if known.description:
        meta["description"] = str(known.description)
    if run is not None:
        meta["training"] = _training(run.data)
    return parse_metadata(meta)


def _training(data: Any) -> dict[str, Any]:
    training: dict[str, Any] = {
        "hyperparameters": {str(k): str(v) for k, v in sorted(data.params.items())[:MAX_ITEMS]},
        # JSON cannot represent metrics that are NaN or infinite.
        "metrics": {str(k): float(v) for k, v in sorted(data.metrics.items())[:MAX_ITEMS] if abs(v) < float("inf")},
    }
    if COMMIT.fullmatch(commit := data.tags.get(_COMMIT_TAG, "")):
        training["commit"] = commit
    return {name: value for name, value in training.items() if value}
