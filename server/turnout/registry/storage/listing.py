"""The result of scanning a repository: versions, and entries that could be expected to be versions but are not."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from turnout.registry.manifest.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from turnout.registry.manifest.names import is_exact_version, model_name_fault, version_number
from turnout.registry.storage.files import explain


@dataclass(frozen=True, slots=True)
class Published:
    """A version that exists.

    Attributes:
        digest: Digest of the canonical manifest, `sha256:...`.
    """

    manifest: Manifest
    digest: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of the repository that is not a version, in a place where one could be expected.

    Attributes:
        model: Name of the directory in the place of a model's.
        version: Name of the directory in the place of a version's; "" if the model's directory is at fault.
        reason: What is wrong, in one sentence without a path.
        command: Command that publishes it; "" if that would not help. It contains a path, so it is not for clients.
        damaged: Whether it is a version whose manifest can no longer be read.
        unserved: Whether it is, or was meant to be, a model that could be served.
    """

    model: str
    version: str
    reason: str
    command: str = ""
    damaged: bool = False
    unserved: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; publish it with: {self.command}" if self.command else self.reason


@dataclass(frozen=True, slots=True)
class UnusedFiles:
    """Files in a remote repository that belong to no version."""

    digests: tuple[str, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Resources of this machine that a remote repository uses.

    Attributes:
        bytes_kept: Size of the files in the cache in bytes, which several repositories may share.
        bytes_fetched: Number of bytes that this process has fetched.
    """

    bytes_kept: int
    bytes_fetched: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The contents of a repository when it was scanned.

    Attributes:
        published: Versions sorted by model name, then by version in ascending order.
        problems: Problems sorted by model and version directory.
        present: False if the root directory does not exist.
        away: Why this is an earlier listing, as a phrase without a path; "" if it is current.
    """

    published: tuple[Published, ...] = ()
    problems: tuple[Problem, ...] = ()
    present: bool = True
    away: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that have a version, sorted."""
        return tuple(dict.fromkeys(p.manifest.model for p in self.published))

    def versions(self, model: str) -> tuple[Published, ...]:
        """Returns the versions of `model`, lowest first; () if there are none."""
        return tuple(p for p in self.published if p.manifest.model == model)


def unpublished(directory: Path, model: str, version: str) -> Problem | None:
    """Describes a directory without a manifest. Returns None for an empty or removed directory, and for an imported
    Triton version.
    """
    number = version_number(version)
    if number is not None and os.path.lexists(directory.parent / f"{number}.0.0" / MANIFEST_FILE):
        return None
    if directory.is_symlink():
        return Problem(model, version, f"{model} {version} is a link, and links are not followed")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Problem(model, version, f"{model} {version} {explain(error)}")
    if not names:
        return None
    reason = f"{model} {version} has no manifest and is not served"
    file = next((n for n in names if n == MODEL_FILE), None) or next((n for n in names if n.endswith(".onnx")), None)
    if file is None:
        return Problem(model, version, f"{reason}; it holds no ONNX file")
    return Problem(model, version, reason, _publish_command(directory, model, version, file), unserved=True)


def loose(file: Path, model: str) -> Problem:
    """Describes an ONNX file in a place for directories. `model` is "" if the model is unknown."""
    name = model or (file.stem if model_name_fault(file.stem) is None else "NAME")
    root = file.parent.parent if model else file.parent
    command = shlex.join(["turnout", "publish", name, "auto", str(file), "--release", "--models", str(root)])
    reason = f"{file.name} is not in a version directory and is not served"
    return Problem(name, file.name, reason, command, unserved=True)


def _publish_command(directory: Path, model: str, version: str, file: str) -> str:
    if not is_exact_version(version):
        number = version_number(version)
        if number is not None and file == MODEL_FILE:
            root = str(directory.parent.parent)
            return shlex.join(["turnout", "import", "triton", root, "--models", root])
        target = "VERSION" if number is None else f"{number}.0.0"
        return shlex.join(["turnout", "publish", model, target, str(directory / file)])
    # A directory can become a version in place only if its name is a version.
    model_file = str(directory / MODEL_FILE)
    publish = shlex.join(["turnout", "publish", model, version, model_file])
    return publish if file == MODEL_FILE else f"{shlex.join(['mv', str(directory / file), model_file])} && {publish}"
