"""`turnout import`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from turnout.cli.cleanup import unwinding
from turnout.cli.options import ChangeOptions, DiskTarget, ReleaseOption, argument, option
from turnout.cli.output import reporting


def import_version(
    directory: Annotated[Path, argument("DIR", "What `turnout export` wrote.")],
    digest: Annotated[str | None, option("--digest", "SHA256", "Import it only if it has this digest.")] = None,
    release: ReleaseOption = False,
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Take an exported version into the repository, with the same digest.

    Every file is checked, and the gates run. Pass the digest that you expect: nothing else shows that somebody changed
    the export and hashed it anew.
    """
    from turnout.cli.publish.publish_view import Released, result_body, result_view
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.errors import DigestMismatch, InvalidRequest
    from turnout.publishing import Publisher
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.storage.repository import Repository
    from turnout.registry.transfer.copying import only_version
    from turnout.rollout.changes.operations import Operations
    from turnout.serving.sandbox.fork_server import start_processes

    with reporting(as_json=target.as_json) as out, ExitStack() as stack:
        stack.enter_context(unwinding())
        if not (directory / "models").is_dir():
            raise InvalidRequest.at("DIR", f"{directory.name!r} is not an export: it holds no models/")
        source = Repository(directory / "models")
        published = only_version(source)
        if digest is not None and digest != published.digest:
            raise DigestMismatch(f"the export is of {published.digest}, not of {digest[:128]}")
        name, exact = published.manifest.model, published.manifest.version
        workspace = Workspace.open(target)
        who = actor_or_login(change.actor)
        with workspace.store() as store:
            processes = start_processes()
            stack.callback(processes.close)
            publisher = Publisher(workspace.settings, workspace.repository, store, processes)
            with out.progress("importing", published.manifest.size) as advance:
                result = publisher.import_version(source, published, PublishOptions(who, change.reason), advance)
            released = None
            if release:
                done = Operations(workspace.repository, store).release_published(
                    name, exact, actor=who, reason=change.reason
                )
                released = Released(done.sentence, done.answers)
            release_status = store.release_state().of(name).release_status(exact)
        out.show(result_body(result, release_status, released), *result_view(result, release_status, released))
