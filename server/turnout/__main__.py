"""Entry point of `turnout` and `python -m turnout`."""

import os
import sys

from turnout.cli.serve.installation import explaining_unfit_packages
from turnout.cli.streams import writing_out
from turnout.host.cpu import lower_priority
from turnout.host.garbage import collect_seldom
from turnout.host.signals import hold_hangups

_CAN_WAIT = {"publish"}
"""Commands that use a core for seconds. They run at a low priority, so that a server on the same machine goes first.
The priority is lowered before the first import, since importing takes as long as publishing a small model."""


_GRPC_LOG = "GRPC_VERBOSITY"
"""Environment variable that controls what the gRPC core writes to standard error, such as a line for each failed
handshake. These lines would disturb a command's one-line error message, or a server's JSON log."""


def main() -> None:
    """Runs the command line of this process."""
    collect_seldom()
    serves = "serve" in sys.argv[1:2]
    os.environ.setdefault(_GRPC_LOG, "ERROR" if serves else "NONE")
    if serves:
        hold_hangups()
    if set(sys.argv[1:2]) & _CAN_WAIT:
        lower_priority()
    with writing_out(), explaining_unfit_packages():
        from turnout.cli.main import application

        application()()


if __name__ == "__main__":
    main()
