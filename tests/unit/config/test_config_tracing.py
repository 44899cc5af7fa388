"""What `[tracing]` takes, and that what proves who the server is never shows."""

import json

import pytest

from turnout.config import Settings, Tracing, load_settings
from turnout.config.rendering import render_toml
from turnout.errors import ConfigError


def load(tmp_path, text: str = "", **environ: str) -> Settings:
    file = tmp_path / "turnout.toml"
    file.write_text(text)
    return load_settings(file, environ=environ).settings


def complaint(tmp_path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text, **environ)
    return str(raised.value)


def test_tracing_is_off_unless_an_endpoint_is_named(tmp_path) -> None:
    assert load(tmp_path).tracing == Tracing(endpoint="", protocol="http/protobuf", sample_ratio=0.1)


def test_all_of_it_is_read_from_a_file_and_from_the_environment(tmp_path) -> None:
    text = """
    [tracing]
    endpoint = "https://collector.example:4317"
    protocol = "grpc"
    headers = { authorization = "Bearer abc", x-scope = "a" }
    sample_ratio = 0.5
    """
    in_file = load(tmp_path, text).tracing
    headers = json.dumps({"authorization": "Bearer abc", "x-scope": "a"})
    in_environment = load(
        tmp_path,
        TURNOUT_TRACING__ENDPOINT="https://collector.example:4317",
        TURNOUT_TRACING__PROTOCOL="grpc",
        TURNOUT_TRACING__HEADERS=headers,
        TURNOUT_TRACING__SAMPLE_RATIO="0.5",
    ).tracing
    assert in_file == in_environment
    assert in_file.headers["authorization"].get_secret_value() == "Bearer abc"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("endpoint", "collector:4318", "expected an OTLP endpoint, such as http://collector:4318"),
        ("endpoint", "ftp://collector", "expected an OTLP endpoint"),
        ("endpoint", "http://", "expected an OTLP endpoint"),
        ("endpoint", "http://c:99999", "expected an OTLP endpoint"),
        ("endpoint", "http://c:4318?x=y", "expected an OTLP endpoint"),
        ("protocol", "http/json", "expected 'http/protobuf' or 'grpc'"),
        ("sample_ratio", 1.5, "expected 1 or less"),
        ("sample_ratio", True, "expected a number"),
        ("service_name", "", "tracing.service_name"),
        ("interval_s", 0, "expected 0.05 or more"),
        ("max_queue_spans", 0, "tracing.max_queue_spans"),
        ("max_batch_spans", 100_000, "expected 65536 or less"),
        ("endpiont", "http://c", "unknown key 'tracing.endpiont'; nearest: tracing.endpoint"),
    ],
)
def test_what_it_does_not_take_is_refused_with_what_was_expected(tmp_path, key, value, expected) -> None:
    error = complaint(tmp_path, f"[tracing]\n{key} = {json.dumps(value)}")
    assert expected in error
    assert f"tracing.{key}" in error


def test_a_path_means_nothing_to_grpc(tmp_path) -> None:
    error = complaint(tmp_path, '[tracing]\nendpoint = "http://c:4317/v1/traces"\nprotocol = "grpc"')
    assert "without a path" in error


@pytest.mark.parametrize("name", ["Authorization", "a b", "", "grpc-timeout", "content-type", "host", "te", "key-bin"])
def test_headers_that_the_protocol_has_for_itself_are_refused(tmp_path, name) -> None:
    assert "name of a header" in complaint(tmp_path, f"[tracing.headers]\n{json.dumps(name)} = 'hush'")


@pytest.mark.parametrize("value", ['"hush\\n"', '"hush grün"', '["hush"]', '""'])
def test_a_header_that_is_refused_is_not_shown(tmp_path, value) -> None:
    error = complaint(tmp_path, f"[tracing.headers]\nauthorization = {value}")
    assert "tracing.headers.authorization" in error
    assert "hush" not in error


def test_a_password_in_the_endpoint_is_refused_and_not_shown(tmp_path) -> None:
    error = complaint(tmp_path, '[tracing]\nendpoint = "http://me:hush@c:4318"')
    assert "without a password" in error
    assert "hush" not in error


def test_headers_are_not_printed(tmp_path) -> None:
    settings = load(tmp_path, '[tracing]\nendpoint = "http://c:4318"\nheaders = { authorization = "Bearer hush" }')
    printed = render_toml(settings, {})
    assert "hush" not in printed
    assert "hush" not in repr(settings)
    assert 'endpoint = "http://c:4318"' in printed
    assert "[tracing.headers]" in printed
