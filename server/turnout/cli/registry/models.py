"""`turnout models`."""

from turnout.cli.options import TargetOptions
from turnout.cli.output import NO_VERSION, reporting

_EXPLAINED = ("loading", "warming", "ready", "failed")
"""States for which a server may give a reason: slow loads and failures."""


def models(
    target: TargetOptions = TargetOptions(),
) -> None:
    """List all models and their versions."""
    from turnout.cli.registry.survey import survey_disk
    from turnout.cli.registry.tables import versions_table
    from turnout.cli.workspace import Workspace

    with reporting(as_json=target.as_json) as out:
        if target.server is not None:
            from turnout.cli.connection import Server
            from turnout.cli.registry.live import survey_server

            survey = survey_server(Server.named(target))
        else:
            survey = survey_disk(Workspace.open(target))
        out.show(survey.to_json(), versions_table(survey.versions) if survey.versions else NO_VERSION)
        for version in survey.versions:
            if version.live and version.live.state in _EXPLAINED and version.live.reason:
                out.note(f"note: {version.model} {version.version}: {version.live.reason}")
        for problem in survey.problems:
            out.note(f"note: {problem}")
