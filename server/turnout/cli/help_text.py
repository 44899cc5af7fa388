"""Prepares the help of commands for Typer, which would keep the line ends of docstrings and read "[" as markup."""

import inspect

_ONE_PER_LINE = "Exit codes"
"""How a paragraph starts whose lines are kept."""


def prepared(docstring: str) -> str:
    """Returns a docstring with each paragraph on one line, so that Typer wraps it, and without markup."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    lines = (one if one.startswith(_ONE_PER_LINE) else " ".join(one.split("\n")) for one in paragraphs)
    return literal("\n\n".join(lines))


def literal(text: str) -> str:
    """Returns a text that Typer shows as it is written: "[" would start markup."""
    return text.replace("[", r"\[")


def plain(text: str) -> str:
    """Returns the text that `literal` was given."""
    return text.replace(r"\[", "[")
