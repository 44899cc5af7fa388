"""What a forked process runs: a program, as an interpreter of its own would.

Imported in the process that forks, which must have imported what programs need and started no thread.
"""

import os
import sys
from collections.abc import Mapping, Sequence

import turnout.app
import turnout.cli.main
import turnout.cli.serve  # noqa: F401 - so that no child has to


def run(code: str, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Runs `code` as the main module, with standard error in the file `log`."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY), (2, log, os.O_WRONLY)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["turnout", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
