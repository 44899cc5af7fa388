"""Repositories for the beginning of tests. What many of them publish is published once and then copied."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import uses_external_data
from semver import Version

from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

Publish = Callable[..., str]

RUN_NOTHING = "".join(
    f'[{gate}]\non_failure = "off"\n' for gate in ("load", "determinism", "batchability", "golden", "latency", "memory")
)
"""A plan that turns off gates that run the model: they have no lasting effect, and take most of a publish's CPU."""

_STATE = Path(".turnout") / "state.db"

_MOST = 8
"""Maximum number of versions in a repository that is kept."""

Seen = Mapping[str, tuple[int, int]]
"""State of a repository: modification time in nanoseconds and size in bytes of each file, by path."""


class PublishedRepositories:
    """Copies of repositories after the same models were published in the same order, starting from none.

    A publish and a release take 30 ms of CPU, and tests begin with some two thousand of them, most of them the same.
    """

    def __init__(self, directory: Path, empty_state: Path) -> None:
        """Starts without any copies.

        Args:
            directory: Directory for the copies.
            empty_state: A state store without rows.
        """
        self._directory = directory
        self._empty_state = empty_state
        self._digests: dict[str, str] = {}

    def publisher(self, models: Path, scratch: Path) -> Publish:
        """Returns a function that publishes into the repository `models`.

        Args:
            models: Root of the repository.
            scratch: Directory for the models' files.
        """
        history: str | None = hashlib.sha256().hexdigest()
        seen: Seen = {}
        count = 0
        repository = Repository(models)  # a single one, which does not read unchanged manifests again

        def publish_one(
            name: str, version: str, model: onnx.ModelProto | Path, *, release: bool = True, **more: Any
        ) -> str:
            nonlocal history, seen, count
            count += 1
            if count > _MOST:
                history = None  # each copy contains all earlier versions
            if history is not None:
                # If a server or a command changed the repository in the meantime, no copy matches.
                history = _next(history, name, version, model, release, more) if _seen(models) == seen else None
            file = _file(scratch, name, version, model)
            if history in self._digests:
                shutil.copytree(self._directory / history, models, dirs_exist_ok=True, copy_function=_copy_changed)
                digest = self._digests[history]
            else:
                digest = self._publish(repository, file, name, version, release, more)
                if history is not None:
                    shutil.copytree(models, self._directory / history)
                    self._digests[history] = digest
            if history is not None:
                seen = _seen(models)
            return digest

        return publish_one

    def _publish(
        self, repository: Repository, file: Path, name: str, version: str, release: bool, more: Mapping[str, Any]
    ) -> str:
        exact, state = Version.parse(version), repository.root / _STATE
        digest = publish(repository, PublishRequest(name, exact, file, **more)).digest
        if release:
            if not state.exists():
                # As the store would create it, in a tenth of the CPU: hundreds of tests begin like this.
                state.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copy(self._empty_state, state)
            with StateStore.open(Settings(models=repository.root).state_url) as store:
                store.release(name, exact, actor="test", reason="")
        return digest


def _copy_changed(source: str, target: str) -> None:
    """Copies files that a repository does not have, and its state. The files of versions never change."""
    if os.path.basename(target) == _STATE.name or not os.path.exists(target):
        shutil.copy2(source, target)


def _file(scratch: Path, name: str, version: str, model: onnx.ModelProto | Path) -> Path:
    if isinstance(model, Path):
        return model
    path = scratch / f"{name}-{version}.onnx"
    onnx.save(model, path)
    return path


def _next(
    history: str, name: str, version: str, model: onnx.ModelProto | Path, release: bool, more: Mapping[str, Any]
) -> str | None:
    """Returns the key of a repository after one more publish; None if it depends on files other than the model."""
    if isinstance(model, Path) or any(uses_external_data(tensor) for tensor in model.graph.initializer):
        return None
    if not all(isinstance(value, str | bool | int | None) for value in more.values()):
        return None
    known = repr((history, name, version, release, sorted(more.items()))).encode()
    return hashlib.sha256(known + model.SerializeToString()).hexdigest()


def _seen(models: Path) -> Seen:
    found = {}
    for directory, _, files in os.walk(models):
        for name in files:
            path = os.path.join(directory, name)
            status = os.stat(path, follow_symlinks=False)
            found[path] = (status.st_mtime_ns, status.st_size)
    return found
