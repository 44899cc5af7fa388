"""`turnout doctor`."""

from dataclasses import asdict

import typer
from rich.text import Text

from turnout.cli.options import DiskTarget
from turnout.cli.output import reporting, table


def doctor(target: DiskTarget = DiskTarget()) -> None:
    """Check what this machine can run models on, what is missing, and how to get it."""
    from turnout.cli.serve.checks import Health, examine

    with reporting(as_json=target.as_json) as out:
        checks = list(examine(target.config, {"models": target.models, "state": target.state}))
        broken = [check.name for check in checks if check.health is Health.BROKEN]
        styles = {Health.OK: "green", Health.NOTE: "yellow", Health.BROKEN: "bold red"}
        rows = [(Text(c.name, "bold"), Text(c.health, styles[c.health]), c.detail) for c in checks]
        verdict = f"\nbroken: {', '.join(broken)}" if broken else "\nready to serve"
        out.show({"ok": not broken, "checks": [asdict(check) for check in checks]}, table(("", "", ""), rows), verdict)
        if broken:
            raise typer.Exit(1)
