"""Where `turnout` and `python -m turnout` start."""

import sys

from turnout.cli.streams import writing_out
from turnout.host import lower_priority

_CAN_WAIT = {"publish"}
"""Commands that take a core for seconds. A server on the same machine goes first, from their first import on: importing
takes as long as publishing a small model does."""


def main() -> None:
    """Runs the command line of this process."""
    if set(sys.argv[1:2]) & _CAN_WAIT:
        lower_priority()
    with writing_out():
        from turnout.cli.main import application

        application()()


if __name__ == "__main__":
    main()
