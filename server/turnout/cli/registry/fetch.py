"""`turnout fetch`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from semver import Version

from turnout.cli.options import ServerTarget, VersionArgument, option
from turnout.cli.output import CommandOutput, facts, reporting
from turnout.errors import ConfigError, DigestMismatch
from turnout.text.quantities import size_text

if TYPE_CHECKING:
    from turnout.cli.connection import Server
    from turnout.registry.storage.listing import Published


def fetch(
    version: VersionArgument,
    to: Annotated[Path, option("--to", "DIR", "Directory to create for the version's files.")],
    signatures: Annotated[
        Path | None, option("--signatures", "DIR", "Directory for the OpenSSF signatures of the version.")
    ] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Copy a version from a running server: its manifest and all files, each checked against its digest.

    With --signatures, the signatures are copied too, for `model_signing verify key DIR --public_key ci.pub.pem
    --signature FILE`.
    """
    from turnout.cli.connection import Server
    from turnout.cli.workspace import exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        source = Server.named(target)
        received, bundles = _fetch(out, source, name, exact, to)
        manifest = received.manifest
        kept = [] if signatures is None else _keep(signatures, received, bundles)
        body = {
            "model": name,
            "version": str(exact),
            "digest": received.digest,
            "size_bytes": manifest.size,
            "files": [file.to_json() for file in manifest.files],
            "directory": str(to),
            "signatures": [str(file) for file in kept],
        }
        pairs = [("digest", received.digest), ("files", f"{len(manifest.files)}, {size_text(manifest.size)}")]
        pairs += [("signature", str(file)) for file in kept]
        out.show(body, f"{name} {exact} is in {to}; every byte was checked", facts(pairs))


def _fetch(
    out: CommandOutput, server: "Server", name: str, version: "Version", to: Path
) -> "tuple[Published, Sequence[bytes]]":
    from turnout.registry.transfer.receive import receive, sent_version
    from turnout_proto.v1 import registry_pb2 as pb

    with server.registry() as registry:
        answers = registry.FetchVersion(pb.FetchVersionRequest(model=name, version=str(version)))
        first = next(iter(answers), None)
        if first is None or not first.HasField("manifest"):
            raise DigestMismatch("the server sent no manifest")
        sent = first.manifest
        published = sent_version(sent.manifest, sent.digest, name, version)
        with out.progress("fetching", published.manifest.size) as advance:
            chunks = (answer.chunk for answer in answers)
            receive(to, published, ((chunk.file, chunk.offset, chunk.data) for chunk in chunks), advance)
    return published, sent.signature_bundles


def _keep(directory: Path, published: "Published", bundles: "Sequence[bytes]") -> list[Path]:
    """Writes the signatures of the version to new files, and returns the files."""
    from turnout.registry.signing.trust import PREFIX, SUFFIX, is_about

    files: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate((data for data in bundles if is_about(published, data)), start=1):
            files.append(directory / f"{PREFIX}{number}{SUFFIX}")
            with files[-1].open("xb") as file:
                file.write(data)
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} already exists") from None
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error.strerror}") from None
    return files
