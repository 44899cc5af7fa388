"""Runs a program in a forked process, as an interpreter would.

Imported in the process that forks. It has imported and initialized what every server needs, and has no threads.
"""

import gc
import os
import sys
from collections.abc import Mapping, Sequence

# The imports of a server and of commands, those in functions too, so that no child has to do them: a second of CPU.
import anyio._backends._asyncio  # noqa: F401
import s3fs  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401
import uvloop  # noqa: F401

import botocore_models
import shared_machine
import turnout.__main__
import turnout.app.process
import turnout.app.server
import turnout.cli.main
import turnout.cli.rollout.commands
import turnout.cli.rollout.forecast
import turnout.cli.rollout.live
import turnout.cli.serve.command
import turnout.cli.traffic.commands
import turnout.cli.traffic.traffic_view
import turnout.cli.workspace
import turnout.serving.sessions.cuda_driver  # noqa: F401
from turnout.serving.sessions import providers

shared_machine.be_patient()
botocore_models.read_ahead()
providers.prepare_for_forks()
gc.collect()
gc.freeze()
_FORKED_FROM = os.getpid()


def run(code: str, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Runs `code` as the main module, with standard error in the file `log`."""
    assert os.getppid() == _FORKED_FROM, "imported here, by the child, which then takes a second more"
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY), (2, log, os.O_WRONLY)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["turnout", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
