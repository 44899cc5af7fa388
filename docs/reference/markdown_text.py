"""What the pages of the reference are written with: tables, and text that Markdown takes for nothing else."""

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"`([^`]+)`")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; cells are Markdown already, without line breaks."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    """Returns `text` as code, in a table too: a bar would end the cell there."""
    if "|" in text:
        displayed = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
        return f"<code>{displayed}</code>"
    return f"`{text}`"


def prose(text: str) -> str:
    """Returns `text` on one line, with its code as code and nothing else of it as markup."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(code(part) if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    return re.sub(r"([\\*_<\[\]|])", r"\\\1", text)


def page(title: str, source: str, *blocks: str) -> str:
    """Returns a whole page.

    Args:
        title: Its heading.
        source: What it is written from, as in "`protos/`".
        blocks: Markdown, in order.
    """
    note = f"<!-- Written by docs/reference/generate.py from {source}: change it there, then `make reference`. -->"
    return "\n".join([f"# {title}\n", f"{note}\n", *(f"{block.rstrip()}\n" for block in blocks)])
