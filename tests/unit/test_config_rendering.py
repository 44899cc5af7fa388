"""`serve --print-config`: TOML that says where values came from and reads back as the same settings."""

from pathlib import Path

import pytest

from turnout.config import load_settings
from turnout.config.rendering import redacted, render_toml

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
    ("url", "shown"),
    [
        ("sqlite:////srv/models/state.db", "sqlite:////srv/models/state.db"),
        ("postgresql://me@h:5432/db", "postgresql://me@h:5432/db"),
        ("postgresql+psycopg://me:p%40ss@h:5432/db", "postgresql+psycopg://me:***@h:5432/db"),
        ("postgresql://me:a@b:c@h/db", "postgresql://me:***@h/db"),
        ("postgresql://h/db?user=me&password=x&sslmode=on", "postgresql://h/db?user=me&password=***&sslmode=on"),
    ],
)
def test_passwords_are_not_printed(url: str, shown: str) -> None:
    assert redacted(url) == shown
