"""`turnout fetch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ConfigOption, JsonOption, ServerOption
from turnout.cli.output import Output, facts, reporting, size_text

if TYPE_CHECKING:
    from semver import Version

    from turnout.cli.connection import Server
    from turnout.registry.receive import Received


def fetch(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="For example magika@3.2.0.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new directory, for the version's files.")],
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a version from a running server: its manifest and every file, each checked against its digest."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        source = Server.named(server, config)
        received = _fetch(out, source, name, exact, to)
        manifest = received.manifest
        out.show(
            {
                "model": name,
                "version": str(exact),
                "digest": received.digest,
                "size_bytes": manifest.size,
                "files": [{"path": file.path, "size": file.size, "digest": file.digest} for file in manifest.files],
                "directory": str(to),
            },
            f"{name} {exact} lies in {to}, the same in every byte",
            facts([("digest", received.digest), ("files", f"{len(manifest.files)}, {size_text(manifest.size)}")]),
        )


def _fetch(out: Output, server: "Server", name: str, version: "Version", to: Path) -> "Received":
    from turnout.errors import DigestMismatch
    from turnout.registry.receive import receiving
    from turnout_proto.v1 import registry_pb2 as pb

    with server.registry() as registry:
        answers = registry.FetchVersion(pb.FetchVersionRequest(model=name, version=str(version)))
        first = next(iter(answers), None)
        if first is None or not first.HasField("manifest"):
            raise DigestMismatch("the server sent no manifest")
        with (
            receiving(to, first.manifest.manifest, first.manifest.digest, name, version) as receiver,
            out.progress("fetching", receiver.size) as advance,
        ):
            for answer in answers:
                receiver.write(answer.chunk.file, answer.chunk.offset, answer.chunk.data)
                advance(len(answer.chunk.data))
            return receiver.finish()
