"""What `[probe.NAME]` and `confirm_url` take, and that what proves who asks never shows."""

import json

import pytest

from turnout.config import Settings, load_settings
from turnout.config.rendering import render_toml
from turnout.errors import ConfigError

PROMETHEUS = 'url = "http://prometheus:9090"\n'


def load(tmp_path, text: str = "", **environ: str) -> Settings:
    file = tmp_path / "turnout.toml"
    file.write_text(text)
    return load_settings(file, environ=environ).settings


def complaint(tmp_path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text, **environ)
    return str(raised.value)


def test_a_probe_is_read_and_printed_as_it_was_written(tmp_path) -> None:
    text = """
    [probe.error-rate]
    url = "https://prometheus.example/prefix"
    query = 'sum(rate(x{version=~"{candidate}|{baseline}",m={model}}[5m])) # a{2} and \\p{Greek}'
    fail_above = 0.05
    failure_limit = 0
    headers = { x-scope = "a" }
    [probe.qa]
    url = "http://qa/check?m={model}&v={candidate}"
    method = "POST"
    json_path = '$.results[0]["is fine"]'
    """
    settings = load(tmp_path, text)
    probe = settings.probe["error-rate"]
    assert (probe.is_query, probe.fail_above, probe.fail_below, probe.failure_limit) == (True, 0.05, None, 0)
    assert not settings.probe["qa"].is_query
    printed = tmp_path / "printed.toml"
    printed.write_text(render_toml(settings, {}).replace("**********", "a"))
    assert load_settings(printed, environ={}).settings.probe == settings.probe


def test_secrets_come_from_the_environment_and_show_nowhere(tmp_path) -> None:
    settings = load(
        tmp_path,
        "[probe.qa]\nurl = 'http://qa/?api_key=in-the-url'",
        TURNOUT_PROBE__QA__BEARER_TOKEN="a-token",
        TURNOUT_PROBE__QA__HEADERS=json.dumps({"x-key": "a-key"}),
        TURNOUT_ROLLOUT__CONFIRM_URL="https://hooks.example/T0/a-secret-path",
    )
    probe = settings.probe["qa"]
    assert probe.bearer_token.get_secret_value() == "a-token"
    assert probe.headers["x-key"].get_secret_value() == "a-key"
    shown = render_toml(settings, {}) + repr(settings)
    for secret in ("a-token", "a-key"):
        assert secret not in shown
    for secret in ("in-the-url", "a-secret-path"):
        assert secret not in render_toml(settings, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROMETHEUS + "query = 'x'", "expected fail_above or fail_below too, since query makes a number"),
        (PROMETHEUS + "query = 'x{v={canditate}}'\nfail_above = 1", "no {canditate}; did you mean {candidate}?"),
        ("url = 'http://qa/{Model}'", "did you mean {model}?"),
        ("url = 'http://{model}.example/'", "expected a URL whose host has no placeholder"),
        ("url = 'http://user:pass-word@qa/'", "expected a URL without a password"),
        ("url = 'file:///etc/passwd'", "expected an HTTP URL"),
        ("url = 'http:///x'", "expected an HTTP URL"),
        ("url = 'http://qa:99999/'", "expected an HTTP URL"),
        ("url = 'http://qa/ x'", "expected an HTTP URL"),
        ("url = 'http://qa/#x'", "expected an HTTP URL"),
        ("method = 'GET'", "probe.qa.url"),
        ("url = 'http://qa/'\nmethod = 'PUT'", "'GET' or 'POST'"),
        ("url = 'http://qa/'\njson_path = 'data.x'", "expected the path of a value in JSON"),
        ("url = 'http://qa/'\njson_path = '$..x'", "expected the path of a value in JSON"),
        ("url = 'http://qa/'\nfail_above = true", "expected a number"),
        ("url = 'http://qa/'\nfail_above = nan", "expected a finite number"),
        ("url = 'http://qa/'\nfail_above = 1\nfail_below = 2", "expected fail_below to be at most fail_above"),
        ("url = 'http://qa/'\ninterval_s = 0", "0.1 or more"),
        ("url = 'http://qa/'\ntimeout_s = 61", "60 or less"),
        ("url = 'http://qa/'\nfailure_limit = -1", "0 or more"),
        ("url = 'http://qa/'\ncount = 0", "1 or more"),
        ("url = 'http://qa/'\nbearer_token = 'a'\nbearer_token_file = 'b'", "bearer_token_file, not both"),
        ("url = 'http://qa/'\nbearer_token = 'a'\nheaders = { authorization = 'b' }", "headers without authorization"),
        ("url = 'http://qa/'\nheaders = { host = 'b' }", "expected the name of a header"),
        ("url = 'http://qa/'\nfail_abvoe = 1", "nearest: probe.qa.fail_above"),
        (PROMETHEUS + "query = 'x'\nfail_above = 1\njson_path = '$.a'", "expected neither method nor json_path"),
        ("url = 'http://p/?token=pass-word'\nquery = 'x'\nfail_above = 1", "without a query or placeholders"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_probe_is_said(tmp_path, text, expected) -> None:
    message = complaint(tmp_path, f"[probe.qa]\n{text}")
    assert expected in message
    assert "pass-word" not in message


@pytest.mark.parametrize("name", ["Errors", "1st", "a b", "x" * 64, ""])
def test_a_probes_name_is_one_that_a_label_and_a_variable_can_have(tmp_path, name) -> None:
    assert "expected the name of a probe" in complaint(tmp_path, f"[probe.{json.dumps(name)}]\nurl = 'http://qa/'")


def test_a_secret_of_the_wrong_type_is_not_shown_and_a_number_is(tmp_path) -> None:
    message = complaint(tmp_path, "[probe.qa]\nurl = 'http://qa/'\nbearer_token = 7654\ninterval_s = 'soon'")
    assert "7654" not in message
    assert "got 'soon'" in message


def test_an_unknown_variable_of_a_probe_is_told_with_the_nearest(tmp_path) -> None:
    message = complaint(tmp_path, "[probe.qa]\nurl = 'http://qa/'", TURNOUT_PROBE__QA__TIMEUOT_S="1")
    assert "TURNOUT_PROBE__QA__TIMEOUT_S" in message


@pytest.mark.parametrize("url", ["qa", "ftp://qa/", "http://a:b@qa/", "http://qa/#x"])
def test_a_confirm_url_is_one_of_http(tmp_path, url) -> None:
    assert "expected" in complaint(tmp_path, f"[rollout]\nconfirm_url = {json.dumps(url)}")
