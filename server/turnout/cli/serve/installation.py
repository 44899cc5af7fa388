"""Explains installed Python packages that do not fit together.

It happens to people who install Turnout beside other software: `tritonclient[grpc]` replaces protobuf by a release that
the newest packages of gRPC refuse to run with.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explaining_unfit_packages() -> Iterator[None]:
    """Runs a command in the block. If packages do not fit together, prints an error and exits with 1."""
    try:
        yield
    except Exception as error:
        if (text := unfit_text(error)) is None:
            raise
        from turnout.cli.output import CommandOutput
        from turnout.errors import ConfigError

        CommandOutput(as_json="--json" in sys.argv).error(ConfigError(text))
        sys.exit(1)


def unfit_text(error: Exception) -> str | None:
    """Returns what is wrong with the packages and how to mend it; None if the error has another cause."""
    from_import = isinstance(error, ImportError) and not (error.name or "").startswith("turnout")
    if not from_import and type(error).__module__ != "google.protobuf.runtime_version":
        return None
    return (
        f"installed Python packages do not fit together: {str(error).partition('. ')[0]}; `pip check` lists them. "
        "Install Turnout and what needs the other release with one command, so that pip finds releases that fit both, "
        "such as pip install turnout 'tritonclient[grpc]'"
    )
