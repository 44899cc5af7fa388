"""`turnout tune`."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from turnout.cli.cleanup import unwinding
from turnout.cli.options import DiskTarget, argument, option
from turnout.cli.output import CommandOutput, reporting
from turnout.errors import ConfigError, ModelCrashed, ModelTimedOut, TurnoutError

if TYPE_CHECKING:
    from turnout.serving.tuning.comparison import Findings

_STEP_SECONDS = 300.0
"""Longest time in seconds for one load, or one request."""


def tune(
    version: Annotated[str, argument("NAME@SELECTOR", "The version, for example magika@3.3.0.")],
    seconds: Annotated[float, option("--seconds", "S", "How long to try settings.", min=1, max=3600)] = 30.0,
    in_flight: Annotated[
        int, option("--in-flight", "N", "Concurrent requests for measuring throughput.", min=1, max=1024)
    ] = 16,
    inputs: Annotated[
        Path | None,
        option("--inputs", "PATH", "Captured inputs: an .npz file like a golden case, or a directory of them."),
    ] = None,
    write: Annotated[
        Literal["throughput", "latency"] | None,
        option("--write", "END", "Write the best settings for `throughput` or `latency` to the configuration file."),
    ] = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Find the best threads, runners, batch sizes and delays for a version, by trying them.

    The version runs on this machine, in a separate process, on its golden cases, on --inputs, or on synthetic inputs.
    Each setting is run in turn with the current ones. Nothing is changed without --write.
    """
    from turnout.cli.tune.editing import model_toml, write_model
    from turnout.cli.tune.view import findings_view
    from turnout.cli.workspace import split_reference
    from turnout.config.sources import load_settings
    from turnout.serving.tensorrt.fallback import allowance
    from turnout.serving.tuning.candidates import Tuned
    from turnout.serving.tuning.comparison import ENDS

    with reporting(as_json=target.as_json) as out, unwinding():
        name, selector = split_reference(version)
        named = {"models": target.models, "state": target.state}
        configured = load_settings(target.config, named)
        file, runtime = configured.file, configured.settings.for_model(name).runtime
        if write is not None and file is None:
            raise ConfigError("there is no configuration file to write to: name one with --config")
        job = {
            **named, "config": None if target.config is None else str(target.config), "model": name,
            "version": selector or "", "inputs": None if inputs is None else str(inputs), "in_flight": in_flight,
            "seconds": seconds,
        }  # fmt: skip
        most = _STEP_SECONDS + allowance(runtime.providers, runtime.tensorrt_build_timeout_s)
        findings, source = _tried(out, job, most)
        present = findings.present.tuned
        changes = {end: findings.choice(end).tuned.changes(present) for end in ENDS}
        written = write is not None and bool(changes[write])
        if write is not None and written:
            assert file is not None, "checked above"
            write_model(file, name, changes[write])
        tomls = {end: model_toml(name, change) if change else "" for end, change in changes.items()}
        body = findings.to_json() | {
            "model": name, "inputs": source, "in_flight": in_flight, "toml": tomls,
            "written": str(file) if written else None,
        }  # fmt: skip
        out.show(body, *findings_view(findings, source, in_flight, tomls, None if write else str(file or "")))
        if write is not None:
            _tell_written(out, name, write, file, changes[write] if written else {})
            settings = load_settings(target.config, named).settings.for_model(name)
            if written and Tuned.of(settings) != findings.choice(write).tuned:
                out.note("warning: environment variables (TURNOUT_...) override some of these settings in the file")


def _tell_written(
    out: CommandOutput, name: str, end: str, file: Path | None, changes: dict[str, dict[str, Any]]
) -> None:
    if not changes:
        out.note(f"{file} is unchanged: the present settings are the best for {end}")
        return
    keys = ", ".join(f"{table}.{key} = {value}" for table, keys in changes.items() for key, value in keys.items())
    out.note(f"wrote to {file} for {name}: {keys}; a running server applies it after SIGHUP, at the next load")


def _tried(out: CommandOutput, job: dict[str, Any], most: float) -> "tuple[Findings, str]":
    """Tries settings in a child process, and prints its progress. Kills it after `most` seconds without progress."""
    import subprocess
    import sys
    import threading

    from pydantic import TypeAdapter

    from turnout import errors
    from turnout.serving.tuning.comparison import Findings

    reading, writing = os.pipe()
    with os.fdopen(reading) as answers:
        try:
            child = subprocess.Popen(  # noqa: S603 - the command contains no untrusted input
                [sys.executable, "-m", "turnout.cli.tune.child", str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writing,),
                process_group=0,  # so that Ctrl-C reaches only this process, which then ends the child
                text=True,
            )
        finally:
            os.close(writing)
        late = threading.Event()

        def end_late() -> None:
            late.set()
            _end(child.pid)

        timer = threading.Timer(most, end_late)
        timer.start()
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # the child died at once, which is reported below
                child.stdin.write(json.dumps(job))
                child.stdin.close()
            for line in answers:
                timer.cancel()
                timer = threading.Timer(most, end_late)
                timer.start()
                reported = json.loads(line)
                if not reported:
                    continue
                if "say" in reported:
                    out.note(reported["say"])
                elif "error" in reported:
                    kind: type[TurnoutError] = getattr(errors, reported["kind"], TurnoutError)
                    raise kind(reported["error"])
                else:
                    return TypeAdapter(Findings).validate_python(reported["found"]), reported["source"]
        finally:
            timer.cancel()
            timer.join()
            _end(child.pid)
            child.wait()
        if late.is_set():
            raise ModelTimedOut(f"a load or a request took longer than {most:g} s, and was killed")
        raise ModelCrashed(f"the process that ran the version died (exit code {child.returncode})")


def _end(group: int) -> None:
    """Kills a process group: the child and its own children, which try inputs or run the version."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
