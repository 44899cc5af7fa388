"""Precedence, unknown keys and the sentences about wrong values."""

from pathlib import Path

import pytest

from turnout.config import Address, load_settings
from turnout.errors import ConfigError

UNREADABLE_TOML = ("models = " + "[" * 20_000, "workers = " + "9" * 5_000, "models." + "a." * 2_000 + "b = 1")
"""Documents for which `tomllib` raises something else than its own error, or that recursive code cannot read."""


def write(folder: Path, text: str) -> Path:
    file = folder / "turnout.toml"
    file.write_text(text)
    return file


def refusal(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, flags, environ or {})
    return caught.value.message


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'grpc = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\ncontrol = "127.0.0.1:1"\n')
    environ = {"TURNOUT_GRPC": "127.0.0.1:2", "TURNOUT_HTTP": "127.0.0.1:2"}
    loaded = load_settings(file, {"grpc": "127.0.0.1:3", "http": None}, environ)
    settings = loaded.settings
    assert (settings.grpc.port, settings.http.port, settings.control.port) == (3, 2, 1)
    assert settings.models == Path("models")
    assert loaded.origins == {"grpc": "--grpc", "http": "TURNOUT_HTTP", "control": str(file)}


def test_sources_merge_key_by_key_within_a_table(tmp_path: Path) -> None:
    file = write(tmp_path, "[batching]\nmax_rows = 8\nmax_delay_ms = 1.5\n")
    batching = load_settings(file, environ={"TURNOUT_BATCHING__MAX_ROWS": "16"}).settings.batching
    assert (batching.max_rows, batching.max_delay_ms) == (16, 1.5)


def test_the_file_is_the_flags_then_the_variables_then_the_working_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).file is None
    write(tmp_path, "[batching]\nmax_rows = 1\n")
    for name, rows in (("two.toml", 2), ("three.toml", 3)):
        (tmp_path / name).write_text(f"[batching]\nmax_rows = {rows}\n")
    assert load_settings(environ={}).settings.batching.max_rows == 1
    assert load_settings(environ={"TURNOUT_CONFIG": "two.toml"}).settings.batching.max_rows == 2
    assert load_settings(Path("three.toml"), environ={"TURNOUT_CONFIG": "two.toml"}).settings.batching.max_rows == 3


