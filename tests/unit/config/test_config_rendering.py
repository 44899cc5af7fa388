"""`serve --print-config`: TOML that says where values came from and reads back as the same settings."""

import json
from pathlib import Path

import pytest

from turnout.config import Settings, load_settings
from turnout.config.rendering import as_data, redacted, render_toml, without_passwords

FULL = """
models = "m \\"quoted\\""
state = "sqlite:///somewhere.db"
grpc = "[::1]:0"
[limits]
max_message_bytes = "1GiB"
[runtime]
providers = ["cuda", "cpu"]
[model.a]
load = "latest:2"
runtime = { device_ids = [0, 1] }
[model.b-c]
load = ["stable", ">=3.1 <4"]
[model.d]
batching.enabled = false
"""


def test_what_is_printed_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    file.write_text(FULL)
    loaded = load_settings(file, environ={})
    printed = tmp_path / "two.toml"
    printed.write_text(render_toml(loaded.settings, loaded.origins))
    assert load_settings(printed, environ={}).settings == loaded.settings


def test_each_value_that_is_no_default_says_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    file.write_text(FULL)
    environ = {"TURNOUT_HTTP": "127.0.0.1:1", "TURNOUT_MODEL__A__BATCHING__MAX_ROWS": "3"}
    loaded = load_settings(file, {"grpc": "127.0.0.1:2"}, environ)
    lines = render_toml(loaded.settings, loaded.origins).splitlines()
    assert 'grpc = "127.0.0.1:2"  # --grpc' in lines
    assert 'http = "127.0.0.1:1"  # TURNOUT_HTTP' in lines
    assert 'control = "127.0.0.1:8003"' in lines
    assert f"max_message_bytes = 1073741824  # {file}" in lines
    assert lines[lines.index("[model.a.batching]") + 1] == "max_rows = 3  # TURNOUT_MODEL__A__BATCHING__MAX_ROWS"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////srv/models/state.db", "sqlite:////srv/models/state.db"),
        ("postgresql://me@h:5432/db", "postgresql://me@h:5432/db"),
        ("postgresql+psycopg://me:p%40ss@h:5432/db", "postgresql+psycopg://me:***@h:5432/db"),
        ("postgresql://me:a@b:c@h/db", "postgresql://me:***@h/db"),
        ("https://me:p@hooks.example/x?room=1", "https://***@hooks.example/x?room=1"),
        ("https://a-token@hooks.example/", "https://***@hooks.example/"),
        ("http://hooks.example/?api_key=x&room=1", "http://hooks.example/?api_key=***&room=1"),
        ("postgresql://h/db?user=me&password=x&sslmode=on", "postgresql://h/db?user=me&password=***&sslmode=on"),
    ],
)
def test_passwords_are_not_printed(url: str, expected: str) -> None:
    assert redacted(url) == expected


SECRET = "hunter2-hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"state = 'postgresql://me:{SECRET}@h/db'",
        f"[rollout]\nwebhook_url = 'https://me:{SECRET}@hooks.example/rollouts'",
        f"[rollout]\nwebhook_url = 'https://hooks.example/rollouts?token={SECRET}'",
        f"[rollout]\nwebhook_secret = '{SECRET}'",
        f"[console]\ntoken = '{SECRET}'",
        f"[tracing.headers]\nauthorization = '{SECRET}'",
    ],
)
def test_no_secret_of_any_setting_is_printed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "one.toml"
    file.write_text(text)
    loaded = load_settings(file, environ={})
    assert SECRET not in render_toml(loaded.settings, loaded.origins)
    assert SECRET not in json.dumps(as_data(loaded.settings))


def test_the_path_of_a_webhook_is_a_secret() -> None:
    settings = Settings.model_validate({"rollout": {"webhook_url": "https://hooks.example.com/services/T0/B0/SECRET"}})
    for text in (render_toml(settings, {}), str(as_data(settings))):
        assert "SECRET" not in text
        assert "https://hooks.example.com/***" in text


@pytest.mark.parametrize("url", ["postgres//u:SECRET@x/db", "postgresql:/u:SECRET@x", "u:SECRET@x"])
def test_a_url_that_is_mistyped_shows_no_password(url) -> None:
    assert "SECRET" not in str(without_passwords(url))
