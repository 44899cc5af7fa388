"""Reads the models and versions of a Triton model repository on disk. Never writes.

    <root>/<model>/config.pbtxt          may be missing
    <root>/<model>/<number>/model.onnx   a file, or a directory with a file of this name and its external data

The root may itself be a model's directory. Links are followed, since the operator chose what to name or mount.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from semver import Version

from turnout.errors import InvalidModel
from turnout.registry.manifest.manifest import MODEL_FILE, is_plain_path
from turnout.registry.manifest.names import model_name_fault, version_number
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.storage.files import explain, open_inside, read_small, visible
from turnout.registry.triton.config_text import CONFIG_FILE, MAX_CONFIG_BYTES, parse_config
from turnout.registry.triton.mapping import (
    Mapped,
    MappedField,
    Settings,
    labels_of,
    map_config,
    served_numbers,
)
from turnout_proto.triton.model_config_pb2 import ModelWarmup

MAX_LABEL_BYTES = 16 << 20
_MAX_NUMBER = 2**53 - 1
"""Largest number that a range supports: clients select version 3.0.0 by the range `3`."""

WARM_UP_DIRECTORY = "warmup"
_NO_VERSION = "no directory of a version, whose name is a number without leading zeros"


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One model of a Triton model repository.

    Attributes:
        sources: ONNX file of each version, by number, ascending.
        served: Numbers of the versions that Triton would serve.
        mapped: The translated configuration.
        labels: Class labels by output name.
        warm_up: Requests to warm up the model with.
        rows_per_request: `max_batch_size` of the configuration; 0 if their shapes include the batch dimension.
        load: Setting `load` after an import, so that a server keeps no more versions in memory than Triton; "" if none
            is needed.
        faults: Why a version is refused, by number.
        fault: Why the whole model is refused; "" if it is not.
    """

    name: str
    directory: Path
    sources: Mapping[int, Path] = field(default_factory=dict)
    served: Sequence[int] = ()
    mapped: Mapped = field(default_factory=Mapped)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warm_up: Sequence[ModelWarmup] = ()
    rows_per_request: int = 0
    load: str = ""
    rows: Sequence[MappedField] = ()
    faults: Mapping[int, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def settings(self) -> Settings:
        """Settings of `[model.NAME]` for an import: by table, those outside any table under ""."""
        return {**({"": {"load": self.load}} if self.load else {}), **self.mapped.settings}

    @property
    def metadata(self) -> VersionMetadata:
        """Metadata of each of the model's versions."""
        return VersionMetadata(batching=self.mapped.batching, labels=self.labels)


def version_of(number: int) -> Version:
    """Returns the version for a number in Triton: 3 becomes 3.0.0, so that the range `3` still selects it."""
    return Version(number)


def read_tree(root: Path) -> tuple[TritonModel, ...]:
    """Reads a Triton model repository, or one model's directory. Does not open model files.

    Returns:
        The models sorted by name; () if it is not such a repository.

    Raises:
        OSError: The directory cannot be read.
    """
    if is_model(root):
        return (read_model_directory(root, None),)
    return tuple(read_model_directory(child, child.name) for child in _directories(root) if is_model(child))


def read_model_directory(directory: Path, name: str | None) -> TritonModel:
    """Reads the directory of one model. Faults are reported in the result.

    If `name` is None, the model has the name in its configuration, or else that of its directory.
    """
    given, name = name, directory.resolve().name if name is None else name
    try:
        data = read_small(directory / CONFIG_FILE, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        return TritonModel(name, directory, fault=f"{CONFIG_FILE} {explain(error)}")
    try:
        config, unknown = parse_config(data)
        if given is None:
            name = config.name or name
        if fault := model_name_fault(name):
            return TritonModel(name, directory, fault=f"{name!r} {fault}")
        mapped = map_config(name, config, unknown)
        numbers = {
            int(child.name): child for child in _directories(directory) if version_number(child.name) is not None
        }
    except InvalidModel as error:
        return TritonModel(name, directory, fault=error.message)
    except OSError as error:
        return TritonModel(name, directory, fault=f"its directory {explain(error)}")
    if refusal := mapped.refusal:
        return TritonModel(name, directory, mapped=mapped, rows=mapped.rows, fault=refusal)
    labels, label_rows = labels_of(mapped, lambda file: _read_inside(directory, file))
    sources, faults = _sources(numbers, mapped.file)
    served, policy = served_numbers(config, numbers)
    fault = "" if sources else f"it contains no ONNX model: {next(iter(faults.values()), _NO_VERSION)}"
    load = f"latest:{len(served)}" if 0 < len(served) < len(numbers) else ""
    if load:
        policy = replace(policy, note=f'{policy.note}, which load = "{load}" keeps out of memory')
    rows = [*mapped.rows, policy, *label_rows]
    return TritonModel(
        name, directory, sources, [n for n in served if n in sources], mapped, labels, tuple(config.model_warmup),
        config.max_batch_size, load, rows, faults, fault,
    )  # fmt: skip


def _sources(numbers: Mapping[int, Path], file: str) -> tuple[dict[int, Path], dict[int, str]]:
    sources: dict[int, Path] = {}
    faults: dict[int, str] = {}
    for number in sorted(numbers):
        source = numbers[number] / file
        if not is_plain_path(file):
            faults[number] = f"default_model_filename {file[:64]!r} is not a plain relative path"
        elif number > _MAX_NUMBER:
            faults[number] = f"versions have numbers of at most {_MAX_NUMBER}"
        elif source.is_dir() and (source / MODEL_FILE).is_file():
            sources[number] = source / MODEL_FILE
        elif source.is_file():
            sources[number] = source
        else:
            faults[number] = f"{number}/{file} is missing"
    return sources, faults


def is_model(directory: Path) -> bool:
    """Returns whether a directory is that of a Triton model: it contains a config.pbtxt or numbered directories."""
    try:
        return any(
            entry.name == CONFIG_FILE or (entry.is_dir() and version_number(entry.name) is not None)
            for entry in visible(directory)
        )
    except OSError:
        return False


def _directories(directory: Path) -> list[Path]:
    """Returns the directories in `directory`, and links to directories, sorted by name, except hidden ones."""
    return [directory / entry.name for entry in visible(directory) if entry.is_dir()]


def _read_inside(directory: Path, path: str) -> bytes:
    """Reads a file of labels. The message of a ValueError is a phrase that follows the file's name."""
    if not is_plain_path(path):
        raise ValueError("is not a plain relative path")
    try:
        with open_inside(directory, path) as file:
            data = file.read(MAX_LABEL_BYTES + 1)
    except OSError as error:
        raise ValueError(explain(error)) from error
    if len(data) > MAX_LABEL_BYTES:
        raise ValueError(f"is larger than {MAX_LABEL_BYTES} bytes")
    return data
