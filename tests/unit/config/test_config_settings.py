"""Addresses, what is loaded, and a model's settings over everybody's."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from turnout.config import (
    Address,
    BatchingSettings,
    LoadAll,
    LoadLatest,
    LoadSelectors,
    ModelOverrides,
    QueueLimits,
    Settings,
    load_settings,
)
from turnout.config.settings import MODEL_KEY
from turnout.registry.manifest.names import MODEL_NAME
from turnout.state.database.engine import Location


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8001", "127.0.0.1", 8001),
        ("localhost:0", "localhost", 0),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_an_address_reads_what_it_prints(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize(
    "text", ["", "8001", ":8001", "localhost", "localhost:", "::1:80", "h:65536", "h:-1", "http://h:1"]
)
def test_an_address_that_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("written", "load"),
    [
        ("all", LoadAll()),
        ("latest:3", LoadLatest(3)),
        (["stable", "^3"], LoadSelectors(("stable", "^3"))),
        ([], LoadSelectors(())),
    ],
)
def test_load_is_all_latest_or_a_list_of_selectors(written: object, load: object) -> None:
    assert ModelOverrides.model_validate({"load": written}).load == load


@pytest.mark.parametrize("written", ["", "latest", "latest:0", "latest:-1", "^3", 3, [""], [3], None])
def test_any_other_load_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        ModelOverrides.model_validate({"load": written})


def test_a_model_overrides_only_the_keys_it_names() -> None:
    settings = Settings.model_validate(
        {
            "batching": {"max_rows": 8, "max_delay_ms": 2.0},
            "limits": {"max_queue_requests": 7, "max_stream_items": 9},
            "model": {"m": {"batching": {"max_rows": 32}, "limits": {"max_queue_bytes": "1KiB"}}},
        }
    )
    own = settings.for_model("m")
    assert own.batching == BatchingSettings(max_rows=32, max_delay_ms=2.0)
    assert own.limits == QueueLimits(max_queue_requests=7, max_queue_bytes=1024)
    assert own.load == LoadAll()


def test_a_model_without_a_table_gets_what_everybody_gets() -> None:
    settings = Settings(batching=BatchingSettings(max_rows=8))
    assert settings.for_model("other").batching is not None
    assert settings.for_model("other").batching.max_rows == 8


def test_server_wide_limits_are_not_set_per_model() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"model": {"m": {"limits": {"max_message_bytes": 1}}}})


def test_settings_read_no_environment_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_GRPC", "127.0.0.1:1")
    assert Settings().grpc.port == 8001
    assert load_settings().settings.grpc.port == 1


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().drain.timeout_s = 1.0  # type: ignore[misc]  # what the test is about


def test_control_is_loopback_and_state_lies_in_the_repository_by_default(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path)
    assert settings.control.host == "127.0.0.1"
    assert settings.state_url == f"sqlite:///{tmp_path}/.turnout/state.db"
    assert Settings(state="postgresql://h/db").state_url == "postgresql://h/db"


@pytest.mark.parametrize("path", ["/srv/models", "/srv/my models", "/srv/über%41#1?"])
def test_the_default_state_url_is_the_one_that_the_store_reads_as_that_file(path: str) -> None:
    assert Location.parse(Settings(models=Path(path)).state_url).url.database == f"{path}/.turnout/state.db"


def test_a_model_table_takes_exactly_the_names_that_models_have() -> None:
    assert MODEL_NAME.pattern == MODEL_KEY


def test_no_pattern_of_a_setting_counts_what_stands_for_thousands_of_characters() -> None:
    r"""`\w{1,128}` takes 80 ms to compile, at each start of a server and of a command; `max_length` takes none."""
    patterns = re.findall(r'"pattern": ("[^"]*")', json.dumps(Settings.model_json_schema()))
    counted = re.compile(r"(\\[wdsWDS]|\[[^]]*\\[wdsWDS][^]]*\])\{")
    assert len(patterns) > 10
    assert not [pattern for pattern in map(json.loads, patterns) if counted.search(pattern)]
