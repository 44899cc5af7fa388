"""`turnout load` and `turnout unload`."""

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from turnout.cli.options import ServerTarget, TimeoutOption, VersionArgument
from turnout.cli.output import CommandOutput, ServerRefused, reporting
from turnout.text.quantities import seconds_text

if TYPE_CHECKING:
    from turnout.cli.connection import Server
    from turnout_proto.v1 import catalog_pb2
    from turnout_proto.v1.control_pb2 import LoadVersionRequest

_LOOK_SECONDS = 1.0
"""Seconds between two checks of a load in progress."""

_SHOWN_SECONDS = 10.0
"""Seconds between two progress lines."""

_CALL_SECONDS = 10.0


def load(version: VersionArgument, timeout: TimeoutOption = 300.0, target: ServerTarget = ServerTarget()) -> None:
    """Load a version into a running server, and wait until it is ready."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference
    from turnout_proto.v1.control_pb2 import LoadVersionRequest

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        request = LoadVersionRequest(model=name, version=str(exact))
        _print(out, name, _loaded(out, Server.named(target), request, timeout))


def unload(version: VersionArgument, timeout: TimeoutOption = 300.0, target: ServerTarget = ServerTarget()) -> None:
    """Unload a version from a running server, once requests in progress are answered."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference
    from turnout_proto.v1.control_pb2 import UnloadVersionRequest

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        with Server.named(target).control() as control:
            request = UnloadVersionRequest(model=name, version=str(exact))
            unloaded = control.UnloadVersion(request, timeout=timeout).version
        _print(out, name, unloaded)


def _loaded(
    out: CommandOutput, server: "Server", request: "LoadVersionRequest", timeout: float
) -> "catalog_pb2.ModelVersion":
    """Loads a version, and shows its progress if that takes long."""
    import time

    from grpc import FutureTimeoutError

    shown_at = 0.0
    with server.control() as control:
        loading = control.LoadVersion.future(request, timeout=timeout)
        while True:
            with suppress(FutureTimeoutError):
                return loading.result(_LOOK_SECONDS).version
            if shown_at and time.monotonic() - shown_at < _SHOWN_SECONDS:
                continue
            with suppress(ServerRefused), server.client(_CALL_SECONDS) as client:
                if reason := client.get_version(request.model, request.version).reason:
                    out.note(f"{request.model} {request.version}: {reason}")
                    shown_at = time.monotonic()


def _print(out: CommandOutput, name: str, message: "catalog_pb2.ModelVersion") -> None:
    from turnout_client.wire import read_version

    version = read_version(message)
    providers = f" on {', '.join(version.providers)}" if version.providers else ""
    took = f" in {seconds_text(version.load_seconds)}" if version.load_seconds else ""
    reason = f": {version.reason}" if version.reason else ""
    out.show(
        {"model": name, **asdict(version)}, f"{name} {version.version} is {version.state}{providers}{took}{reason}"
    )
