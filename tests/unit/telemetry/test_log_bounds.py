"""A log line is bounded whatever clients send, and a line that cannot be written harms nobody."""

import io
import json
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from turnout.telemetry import log_writer
from turnout.telemetry.library_logs import LibraryLogs
from turnout.telemetry.log_writer import MAX_LINE_BYTES, MAX_WAITING_BYTES, LineWriter, dropped_lines
from turnout.telemetry.logging import make_logger
from unwritable import unwritable

HUGE = {
    "text": "x" * 2_000_000,
    "escaped": '"\\\n\x00' * 500_000,
    "not ascii": "é" * 2_000_000,
    "beyond the BMP": "\U0001f600" * 500_000,
    "lone surrogates": "\ud800" * 1_000_000,
    "bytes": b"\xff" * 2_000_000,
    "number": 10**4000,
    "many": ["x" * 1000] * 10_000,
    "deep": json.loads("[" * 500 + "]" * 500),
    "fields": {f"k{n}" * 100: "v" * 1000 for n in range(10_000)},
}


@contextmanager
def logging_to_memory(monkeypatch, form="json"):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = make_logger(form, "debug")
    yield log, stream


def lines_of(log, stream):
    assert log._logger._writer.flush(100)
    return stream.getvalue().splitlines()


CONTROLS = [chr(n) for n in (*range(32), *range(0x7F, 0xA0))] + ["\u2028", "\u202e", "\u2066", "\ufeff", "\ud800"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_text_controls_the_terminal_that_shows_the_log(monkeypatch, form) -> None:
    with logging_to_memory(monkeypatch, form) as (log, stream):
        for control in CONTROLS:
            text = f"a{control}b"
            log.warning("refused", model=text, inside=[text, {"deep": text}], spaced=f"a b {text}")
            log.warning(f"event {text}")
            try:
                raise ValueError(text)
            except ValueError:
                log.exception("it failed")
        lines_of(log, stream)
        lines = stream.getvalue().split("\n")

    assert not [line for line in lines if not line.isprintable()]
    assert sum("refused" in line for line in lines) == len(CONTROLS)
    shown = next(line for line in lines if "\\x1b" in line or "\\u001b" in line)
    assert "refused" in shown, "what it was can be told"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("kind", HUGE)
def test_a_line_is_bounded_whatever_a_field_holds(monkeypatch, form, kind) -> None:
    with logging_to_memory(monkeypatch, form) as (log, stream):
        log.warning("request", field=HUGE[kind], code="INVALID_ARGUMENT")
        log.warning("after")
        *lines, last = lines_of(log, stream)

    assert sum(len(line.encode(errors="backslashreplace")) + 1 for line in lines) <= MAX_LINE_BYTES + 1
    if form == "json":
        (line,) = lines
        assert json.loads(line)["code"] == "INVALID_ARGUMENT"
    assert "after" in last


def test_a_line_of_many_long_fields_is_bounded_and_still_json(monkeypatch) -> None:
    with logging_to_memory(monkeypatch) as (log, stream):
        log.warning("request", **{f"\U0001f600{n}" * 100: "\U0001f600" * 5000 for n in range(100)})
        (line,) = lines_of(log, stream)
    assert len(line) <= MAX_LINE_BYTES
    assert json.loads(line)["level"] == "warning"


def test_a_cut_field_says_how_long_it_was(monkeypatch) -> None:
    with logging_to_memory(monkeypatch) as (log, stream):
        log.warning("request", model="m" * 5000)
        (line,) = lines_of(log, stream)
    assert json.loads(line)["model"].endswith("... (5000 characters)")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_is_bounded_and_shows_no_local_variables(monkeypatch, form) -> None:
    def fail(depth: int, secret: str) -> None:
        if depth:
            fail(depth - 1, secret)
        raise ValueError("x" * 1_000_000)

    with logging_to_memory(monkeypatch, form) as (log, stream):
        try:
            fail(200, "payload of a client")
        except ValueError as error:
            log.error("unexpected error", exc_info=error)
        lines = lines_of(log, stream)
    assert len("\n".join(lines)) <= MAX_LINE_BYTES
    assert "payload of a client" not in "\n".join(lines)


def test_lines_of_libraries_are_bounded_too(monkeypatch) -> None:
    with logging_to_memory(monkeypatch) as (log, stream):
        with LibraryLogs(log) as handler:
            logging.getLogger("grpc._cython.cygrpc").error("Unexpected [%s]", "x" * 1_000_000)
            handler.emit(logging.LogRecord("uvicorn.error", logging.WARNING, "", 1, "%d", ("no number",), None))
        lines = lines_of(log, stream)
    assert [json.loads(line)["logger"] for line in lines] == ["grpc._cython.cygrpc", "uvicorn.error"]
    assert all(len(line) < MAX_LINE_BYTES for line in lines)


@pytest.mark.parametrize("kind", ["full disk", "reader gone"])
def test_a_line_that_cannot_be_written_is_counted_and_raises_nothing(kind) -> None:
    before = dropped_lines()
    with unwritable(kind) as stream:
        writer = LineWriter(stream)
        for _ in range(100):
            writer.write("line")
        assert writer.flush(100)
    assert dropped_lines() - before == 100


def test_after_some_writes_lines_wait_for_others_unless_somebody_waits_for_them(monkeypatch) -> None:
    """Each time that the thread runs, whoever logs has to wait for the interpreter."""
    monkeypatch.setattr(log_writer, "_GATHER_SECONDS", 3600.0)
    monkeypatch.setattr(log_writer, "_IDLE_SECONDS", 60.0)  # a thread that ended meanwhile would write promptly again
    monkeypatch.setattr(log_writer, "_PROMPT_WRITES", 1)
    monkeypatch.setattr(log_writer, "_WRITE_BYTES", 2000)
    read, write = os.pipe2(os.O_DIRECT)  # what one write wrote is what one read reads
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w") as stream:
        writer = LineWriter(stream)
        for line in ("the first", "the second"):
            writer.write(line)
            assert reader.read(4096) == f"{line}\n".encode(), "it waits for no other"
        for line in ("one", "two", "three"):
            writer.write(line)
        assert writer.flush(100)
        assert reader.read(4096) == b"one\ntwo\nthree\n"
        for _ in range(4):
            writer.write("x" * 499)
        assert reader.read(4096) == (b"x" * 499 + b"\n") * 4, "so many bytes wait for no more"


def test_a_reader_who_stopped_stops_nobody_and_gets_the_first_lines_once_he_reads() -> None:
    before = dropped_lines()
    read, write = os.pipe()
    writer = LineWriter(os.fdopen(write, "w"))
    line = "x" * 1000
    start = time.monotonic()
    for _ in range(2 * MAX_WAITING_BYTES // 1000):
        writer.write(line)
    assert time.monotonic() - start < 60
    dropped = dropped_lines() - before
    assert MAX_WAITING_BYTES // 1100 < dropped < 2 * MAX_WAITING_BYTES // 1000

    received = 0

    def drain() -> None:
        nonlocal received
        while data := os.read(read, 1 << 20):
            received += data.count(b"\n")

    reader = threading.Thread(target=drain)
    reader.start()
    assert writer.flush(100)
    writer._stream.close()
    reader.join(100)
    os.close(read)
    assert received == 2 * MAX_WAITING_BYTES // 1000 - dropped


def test_without_standard_error_every_line_is_dropped(monkeypatch) -> None:
    before = dropped_lines()
    monkeypatch.setattr(sys, "stderr", None)
    make_logger("auto", "info").info("hello")
    assert dropped_lines() == before + 1
