"""`turnout import` and its subcommands."""

from pathlib import Path
from typing import Annotated

import typer

from turnout.cli.cleanup import unwinding
from turnout.cli.options import ChangeOptions, DiskTarget, ReleaseOption, argument, option
from turnout.cli.output import reporting
from turnout.cli.publish.import_triton import import_triton
from turnout.errors import DigestMismatch, InvalidRequest

application = typer.Typer()


@application.command("export")
def import_version(
    directory: Annotated[Path, argument("DIR", "Directory written by `turnout export`.")],
    digest: Annotated[str | None, option("--digest", "SHA256", "Import only if the version has this digest.")] = None,
    release: ReleaseOption = False,
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Import an exported version into the repository, with the same digest.

    Every file is verified, and the gates run. Pass the digest that you expect: nothing else reveals that the export was
    changed and hashed again.
    """
    from turnout.cli.publish.publish_view import PublishOutcome
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.storage.repository import Repository
    from turnout.registry.transfer.copying import only_version

    with reporting(as_json=target.as_json) as out, unwinding():
        if not (directory / "models").is_dir():
            instead = "`turnout import triton DIR` imports a Triton model repository"
            raise InvalidRequest.at("DIR", f"{directory.name!r} is not an export: it holds no models/; {instead}")
        source = Repository(directory / "models")
        published = only_version(source)
        if digest is not None and digest != published.digest:
            raise DigestMismatch(f"the export is of {published.digest}, not of {digest[:128]}")
        workspace = Workspace.open(target)
        how = PublishOptions(actor_or_login(change.actor), change.reason)
        with workspace.store() as store, workspace.publisher(store) as publisher:
            with out.progress("importing", published.manifest.size) as advance:
                result = publisher.import_version(source, published, how, advance)
            outcome = PublishOutcome.of(workspace, store, result, how, release=release)
        out.show(outcome.to_json(), *outcome.view())


application.command("triton")(import_triton)
