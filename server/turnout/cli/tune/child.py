"""The child process of `turnout tune`. It loads the version many times, and may be killed at any time.

It reads a job as JSON from standard input, and writes lines of JSON to the descriptor in its argument. An empty object
says that it still makes progress.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from turnout.cli.options import DiskTarget
from turnout.cli.workspace import ModelVersions, Workspace
from turnout.errors import TurnoutError
from turnout.routing.selection.selector import parse
from turnout.serving.sandbox.fork_server import start_processes
from turnout.serving.sessions import providers
from turnout.serving.tuning.comparison import Findings
from turnout.serving.tuning.trial import TuningSubject, TuningTrial
from turnout.telemetry.logging import make_logger

_SILENT_SECONDS = 1.0
"""Longest time without a line while requests are answered."""


def main() -> None:
    """Runs the job."""
    job = json.load(sys.stdin)
    told = time.monotonic()
    with os.fdopen(int(sys.argv[1]), "w") as answers:

        def tell(**line: Any) -> None:
            answers.write(json.dumps(line) + "\n")
            answers.flush()
            nonlocal told
            told = time.monotonic()

        def alive() -> None:
            if time.monotonic() - told > _SILENT_SECONDS:
                tell()

        try:
            findings, source = asyncio.run(_tune(job, tell, alive))
        except TurnoutError as error:
            tell(error=error.message, kind=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - standard error is closed; the parent reports the error
            tell(error=f"it cannot be tried ({type(error).__name__}: {error})", kind="ModelFailure")
        else:
            tell(found=json.loads(TypeAdapter(Findings).dump_json(findings)), source=source)


async def _tune(job: dict[str, Any], tell: Any, alive: Callable[[], None]) -> tuple[Findings, str]:
    providers.start_runtime()
    config, inputs = (Path(job[key]) if job[key] else None for key in ("config", "inputs"))
    workspace = Workspace.open(DiskTarget(models=job["models"], state=job["state"], config=config))
    name, selector = job["model"], parse(job["version"])
    published = ModelVersions.of(name, workspace.scan(), workspace.release_state()).resolve(selector)
    workspace.repository.fetch(name, published.manifest.version)
    settings = workspace.settings.for_model(name)
    subject = TuningSubject(workspace.repository, published, settings, inputs, job["in_flight"], job["seconds"])
    processes = start_processes()
    try:
        log = make_logger("json", "error")
        return await TuningTrial(subject, processes, log, lambda what: tell(say=what), alive).run()
    finally:
        processes.close()


if __name__ == "__main__":
    main()
