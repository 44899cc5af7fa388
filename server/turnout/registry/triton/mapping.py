"""Translates a Triton model's configuration to Turnout's terms. Without side effects.

Each field that a config.pbtxt sets has one row in the result, so that nothing is dropped silently.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import tomlkit

from turnout.errors import InvalidModel
from turnout.registry.manifest.manifest import MODEL_FILE, BatchingDeclaration
from turnout_proto.triton.model_config_pb2 import ModelConfig, ModelInstanceGroup

_PLATFORMS = ("onnxruntime_onnx", "")
_BACKENDS = ("onnxruntime", "")

_REFUSED = {
    "sequence_batching": "requests of a sequence share state, which no version here has",
    "ensemble_scheduling": "an ensemble holds no model of its own; publish the models that it calls",
    "batch_input": "inputs that the server generates have no counterpart",
    "batch_output": "outputs that the server takes apart have no counterpart",
}
"""Fields without which a model would answer differently than in Triton."""

_LEFT_OUT = {
    "cc_model_filenames": "files by compute capability have no counterpart",
    "metric_tags": "metrics have the labels `model` and `version`",
    "model_operations": "libraries of operators are not loaded",
    "model_repository_agents": "every byte is under the version's digest anyway",
    "model_metrics": "metrics have the same buckets for every version",
    "runtime": "there is one runtime, ONNX Runtime",
    "optimization": "`[model.NAME.runtime]` says how sessions are made",
}


_GROUP_LEFT_OUT = ("profile", "rate_limiter", "passive", "secondary_devices", "host_policy")


Settings = Mapping[str, Mapping[str, Any]]
"""Settings of one model: plain values by table and key. Its own settings, outside any table, are under ""."""


class FieldOutcome(StrEnum):
    """How a field was translated."""

    TAKEN = "taken"
    """It is part of the version, or of its release."""
    SETTING = "setting"
    """It became a setting of the server, `[model.NAME]`."""
    LEFT_OUT = "no counterpart"
    REFUSED = "refused"
    """The model would answer differently without it, and is refused."""


@dataclass(frozen=True, slots=True)
class MappedField:
    """The translation of one field.

    Attributes:
        path: Path of the field, with dots.
        note: What it became, or why it was left out.
    """

    path: str
    outcome: FieldOutcome
    note: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """A Triton model's configuration in Turnout's terms.

    Attributes:
        file: Name of the model's file in each version's directory.
        batching: Declaration for its versions; None if the server decides.
        label_files: By output, the path of its label file relative to the model's directory, and the number of classes
            according to its last dimension; 0 if unknown.
        settings: Settings of `[model.NAME]`, as plain values by table.
    """

    file: str = MODEL_FILE
    batching: BatchingDeclaration | None = None
    label_files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    rows: tuple[MappedField, ...] = ()

    @property
    def refusal(self) -> str:
        """Why the model is refused; "" if it is not."""
        return "; ".join(f"{row.path}: {row.note}" for row in self.rows if row.outcome is FieldOutcome.REFUSED)


class _Rows(list[MappedField]):
    """The translations of fields so far."""

    def taken(self, path: str, note: str) -> None:
        self.append(MappedField(path, FieldOutcome.TAKEN, note))

    def setting(self, path: str, note: str) -> None:
        self.append(MappedField(path, FieldOutcome.SETTING, note))

    def left_out(self, path: str, note: str) -> None:
        self.append(MappedField(path, FieldOutcome.LEFT_OUT, note))

    def refused(self, path: str, note: str) -> None:
        self.append(MappedField(path, FieldOutcome.REFUSED, note))


def map_config(name: str, config: ModelConfig, unknown: Sequence[str] = ()) -> Mapped:
    """Translates a model's configuration.

    Args:
        name: Name of the model's directory.
        config: The configuration.
        unknown: The unknown fields in it.

    Raises:
        InvalidModel: The configuration is invalid in Triton too.
    """
    if config.name not in ("", name):
        raise InvalidModel(f"config.pbtxt is that of {config.name!r}, but is in the directory of {name!r}")
    rows = _Rows()
    for field_name in unknown:
        rows.left_out(field_name, "this release does not know it")
    settings: dict[str, dict[str, Any]] = {}
    _identity(config, rows)
    batching = _batching(config, rows)
    labels = _tensors(config, rows)
    if config.HasField("dynamic_batching"):
        _dynamic_batching(config, settings, rows)
    if config.instance_group:
        _instance_groups(config.instance_group, settings, rows)
    _parameters(config, settings, rows)
    _the_rest(config, rows)
    return Mapped(config.default_model_filename or MODEL_FILE, batching, labels, settings, tuple(rows))


def served_numbers(config: ModelConfig, numbers: Collection[int]) -> tuple[Sequence[int], MappedField]:
    """Returns the versions that Triton serves by the version policy, ascending, and the translation of the policy."""
    ordered, policy = sorted(numbers), config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            served, message = ordered, "all"
        case "specific":
            served, message = [n for n in ordered if n in policy.specific.versions], "specific"
        case choice:
            latest = policy.latest.num_versions or 1
            served, message = ordered[-latest:], f"latest {latest}{'' if choice else ', the default'}"
    released = ", ".join(f"{number}.0.0" for number in served) or "none"
    others = "; the others are candidates" if len(served) < len(ordered) else ""
    return served, MappedField("version_policy", FieldOutcome.TAKEN, f"{message}: released are {released}{others}")


def _identity(config: ModelConfig, rows: _Rows) -> None:
    if config.name:
        rows.taken("name", "the model's name")
    for path, value, known in (("platform", config.platform, _PLATFORMS), ("backend", config.backend, _BACKENDS)):
        if value and value in known:
            rows.taken(path, "ONNX Runtime")
        elif value:
            rows.refused(path, f"{value[:64]} is not served here, expected {known[0]}")
    if config.default_model_filename:
        rows.taken("default_model_filename", f"published as {MODEL_FILE}")


def _batching(config: ModelConfig, rows: _Rows) -> BatchingDeclaration | None:
    most = config.max_batch_size
    if most < 0:
        raise InvalidModel(f"max_batch_size is {most}")
    if most == 0:
        return None
    if most == 1:
        rows.taken("max_batch_size", "requests are not put together")
        return BatchingDeclaration(enabled=False)
    rows.taken("max_batch_size", f"batches of at most {most} rows, where they are proved right and pay")
    return BatchingDeclaration(max_rows=most)


def _tensors(config: ModelConfig, rows: _Rows) -> Mapping[str, tuple[str, int]]:
    labels: dict[str, tuple[str, int]] = {}
    for side, tensors in (("input", config.input), ("output", config.output)):
        if tensors:
            rows.taken(side, "names, types and shapes are those of the ONNX file")
        for tensor in tensors:
            where = f"{side}.{tensor.name}"
            for name in ("reshape", "is_shape_tensor", "allow_ragged_batch", "is_non_linear_format_io", "format"):
                if any(one.name == name for one, _ in tensor.ListFields()):
                    note = "clients send and get the ONNX file's own shape" if name == "reshape" else "not used"
                    rows.left_out(f"{where}.{name}", note)
    for output in config.output:
        if output.label_filename:
            labels[output.name] = output.label_filename, max(output.dims[-1] if output.dims else 0, 0)
    return labels


def _dynamic_batching(config: ModelConfig, settings: dict[str, dict[str, Any]], rows: _Rows) -> None:
    message = config.dynamic_batching
    rows.taken("dynamic_batching", "on by default, where it is proved right and pays")
    if message.max_queue_delay_microseconds:
        milliseconds = message.max_queue_delay_microseconds / 1000
        settings.setdefault("batching", {})["max_delay_ms"] = milliseconds
        rows.setting("dynamic_batching.max_queue_delay_microseconds", f"batching.max_delay_ms = {milliseconds:g}")
    if (most := message.default_queue_policy.max_queue_size) > 0:
        settings.setdefault("limits", {})["max_queue_requests"] = most
        rows.setting("dynamic_batching.default_queue_policy.max_queue_size", f"limits.max_queue_requests = {most}")
    notes = {
        "preferred_batch_size": "a batch is formed of what waits when a runner gets free",
        "preserve_ordering": "answers of a stream are in order, others as they are ready",
        "priority_levels": "requests of a version wait in one queue",
        "default_priority_level": "requests of a version wait in one queue",
        "priority_queue_policy": "requests of a version wait in one queue",
    }
    for one, _ in message.ListFields():
        if one.name in notes:
            rows.left_out(f"dynamic_batching.{one.name}", notes[one.name])
    for one, _ in message.default_queue_policy.ListFields():
        if one.name != "max_queue_size":
            path = f"dynamic_batching.default_queue_policy.{one.name}"
            rows.left_out(path, "a request waits until its own deadline")


def _instance_groups(groups: Sequence[ModelInstanceGroup], settings: dict[str, dict[str, Any]], rows: _Rows) -> None:
    runtime = settings.setdefault("runtime", {})
    kinds = {group.kind for group in groups}
    on_cpu = kinds == {ModelInstanceGroup.KIND_CPU}
    if on_cpu:
        runtime["providers"] = ["cpu"]
        rows.setting("instance_group.kind", 'runtime.providers = ["cpu"]')
    else:
        rows.taken("instance_group.kind", "a GPU is used if there is one")
    counted = [max(group.count, 1) for group in groups if on_cpu or group.kind != ModelInstanceGroup.KIND_CPU]
    if any(group.count for group in groups):
        if not on_cpu and ModelInstanceGroup.KIND_CPU in kinds:
            rows.left_out("instance_group", "a version runs on GPUs or on the CPU, not on both")
        runtime |= {"runners": sum(counted), "intra_op_threads": 0}
        note = f"runtime.runners = {sum(counted)}, runtime.intra_op_threads = 0: an instance of Triton uses all cores"
        rows.setting("instance_group.count", note)
    if gpus := sorted({gpu for group in groups for gpu in group.gpus}):
        runtime["device_ids"] = gpus
        rows.setting("instance_group.gpus", f"runtime.device_ids = {gpus}")
    message = {one.name for group in groups for one, _ in group.ListFields()}
    for name in _GROUP_LEFT_OUT:
        if name in message:
            rows.left_out(f"instance_group.{name}", "not used")
    if not runtime:
        del settings["runtime"]


def _parameters(config: ModelConfig, settings: dict[str, dict[str, Any]], rows: _Rows) -> None:
    for key in sorted(config.parameters):
        value, path = config.parameters[key].string_value, f"parameters.{key[:64]}"
        if key == "intra_op_thread_count" and value.isascii() and value.isdigit() and len(value) < 5:
            settings.setdefault("runtime", {})["intra_op_threads"] = int(value)
            rows.setting(path, f"runtime.intra_op_threads = {int(value)}")
        else:
            rows.left_out(path, "not a setting here")


def _the_rest(config: ModelConfig, rows: _Rows) -> None:
    for one, value in config.ListFields():
        if note := _REFUSED.get(one.name):
            rows.refused(one.name, note)
        elif note := _LEFT_OUT.get(one.name):
            rows.left_out(one.name, note)
        elif one.name == "response_cache" and value.enable:
            rows.left_out("response_cache", "every request is computed")
        elif one.name == "model_transaction_policy" and value.decoupled:
            rows.refused("model_transaction_policy.decoupled", "each request has one answer here")


def as_toml(models: Mapping[str, Settings]) -> str:
    """Returns the settings of models, by model name, as TOML; "" if there are none."""
    tables = {
        name: {**settings.get("", {}), **{table: dict(values) for table, values in settings.items() if table}}
        for name, settings in models.items()
        if settings
    }
    return tomlkit.dumps({"model": tables}) if tables else ""


Read = Callable[[str], bytes]
"""Reads a file of the model's directory. Raises OSError or ValueError if it cannot be read."""


def labels_of(mapped: Mapped, read: Read) -> tuple[Mapping[str, tuple[str, ...]], Sequence[MappedField]]:
    """Reads the label files in the model's directory.

    Returns:
        The labels by output, and the result for each file. Labels that do not fit the output are left out.
    """
    labels: dict[str, tuple[str, ...]] = {}
    rows = _Rows()
    for output, (file, classes) in mapped.label_files.items():
        path = f"output.{output}.label_filename"
        try:
            lines = read(file).decode().rstrip("\n").split("\n")
        except UnicodeDecodeError:
            rows.left_out(path, f"{file[:64]} is not UTF-8")
            continue
        except (OSError, ValueError) as error:
            rows.left_out(path, f"{file[:64]} {error}")
            continue
        found = tuple(line.rstrip("\r") for line in lines)
        if len(set(found)) < len(found):
            rows.left_out(path, f"{file[:64]} names a class twice")
        elif classes not in (0, len(found)):
            rows.left_out(path, f"{file[:64]} has {len(found)} labels for {classes} classes")
        else:
            labels[output] = found
            rows.taken(path, f"{len(found)} labels of the version")
    return labels, rows
