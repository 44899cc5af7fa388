"""`turnout state`: backups of the database of releases, policies, rollouts and the log."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import DiskTarget, argument, flag
from turnout.cli.output import facts, reporting
from turnout.text.quantities import count_text, size_text

if TYPE_CHECKING:
    from turnout.state.backup import Backup

application = typer.Typer()

_File = Annotated[Path, argument("FILE", "The backup file.")]


@application.command()
def backup(file: _File, target: DiskTarget = DiskTarget()) -> None:
    """Copy the state store into a new file, as of one moment. Servers may run meanwhile.

    The file is an SQLite database, whether the store is in SQLite or in PostgreSQL. Published versions are files in the
    model repository: copy them after the state.
    """
    from turnout.cli.workspace import Workspace
    from turnout.state.backup import back_up

    with reporting(as_json=target.as_json) as out:
        made = back_up(Workspace.open(target).state_url, file)
        out.show({"file": str(file), **asdict(made)}, facts([("backup", str(file)), *_facts(made)]))


@application.command()
def restore(
    file: _File,
    replace: Annotated[
        bool, flag("--replace", "Replace an SQLite store; its old contents are kept in a file beside it.")
    ] = False,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Restore the state store from a backup. Stop all servers first.

    It restores into SQLite or an empty PostgreSQL database, regardless of where the backup came from, so that you can
    also move from one to the other. The data is migrated to this release's schema, and its log is checked. The backup
    file is not changed.
    """
    from turnout.cli.workspace import Workspace
    from turnout.rollout.engine.exchange.peers import alive_seconds
    from turnout.state.backup import restore as restore_from
    from turnout.state.database.engine import Location

    with reporting(as_json=target.as_json) as out:
        workspace = Workspace.open(target)
        settings, url = workspace.settings, workspace.state_url
        done = restore_from(file, url, replace=replace, alive_seconds=alive_seconds(settings.rollout.tick_s))
        where = Location.parse(url).name
        before = str(done.before) if done.before else None
        body = {"state": where, "before": before, "differences": done.differences, **asdict(done.backup)}
        rows = [("restored", where), *_facts(done.backup)]
        if before:
            rows.append(("before", before))
        rows += [("check", difference) for difference in done.differences]
        out.show(body, facts(rows), "`turnout verify` compares it with the versions in the repository")


def _facts(made: "Backup") -> list[tuple[str, str]]:
    models = count_text(made.models, "model")
    return [
        ("log", f"{count_text(made.events, 'event')} of {models}, up to revision {made.revision}"),
        ("schema", made.schema),
        ("size", size_text(made.size_bytes)),
    ]
