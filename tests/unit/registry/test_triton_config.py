"""Configurations of Triton: read within bounds, and every field of them told of."""

import struct
from pathlib import Path

import numpy as np
import pytest

from turnout.config.settings import ModelOverrides, Settings
from turnout.errors import InvalidModel
from turnout.registry.manifest.manifest import BatchingDeclaration
from turnout.registry.manifest.names import version_number
from turnout.registry.triton.config_text import MAX_CONFIG_BYTES, parse_config
from turnout.registry.triton.mapping import (
    FieldOutcome,
    as_toml,
    map_config,
    served_numbers,
)
from turnout.registry.triton.samples import write_samples
from turnout.registry.triton.tree import read_tree
from turnout_proto.triton.model_config_pb2 import ModelConfig


def mapped(text: str, name: str = "m"):
    return map_config(name, *parse_config(text.encode()))


@pytest.mark.parametrize("name", ["0", "1", "3", "10", "1700000000"])
def test_numbers_without_a_leading_zero_are_versions(name: str) -> None:
    assert version_number(name) == int(name)


@pytest.mark.parametrize("name", ["00", "01", "1.0.0", "v1", "-1", "", "²", "\uff11", "1 ", "9" * 21])
def test_all_else_is_none(name: str) -> None:
    assert version_number(name) is None


def test_fields_that_nobody_knows_are_passed_over_and_told() -> None:
    text = """name: "m" future { deep { er: [1, 2] } }
        later: "}" '{'  # } a comment
        max_batch_size: 4, list [ { a: 1 }, < b: "]" > ];
        instance_group [ { count: 2 modern: -1.5e3 rate_limiter { resources [ { name: "r" count: 4 } ] priority: 2 } } ]
        parameters { key: "a" value { string_value: "b" more: TRUE } } last: [ "x", "y" ]"""
    config, unknown = parse_config(text.encode())
    assert (config.name, config.max_batch_size, config.instance_group[0].count) == ("m", 4, 2)
    assert config.parameters["a"].string_value == "b"
    assert unknown == [
        "future (line 1)",
        "later (line 2)",
        "list (line 3)",
        "modern (line 4)",
        "more (line 5)",
        "last (line 5)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        'ensemble_scheduling { step [ { model_name: "a" input_map { key: "x" value: "x" } }, { model_name: "b" } ] }',
        'sequence_batching { control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START } ] } ] }',
        "batch_input [ { kind: BATCH_ELEMENT_COUNT source_input: 'x' } ]",
    ],
    ids=["ensemble", "sequences", "batch input"],
)
def test_what_has_no_counterpart_as_a_whole_is_refused_for_itself(text: str) -> None:
    """Its fields were taken for mistakes in the text if they were lists, as Triton's documentation writes them."""
    config, unknown = parse_config(text.encode())
    assert unknown == []
    assert map_config("m", config).refusal.startswith(text.split(" ")[0] + ": ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"max_batch_size: many", "is not a model configuration: line 1:17"),
        (b"input { data_type: TYPE_FP33 }", "has no value named"),
        (b"name: \xff", "is not UTF-8"),
        (b"name: 'm", "is not a model configuration"),
        (b"{" * 1000, "is not a model configuration"),
        (b"x {" * 80_000, "line 1: x has no end"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "is larger than"),
        (b"x: 1\n" * 50_000, "has too many unknown fields"),
        (b"x: {", "is not a model configuration"),
        (b"x: 'y", "is not a model configuration"),
        (b"x [ 1 }", "is not a model configuration"),
    ],
)
def test_what_is_no_configuration_is_refused_in_words(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidModel) as refused:
        parse_config(data)
    assert reason in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    ("text", "batching"),
    [
        ("", None),
        ("max_batch_size: 0", None),
        ("max_batch_size: 1", BatchingDeclaration(enabled=False)),
        ("max_batch_size: 64", BatchingDeclaration(max_rows=64)),
    ],
)
def test_max_batch_size_is_what_a_version_declares(text: str, batching: BatchingDeclaration | None) -> None:
    assert mapped(text).batching == batching