def test_a_file_that_was_named_must_exist_and_be_toml(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert refusal(missing) == f"cannot read the configuration file {missing}: No such file or directory"
    for text in ("models = \n", *UNREADABLE_TOML):
        assert "is not valid TOML" in refusal(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ('modles = "m"', "modles", "models"),
        ("[batchin]\nmax_rows = 1", "batchin", "batching"),
        ("[batching]\nmax_row = 1", "batching.max_row", "batching.max_rows"),
        ("max_rows = 1", "max_rows", "batching.max_rows"),
        ("[limits]\nmax_delay_ms = 1", "limits.max_delay_ms", "batching.max_delay_ms"),
        ("[model.magika]\nlaod = 'all'", "model.magika.laod", "model.magika.load"),
        ("[model.magika.runtime]\nruners = 1", "model.magika.runtime.runers", "model.magika.runtime.runners"),
    ],
)
def test_an_unknown_key_in_the_file_names_the_nearest_known_one(
    tmp_path: Path, text: str, unknown: str, nearest: str
) -> None:
    file = write(tmp_path, text)
    message = refusal(file)
    assert message.startswith(f"{file} has an unknown key {unknown!r}; nearest: {nearest}")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("TURNOUT_GRCP", "TURNOUT_GRPC"),
        ("TURNOUT_MAX_ROWS", "TURNOUT_BATCHING__MAX_ROWS"),
        ("TURNOUT_BATCHING__MAX_ROW", "TURNOUT_BATCHING__MAX_ROWS"),
        ("TURNOUT_GRPC__HOST", "TURNOUT_GRPC"),
        ("TURNOUT_MODEL__MAGIKA__RUNTIME__RUNERS", "TURNOUT_MODEL__MAGIKA__RUNTIME__RUNNERS"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(variable: str, nearest: str) -> None:
    message = refusal(environ={variable: "1"})
    assert message.startswith(f"no setting goes by the environment variable {variable}; nearest: {nearest}")


def test_what_kubernetes_says_of_a_service_called_turnout_is_no_setting() -> None:
    environ = {
        "TURNOUT_SERVICE_HOST": "10.0.0.1",
        "TURNOUT_SERVICE_PORT": "8001",
        "TURNOUT_SERVICE_PORT_GRPC": "8001",
        "TURNOUT_PORT": "tcp://10.0.0.1:8001",
        "TURNOUT_PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "TURNOUT_PORT_8001_TCP_ADDR": "10.0.0.1",
        "TURNOUT_CONTROL_SERVICE_HOST": "10.0.0.2",
        "TURNOUT_CONTROL_PORT": "tcp://10.0.0.2:8003",
    }
    assert load_settings(environ=environ).origins == {}
    assert "TURNOUT_CONTROL" in refusal(environ={"TURNOUT_CONTROL_PORT": "8003"})


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings(environ={"TURNOUT_GRPC": "", "TURNOUT_NOTHING": ""}).settings.grpc.port == 8001


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[batching]\nmax_rows = 0", "batching.max_rows in {}: expected 1 or more, got 0"),
        ("[batching]\nmax_rows = true", "batching.max_rows in {}: expected a number, got True"),
        ("[batching]\nmax_rows = 'many'", "batching.max_rows in {}: expected a whole number, got 'many'"),
        ("[batching]\nmax_delay_ms = inf", "batching.max_delay_ms in {}: expected a finite number, got inf"),
        ("[batching]\nenabled = 'maybe'", "batching.enabled in {}: expected true or false, got 'maybe'"),
        ("batching = 3", "batching in {}: expected a table, got 3"),
        ("models = 3", "models in {}: expected a path or a URL such as s3://BUCKET/PREFIX, got 3"),
        ("[log]\naccess_sample_rate = 2", "log.access_sample_rate in {}: expected 1 or less, got 2"),
        ("[log]\nformat = 'xml'", "log.format in {}: expected 'auto', 'json' or 'console', got 'xml'"),
        (
            "[runtime]\nproviders = ['gpu']",
            "runtime.providers in {}: expected \"auto\" or a list of cpu, cuda, tensorrt, got ['gpu']",
        ),
        ("[runtime]\ndevice_ids = [-1]", "runtime.device_ids in {}: expected 0 or more, got -1"),
        ("[runtime]\ndevice_ids = [0, 1, 0]", "runtime.device_ids in {}: expected each device once, got [0, 1, 0]"),
        ("[runtime]\ndevice_ids = []", "runtime.device_ids in {}: expected at least one item, got []"),
        (
            "[limits]\nmax_queue_bytes = 'lots'",
            "limits.max_queue_bytes in {}: expected a size in bytes, such as 1048576 or \"64MiB\", got 'lots'",
        ),
        (
            "[model.m]\nload = 'lastest:2'",
            'model.m.load in {}: expected "all", "latest:N" with N of 1 or more, "on_demand", or a list of selectors, '
            "got 'lastest:2'",
        ),
        (
            "[model.'A b']\nload = 'all'",
            "model.A b in {}: 'A b' names no model, expected [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}",
        ),
    ],
)
def test_a_wrong_value_is_a_sentence_with_key_place_expectation_and_value(
    tmp_path: Path, text: str, sentence: str
) -> None:
    file = write(tmp_path, text)
    assert refusal(file) == sentence.format(file)


