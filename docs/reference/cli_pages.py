"""The page of the command line, from the commands themselves."""

import inspect
from collections.abc import Iterator
from typing import Any, cast

import typer.main

from markdown_text import page, prose, table
from turnout.cli.examples import EXAMPLES
from turnout.cli.help_text import plain
from turnout.cli.main import application

_INTRODUCTION = """\
Every command, with its options. `turnout --help` and `turnout COMMAND --help` print the same. Commands that read or
change the repository work on the disk (`--models`, `--state`). Commands that ask a running server find its control
listener by `--server`. All of them read `turnout.toml` if it exists: [Configuration](../configuration.md).

A command exits with 0 if it did what it says, with 1 if it was refused or failed, and with 2 for wrong usage. A
command with other exit codes lists them.
"""

_HIDDEN = {"--help", "--install-completion", "--show-completion"}


def cli_page() -> str:
    """Returns the page's text."""
    root = typer.main.get_command(application())
    panels: dict[str, list[str]] = {}
    sections: dict[str, list[str]] = {}
    commands: dict[str, Any] = cast(Any, root).commands
    for name, command in commands.items():
        panel = str(command.rich_help_panel)
        panels.setdefault(panel, []).append(f"[`{name}`](#turnout-{name})")
        sections.setdefault(panel, []).extend(_sections(command, f"turnout {name}"))
    rows = [(panel.lower(), ", ".join(links)) for panel, links in panels.items()]
    overview = table(("commands that work on", ""), rows)
    bodies = [section for panel in panels for section in sections[panel]]
    return page("Command line", "`server/turnout/cli/`", _INTRODUCTION, overview, *bodies)


def _sections(command: Any, path: str) -> Iterator[str]:
    members = getattr(command, "commands", None)
    level = "#" * (path.count(" ") + 1)
    if members is not None:
        names = ", ".join(f"[`{name}`](#{path.replace(' ', '-')}-{name})" for name in members)
        yield f"{level} {path}\n\n{_description(command)}\n\nIts commands: {names}."
        for name, member in members.items():
            yield from _sections(member, f"{path} {name}")
        return
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and p.opts[0] not in _HIDDEN]
    written = " ".join(
        [path, *(f"[{a.metavar.strip('[]')}]" if not a.required else a.metavar for a in arguments), "[OPTIONS]"]
    )
    yield f"{level} {path}\n\n```text\n{written}\n```\n\n{_description(command)}"
    rows = [(f"`{p.metavar.strip('[]')}`", _help(p)) for p in arguments]
    rows += [(f"`{_spelling(p)}`", _help(p)) for p in options]
    yield table(("argument or option", ""), rows)
    yield "\n".join(["```text", *EXAMPLES[path.removeprefix("turnout ")], "```"])


def _description(command: Any) -> str:
    paragraphs = inspect.cleandoc(plain(command.help or "")).split("\n\n")
    return "\n\n".join(_codes(p) or prose(p) for p in paragraphs)


def _codes(paragraph: str) -> str | None:
    """Returns a list of exit codes as a table, or None where `paragraph` is something else."""
    first, *lines = paragraph.splitlines()
    if not first.startswith("Exit codes"):
        return None
    return f"{first}\n\n" + table(("code", ""), (line.split(maxsplit=1) for line in lines)).rstrip()


def _spelling(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return f"{names} {option.metavar}" if option.metavar else names


def _help(parameter: Any) -> str:
    text = prose(plain(parameter.help or ""))
    default = parameter.default
    displayed = parameter.show_default and default not in (None, False, "", ()) and not callable(default)
    if displayed and "default:" not in text:
        text = f"{text} (default: {prose(_text(default))})"
    return text


def _text(default: object) -> str:
    return str(cast(Any, default).value) if hasattr(default, "value") else str(default)
