"""`turnout load` and `turnout unload`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from turnout.cli.options import ServerTarget, TimeoutOption, VersionArgument
from turnout.cli.output import CommandOutput, reporting

if TYPE_CHECKING:
    from turnout_client import VersionInfo


def load(
    version: VersionArgument,
    timeout: TimeoutOption = 300.0,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Load a version into a running server, and wait until it is ready."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        _print(out, name, Server.named(target).load(name, str(exact), timeout))


def unload(
    version: VersionArgument,
    timeout: TimeoutOption = 300.0,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Take a version out of a running server, once the requests under way are answered."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        _print(out, name, Server.named(target).unload(name, str(exact), timeout))


def _print(out: CommandOutput, name: str, version: "VersionInfo") -> None:
    providers = f" on {', '.join(version.providers)}" if version.providers else ""
    took = f" in {version.load_seconds:.2f} s" if version.load_seconds else ""
    reason = f": {version.reason}" if version.reason else ""
    out.show(
        {"model": name, **asdict(version)}, f"{name} {version.version} is {version.state}{providers}{took}{reason}"
    )