@pytest.mark.parametrize(
    ("text", "numbers", "served"),
    [
        ("", [1, 2, 10], [10]),
        ("version_policy { latest { num_versions: 2 } }", [1, 2, 10], [2, 10]),
        ("version_policy { latest { num_versions: 9 } }", [1, 2], [1, 2]),
        ("version_policy { all {} }", [3, 1], [1, 3]),
        ("version_policy: { specific: { versions: [1, 7] } }", [1, 2], [1]),
        ("version_policy { all {} }", [], []),
    ],
)
def test_the_version_policy_says_what_is_released(text: str, numbers: list[int], served: list[int]) -> None:
    config, _ = parse_config(text.encode())
    assert list(served_numbers(config, numbers)[0]) == served


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("instance_group { kind: KIND_CPU }", {"runtime": {"providers": ["cpu"]}}),
        ("instance_group { count: 3 }", {"runtime": {"runners": 3, "intra_op_threads": 0}}),
        (
            "instance_group [ { count: 2 kind: KIND_GPU gpus: [1, 0] }, { count: 4 kind: KIND_CPU } ]",
            {"runtime": {"runners": 2, "intra_op_threads": 0, "device_ids": [0, 1]}},
        ),
        ("instance_group { kind: KIND_GPU }", {}),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "4" } }',
            {"runtime": {"intra_op_threads": 4}},
        ),
        ('parameters { key: "intra_op_thread_count" value { string_value: "-4" } }', {}),
        ("dynamic_batching {}", {}),
        ("dynamic_batching { max_queue_delay_microseconds: 250 }", {"batching": {"max_delay_ms": 0.25}}),
    ],
)  # fmt: skip
def test_settings_follow_from_it_and_are_such_as_a_server_takes(text: str, settings: dict[str, object]) -> None:
    found = mapped(text).settings
    assert found == settings
    ModelOverrides(**found)  # type: ignore[arg-type] # pydantic reads plain values


def test_settings_are_written_as_a_server_reads_them() -> None:
    import tomllib

    text = as_toml({"a.b": {"runtime": {"providers": ["cpu"], "runners": 2}}, "m": {}, "n": {"limits": {}}})
    models = tomllib.loads(text)["model"]
    assert models["a.b"] == {"runtime": {"providers": ["cpu"], "runners": 2}}
    Settings(model=models)


@pytest.mark.parametrize("field", [field.name for field in ModelConfig.DESCRIPTOR.fields])
def test_no_field_goes_unsaid(field: str) -> None:
    config = ModelConfig()
    descriptor = ModelConfig.DESCRIPTOR.fields_by_name[field]
    value = {"name": "m", "response_cache": True, "model_transaction_policy": True}
    match descriptor:
        case _ if field == "parameters":
            config.parameters["k"].string_value = "v"
        case _ if field in ("cc_model_filenames", "metric_tags"):
            getattr(config, field)["k"] = "v"
        case _ if field == "response_cache":
            config.response_cache.enable = True
        case _ if field == "model_transaction_policy":
            config.model_transaction_policy.decoupled = True
        case _ if descriptor.is_repeated:
            getattr(config, field).add()
        case _ if descriptor.message_type is not None:
            getattr(config, field).SetInParent()
        case _:
            setattr(config, field, 2 if field == "max_batch_size" else value.get(field, "onnxruntime_onnx"))
    paths = [row.path for row in map_config("m", config).rows]
    if field == "version_policy":
        paths.append(served_numbers(config, [1])[1].path)
    if field == "model_warmup":  # told of where its samples are made
        return
    assert any(path.split(".")[0] == field for path in paths), paths


def tree(tmp_path: Path, config: str, **files: bytes) -> Path:
    home = tmp_path / "tree" / "m"
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.onnx").write_bytes(b"")
    (home / "config.pbtxt").write_text(config)
    for name, data in files.items():
        (home / "warmup").mkdir(exist_ok=True)
        (home / "warmup" / name).write_bytes(data)
    return tmp_path / "tree"


def sample(body: str, *, batch: int = 0) -> str:
    return (
        f'max_batch_size: {batch} model_warmup {{ name: "w" batch_size: 3 inputs {{ key: "x" value: {{ {body} }} }} }}'
    )


@pytest.mark.parametrize(
    ("body", "batch", "expected"),
    [
        ("data_type: TYPE_INT64 dims: [2] zero_data: true", 0, np.zeros(2, np.int64)),
        ("data_type: TYPE_INT64 dims: [2] zero_data: true", 4, np.zeros((3, 2), np.int64)),
        ("data_type: TYPE_STRING dims: [2] random_data: true", 0, np.array(["", ""])),
        ('data_type: TYPE_FP16 dims: [2] input_data_file: "numbers"', 0, np.array([1, 2], np.float16)),
        ('data_type: TYPE_STRING dims: [2] input_data_file: "texts"', 0, np.array(["é", ""])),
        ("data_type: TYPE_BOOL zero_data: true", 0, np.array(False)),
    ],
)
def test_warm_up_requests_become_golden_cases(tmp_path: Path, body: str, batch: int, expected: np.ndarray) -> None:
    texts = struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 0)
    root = tree(tmp_path, sample(body, batch=batch), numbers=np.array([1, 2], "<f2").tobytes(), texts=texts)
    (model,) = read_tree(root)
    (file,), rows = write_samples(model, tmp_path)
    with np.load(file) as case:
        assert case["inputs/x"].tolist() == expected.tolist()
        assert case["inputs/x"].shape == expected.shape
    assert [row.outcome for row in rows] == [FieldOutcome.TAKEN]


