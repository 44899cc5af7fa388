"""Where `turnout` and `python -m turnout` start."""

import os
import sys

from turnout.cli.streams import writing_out
from turnout.host import lower_priority

_CAN_WAIT = {"publish"}
"""Commands that take a core for seconds. A server on the same machine goes first, from their first import on: importing
takes as long as publishing a small model does."""


_GRPC_LOG = "GRPC_VERBOSITY"
"""What gRPC's core writes to standard error by itself: of each handshake that fails, among other things. A command says
in one line what went wrong, and a server's log is lines of JSON."""


def main() -> None:
    """Runs the command line of this process."""
    os.environ.setdefault(_GRPC_LOG, "ERROR" if "serve" in sys.argv[1:2] else "NONE")
    if set(sys.argv[1:2]) & _CAN_WAIT:
        lower_priority()
    with writing_out():
        from turnout.cli.main import application

        completing = "_TURNOUT_COMPLETE" in os.environ  # what is completed is not a whole command yet
        application("" if completing else "".join(sys.argv[1:2]))()


if __name__ == "__main__":
    main()