def test_a_wrong_value_names_the_flag_or_variable_that_holds_it() -> None:
    assert refusal(grpc="8001").startswith("--grpc: expected HOST:PORT")
    assert refusal(environ={"TURNOUT_LOG__LEVEL": "loud"}).startswith("TURNOUT_LOG__LEVEL: expected 'debug'")
    assert refusal(environ={"TURNOUT_LIMITS": '{"max_stream_items": 0}'}) == "TURNOUT_LIMITS: expected 1 or more, got 0"
    assert refusal(environ={"TURNOUT_LIMITS": "{"}).startswith("TURNOUT_LIMITS: expected a table, as a JSON object")


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, "[batching]\nmax_rows = 0\nrows = 1\n"), {"grpc": "x"}, {})
    assert {v.field for v in caught.value.violations} == {"batching.max_rows", "batching.rows", "grpc"}


def test_a_password_in_a_refused_state_url_is_not_shown(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "state = 'Postgres://me:hunter2@host/db'"))
    assert "hunter2" not in message
    assert "expected a database URL" in message


@pytest.mark.parametrize(
    "text",
    [
        "[console]\ntoken = 'hunter2'",
        "[console]\ntoken = ['hunter2']",
        "console = 'hunter2'",
        "[rollout]\nwebhook_secret = ['hunter2']",
        "rollout = 'hunter2'",
        "[rollout]\nwebhook_url = 'ftp://me:hunter2@host/'",
        "[rollout]\nwebhook_url = 'hooks.example/services/hunter2'",
        "[rollout]\nwebhook_url = 'https:/hooks.example/services/hunter2'",
        "[rollout]\nconfirm_url = 'hooks.example/services/hunter2'",
        "[tracing]\nheaders = 'hunter2'",
        "[tracing.headers]\nauthorization = ['hunter2']",
        "[tracing]\nendpoint = 'http://me:hunter2@host:4318'",
    ],
)
def test_a_refused_value_never_shows_a_secret(tmp_path: Path, text: str) -> None:
    message = refusal(write(tmp_path, text))
    assert "expected" in message
    assert "hunter2" not in message


def test_variables_hold_lists_with_commas_or_as_json() -> None:
    environ = {
        "TURNOUT_RUNTIME__PROVIDERS": "cuda,cpu",
        "TURNOUT_MODEL__MAGIKA__RUNTIME__DEVICE_IDS": "0, 1",
        "TURNOUT_MODEL__MAGIKA__LOAD": '["stable", ">=3.1 <4"]',
        "TURNOUT_CONTROL": "[::1]:0",
    }
    settings = load_settings(environ=environ).settings
    assert settings.runtime.providers == ("cuda", "cpu")
    assert settings.for_model("magika").runtime.device_ids == (0, 1)
    assert str(settings.for_model("magika").load) == "stable, >=3.1 <4"
    assert settings.control == Address("::1", 0)


def test_the_case_of_a_models_name_does_not_matter_to_its_settings(tmp_path: Path) -> None:
    file = write(tmp_path, "[model.'ResNet-50.v2'.batching]\nmax_rows = 8\nmax_delay_ms = 2\n")
    environ = {"TURNOUT_MODEL__RESNET-50.V2__BATCHING__MAX_ROWS": "16", "TURNOUT_MODEL__BERT__LOAD": "latest:2"}
    settings = load_settings(file, environ=environ).settings
    for name in ("ResNet-50.v2", "resnet-50.v2"):
        batching = settings.for_model(name).batching
        assert (batching.max_rows, batching.max_delay_ms) == (16, 2)
    assert str(settings.for_model("BERT").load) == "latest:2"
    assert set(settings.model) == {"ResNet-50.v2", "bert"}


def test_one_model_has_one_table(tmp_path: Path) -> None:
    file = write(tmp_path, "[model.m]\nload = 'all'\n[model.M]\nload = 'all'\n")
    assert (
        refusal(file) == f"model in {file}: expected one table for a model, got 'M' and 'm', which differ in case only"
    )


def test_a_name_with_dots_that_lacks_its_quotes_is_told_to_have_them(tmp_path: Path) -> None:
    file = write(tmp_path, "[model.yolov8.1]\nload = 'all'\n")
    assert refusal(file).endswith('; a name with dots stands in quotes: [model."yolov8.1"]')