def test_random_warm_up_requests_are_the_same_each_time(tmp_path: Path) -> None:
    (model,) = read_tree(tree(tmp_path, sample("data_type: TYPE_FP32 dims: [8] random_data: true")))
    (file,), _ = write_samples(model, tmp_path)
    first = file.read_bytes()
    write_samples(model, tmp_path)
    assert file.read_bytes() == first
    with np.load(file) as case:
        assert np.ptp(case["inputs/x"]) > 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("data_type: TYPE_FP32 dims: [1000000, 1000000] zero_data: true", "more than"),
        ("data_type: TYPE_FP32 dims: [-1] zero_data: true", "has a dimension of -1"),
        ("dims: [1] zero_data: true", "no data_type"),
        ('data_type: TYPE_FP32 dims: [1] input_data_file: "../config.pbtxt"', "not a plain relative path"),
        ('data_type: TYPE_FP32 dims: [1] input_data_file: "/etc/passwd"', "not a plain relative path"),
        ('data_type: TYPE_FP32 dims: [1] input_data_file: "gone"', "is missing"),
        ('data_type: TYPE_FP32 dims: [2] input_data_file: "short"', "has 3 bytes, expected 8"),
        ('data_type: TYPE_STRING dims: [1] input_data_file: "short"', "does not hold 1 elements"),
        ('data_type: TYPE_STRING dims: [4000] input_data_file: "one_long"', "the elements of x take more than"),
        (f"data_type: TYPE_FP32 dims: [0, {2**62}, {2**62}] zero_data: true", "x has a shape that no array has"),
    ],
)
def test_a_warm_up_request_that_cannot_be_is_left_out_with_the_reason(tmp_path: Path, body: str, reason: str) -> None:
    one_long = struct.pack("<I", 1 << 16) + b"a" * (1 << 16) + bytes(4 * 3999)
    (model,) = read_tree(tree(tmp_path, sample(body), short=b"abc", one_long=one_long))
    files, rows = write_samples(model, tmp_path)
    assert files == ()
    assert [row.outcome for row in rows] == [FieldOutcome.LEFT_OUT]
    assert reason in rows[0].note


def test_a_warm_up_request_with_a_name_that_no_archive_takes_is_left_out(tmp_path: Path) -> None:
    config = sample("data_type: TYPE_FP32 dims: [1] zero_data: true").replace('"x"', f'"{"x" * 70_000}"')
    (model,) = read_tree(tree(tmp_path, config))
    files, rows = write_samples(model, tmp_path)
    assert files == ()
    assert [row.note for row in rows] == ["an input has a name of 70000 characters"]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"a\nb\n", "2 labels of the version"),
        (b"a\r\nb\r\n", "2 labels of the version"),
        (b"a\na\n", "names a class twice"),
        (b"a\nb\nc\n", "has 3 labels for 2 classes"),
        (b"\xff\n", "is not UTF-8"),
        (None, "is missing"),
    ],
)
def test_labels_are_read_or_left_out_with_the_reason(tmp_path: Path, data: bytes | None, note: str) -> None:
    root = tree(tmp_path, 'output { name: "y" dims: [2] label_filename: "labels.txt" }')
    if data is not None:
        (root / "m" / "labels.txt").write_bytes(data)
    (model,) = read_tree(root)
    (row,) = [row for row in model.rows if row.path == "output.y.label_filename"]
    assert note in row.note
    assert model.labels == ({"y": ("a", "b")} if row.outcome is FieldOutcome.TAKEN else {})


@pytest.mark.parametrize("file", ["../m/labels.txt", "/etc/passwd", "a/../labels.txt", "link"])
def test_labels_are_read_from_the_models_directory_only(tmp_path: Path, file: str) -> None:
    root = tree(tmp_path, f'output {{ name: "y" label_filename: "{file}" }}')
    (root / "m" / "labels.txt").write_text("a\n")
    (root / "m" / "link").symlink_to("/etc/passwd")
    (model,) = read_tree(root)
    assert model.labels == {}


def test_a_tree_is_told_from_a_repository(tmp_path: Path) -> None:
    assert [model.name for model in read_tree(tree(tmp_path, ""))] == ["m"]
    assert [model.name for model in read_tree(tmp_path / "tree" / "m")] == ["m"]
    (tmp_path / "models" / "m" / "1.0.0").mkdir(parents=True)
    assert read_tree(tmp_path / "models") == ()
