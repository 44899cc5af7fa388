"""`turnout load` and `turnout unload`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from turnout.cli.options import ServerTarget, TimeoutOption, VersionArgument
from turnout.cli.output import CommandOutput, reporting
from turnout.text.quantities import seconds_text

if TYPE_CHECKING:
    from turnout.cli.connection import Server
    from turnout_client import VersionInfo

_LOOK_SECONDS = 1.0
"""Seconds between two checks of a load in progress."""

_SHOWN_SECONDS = 10.0
"""Seconds between two progress lines."""

_CALL_SECONDS = 10.0


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
        server = Server.named(target)
        _print(out, name, _loaded(out, server, name, str(exact), timeout))


def unload(
    version: VersionArgument,
    timeout: TimeoutOption = 300.0,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Unload a version from a running server, once requests in progress are answered."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        _print(out, name, Server.named(target).unload(name, str(exact), timeout))


def _loaded(out: CommandOutput, server: "Server", name: str, version: str, timeout: float) -> "VersionInfo":
    """Loads a version, and shows its progress if that takes long. Raises ServerRefused like `Server.load`."""
    import time
    from concurrent.futures import wait
    from contextlib import suppress

    from turnout.cli.output import ServerRefused
    from turnout.threads import Threads

    threads, shown_at = Threads("load"), 0.0
    loading = threads.submit(server.load, name, version, timeout)
    threads.shutdown(cancel_futures=False)
    while not wait([loading], _LOOK_SECONDS).done:
        if shown_at and time.monotonic() - shown_at < _SHOWN_SECONDS:
            continue
        with suppress(ServerRefused), server.client(_CALL_SECONDS) as client:
            if reason := client.get_version(name, version).reason:
                out.note(f"{name} {version}: {reason}")
                shown_at = time.monotonic()
    return loading.result()


def _print(out: CommandOutput, name: str, version: "VersionInfo") -> None:
    providers = f" on {', '.join(version.providers)}" if version.providers else ""
    took = f" in {seconds_text(version.load_seconds)}" if version.load_seconds else ""
    reason = f": {version.reason}" if version.reason else ""
    out.show(
        {"model": name, **asdict(version)}, f"{name} {version.version} is {version.state}{providers}{took}{reason}"
    )
