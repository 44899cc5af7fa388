"""Triton's log and trace settings in this server's terms; and which traces a share keeps."""

from collections import Counter

import pytest

from turnout.errors import InvalidRequest, Unsupported
from turnout.oip.extensions import log_settings, trace_settings
from turnout.oip.extensions.log_settings import LogState
from turnout.oip.extensions.shared_memory import file_name
from turnout.oip.extensions.trace_settings import FOLLOWS, Sampling
from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation
from turnout.telemetry.tracing.tracer import Tracer

INFO = LogState("info", "json")
OPERATION = Operation.rpc("a.Service", "Method")
PARENT = SpanContext(b"t" * 16, b"p" * 8, 1, "")


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({}, "info"),
        ({"log_verbose_level": 1}, "debug"),
        ({"log_verbose_level": 0}, "info"),
        ({"log_info": False}, "warning"),
        ({"log_info": False, "log_warning": False}, "error"),
        ({"log_info": False, "log_warning": True, "log_error": True, "log_file": ""}, "warning"),
        ({"log_info": None}, "info"),
    ],
)
def test_kinds_of_lines_are_one_threshold(settings, level) -> None:
    assert log_settings.changed(INFO, settings, INFO) == LogState(level, "json")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_what_is_shown_sets_the_log_as_it_is(level) -> None:
    state = LogState(level, "console")
    assert log_settings.changed(INFO, log_settings.as_triton(state), INFO) == state


def test_none_and_default_are_what_is_configured() -> None:
    set_so, configured = LogState("error", "json"), LogState("warning", "console")
    back = {"log_warning": None, "log_info": None, "log_verbose_level": None, "log_format": None}
    assert log_settings.changed(set_so, back, configured) == configured
    assert log_settings.changed(set_so, {"log_format": "default"}, configured) == LogState("error", "console")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"log_level": "info"}, InvalidRequest),
        ({"log_info": 1}, InvalidRequest),
        ({"log_verbose_level": True}, InvalidRequest),
        ({"log_verbose_level": -1}, InvalidRequest),
        ({"log_format": "ISO8601"}, InvalidRequest),
        ({"log_format": 5}, InvalidRequest),
        ({"log_warning": False}, InvalidRequest),
        ({"log_info": False, "log_verbose_level": 2}, InvalidRequest),
        ({"log_error": False}, Unsupported),
        ({"log_file": "/tmp/x"}, Unsupported),
    ],
)
def test_a_log_setting_that_cannot_be_is_refused_by_name(settings, error) -> None:
    with pytest.raises(error, match=r"settings\.log_"):
        log_settings.changed(INFO, settings, INFO)


def test_a_rate_is_a_share_and_a_level_is_on_or_off() -> None:
    whole = trace_settings.configured(0.1)
    off = trace_settings.changed(whole, {"trace_level": ["OFF"], "trace_rate": ["4"]}, whole, whole=True)
    assert (off, off.share) == (Sampling(False, 0.25), None)
    assert trace_settings.as_triton(off)["trace_rate"] == ["4"]
    on = trace_settings.changed(off, {"trace_level": ["TIMESTAMPS"], "trace_rate": ["0"]}, whole, whole=True)
    assert (on.share, trace_settings.as_triton(on)["trace_rate"]) == (0.0, ["0"])
    assert trace_settings.changed(on, {"trace_level": [], "trace_rate": []}, whole, whole=True) == whole


def test_what_a_model_does_not_say_it_follows() -> None:
    whole = trace_settings.configured(0.5)
    own = trace_settings.changed(FOLLOWS, {"trace_rate": ["10"]}, whole, whole=False)
    assert own.within(Sampling(False, 0.5)) == Sampling(False, 0.1)
    assert trace_settings.changed(own, {"trace_rate": []}, whole, whole=False) == FOLLOWS


def test_what_is_shown_of_tracing_changes_nothing() -> None:
    whole = trace_settings.configured(0.5)
    assert trace_settings.changed(whole, trace_settings.as_triton(whole), whole, whole=True) == whole
    assert not trace_settings.configured(None).on


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"nothing": ["1"]}, InvalidRequest),
        ({"trace_level": ["TENSORS"]}, InvalidRequest),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, InvalidRequest),
        ({"trace_rate": ["-1"]}, InvalidRequest),
        ({"trace_rate": ["1.5"]}, InvalidRequest),
        ({"trace_rate": ["1", "2"]}, InvalidRequest),
        ({"trace_rate": ["9999999999"]}, InvalidRequest),
        ({"trace_rate": ["²"]}, InvalidRequest),
        ({"trace_count": ["5"]}, Unsupported),
        ({"trace_file": ["/tmp/x"]}, Unsupported),
        ({"trace_mode": ["triton"]}, Unsupported),
        ({"log_frequency": ["3"]}, Unsupported),
    ],
)
def test_a_trace_setting_that_cannot_be_is_refused_by_name(settings, error) -> None:
    with pytest.raises(error, match=r"settings\.\w+: "):
        trace_settings.changed(trace_settings.configured(0.5), settings, Sampling(True, 0.5), whole=True)


def kept(tracer: Tracer, parent: SpanContext | None, requests: int = 4000) -> Counter[str]:
    found: Counter[str] = Counter()
    for n in range(requests):
        model = "ab"[n % 2]
        trace = tracer.begin(OPERATION, parent)
        found[model] += trace is not None and trace.sampled and tracer.keeps(trace, model)
    return found


def test_each_model_has_its_own_share() -> None:
    tracer = Tracer(0.0, lambda _: None, lambda _: None)
    tracer.sample(0.1, {"b": 0.5})
    found = kept(tracer, None)
    assert 120 <= found["a"] <= 280  # of 2,000, six standard deviations
    assert 866 <= found["b"] <= 1134
    tracer.sample(1.0, {"b": None})
    assert kept(tracer, None, 100) == {"a": 50, "b": 0}
    tracer.sample(None, {"a": 0.0})
    assert kept(tracer, None, 100) == {"a": 0, "b": 0}


def test_a_caller_that_asks_for_a_trace_gets_it_unless_it_is_off() -> None:
    tracer = Tracer(0.0, lambda _: None, lambda _: None)
    assert kept(tracer, PARENT, 10) == {"a": 5, "b": 5}
    tracer.sample(0.0, {"b": None})
    assert kept(tracer, PARENT, 10) == {"a": 5, "b": 0}
    tracer.sample(None, {})
    assert kept(tracer, PARENT, 10) == {"a": 0, "b": 0}


def test_a_key_is_a_name_and_never_a_path() -> None:
    assert (file_name("/a"), file_name("b.c"), file_name("psm_1")) == ("a", "b.c", "psm_1")
    for key in ("", "/", "//a", "/a/b", "..", "/..", ".", "a\0", "\ud800", "x" * 256, "sem.a", "/sem.a", "a\n"):
        with pytest.raises(InvalidRequest, match="key: expected"):
            file_name(key)
