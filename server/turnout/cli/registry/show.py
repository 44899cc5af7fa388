"""`turnout models` and `turnout show`."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnout.cli.options import TargetOptions, argument, flag
from turnout.cli.output import NO_VERSION, CommandOutput, reporting
from turnout.cli.terminal_text import printable
from turnout.errors import InvalidRequest

if TYPE_CHECKING:
    from turnout.cli.registry.survey import Details
    from turnout.registry.storage.listing import Problem

_EXPLAINED = ("loading", "warming", "ready", "failed")
"""States for which a server may give a reason: slow loads and failures."""


def models(target: TargetOptions = TargetOptions()) -> None:
    """List all models and their versions."""
    from turnout.cli.registry.survey import model_json, survey_disk
    from turnout.cli.registry.tables import versions_table
    from turnout.cli.workspace import Workspace

    with reporting(as_json=target.as_json) as out:
        problems: Sequence[Problem] = ()
        if target.server is not None:
            from turnout.cli.connection import Server
            from turnout.cli.registry.live import survey_server

            versions = survey_server(Server.named(target))
        else:
            versions, problems = survey_disk(Workspace.open(target))
        body = {
            "models": [model_json(list(its)) for _, its in itertools.groupby(versions, key=lambda one: one.model)],
            "problems": [
                {"model": p.model, "version": p.version, "reason": p.reason, "command": p.command or None}
                for p in problems
            ],
        }
        out.show(body, versions_table(versions) if versions else NO_VERSION)
        for one in versions:
            if one.live and one.live.state in _EXPLAINED and one.live.reason:
                out.note(f"note: {one.model} {one.version}: {one.live.reason}")
        for problem in problems:
            out.note(f"note: {problem}")


def show(
    version: Annotated[str, argument("NAME[@SELECTOR]", "A model, or one of its versions, such as magika@^3.")],
    markdown: Annotated[bool, flag("--markdown", "Print the version's card as a Markdown file.")] = False,
    target: TargetOptions = TargetOptions(),
) -> None:
    """Describe a model, or print the card of the version that a selector names.

    For a model: all versions, the latest changes, and details of the default version.
    """
    from turnout.cli.registry.card import markdown as card
    from turnout.cli.registry.survey import details_from_disk
    from turnout.cli.registry.tables import details
    from turnout.cli.workspace import Workspace, split_reference

    with reporting(as_json=target.as_json) as out:
        name, selector = split_reference(version)
        if markdown and (selector is None or target.as_json):
            raise InvalidRequest.at("--markdown", "expected with NAME@SELECTOR, and without --json")
        if target.server is not None:
            from turnout.cli.connection import Server
            from turnout.cli.registry.live import details_from_server

            found = details_from_server(Server.named(target), name, selector)
        else:
            found = details_from_disk(Workspace.open(target), name, selector)
        if markdown:
            assert found.chosen is not None, "a selector resolves to a version or raises an error"
            if found.chosen.content is None:
                raise InvalidRequest.at("--server", "expected a control listener: others lack the data for a card")
            typer.echo(printable(card(found.chosen)), nl=False)
        elif selector is None:
            _show_model(out, found)
        else:
            assert found.chosen is not None, "a selector resolves to a version or raises an error"
            out.show(found.chosen.to_json(), details(found.chosen))


def _show_model(out: CommandOutput, found: "Details") -> None:
    from turnout.cli.registry.survey import model_json
    from turnout.cli.registry.tables import details, versions_table
    from turnout.cli.releases.event_view import events_table

    body: dict[str, Any] = model_json(found.versions)
    displayed: list[Any] = [versions_table(found.versions)]
    if found.events is not None:
        body["events"] = [
            {"time": e.time.isoformat(), "kind": e.kind, "actor": e.actor, "reason": e.reason, **e.payload}
            for e in found.events
        ]
    if found.events:
        displayed += ["", events_table(found.events)]
    if found.chosen is not None:
        displayed += ["", details(found.chosen)]
    out.show(body, *displayed)
