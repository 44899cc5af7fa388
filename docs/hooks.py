"""What mkdocs does to these pages beyond its own: directories in the navigation, and links out of `docs/`."""

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks")


def on_config(config: Any) -> Any:
    """Puts all pages of `directory/` where the navigation names one, its README.md first."""
    config.nav = [_expanded(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turns a link to a file of the repository that is no page into the file's path, and warns if it does not exist.

    On a forge such a link leads to the file; the site has only the pages.
    """
    here = Path(config.docs_dir, page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        if target.is_relative_to(config.docs_dir):
            return match[0]
        if not target.exists():
            _log.warning("%s: there is no %s", page.file.src_uri, match[2])
        path = f"{target.relative_to(ROOT)}{'/' if target.is_dir() else ''}"
        text = match[1].strip("`")
        return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"

    return _LINK.sub(replaced, markdown)


def _expanded(entry: Any, docs: Path) -> Any:
    if isinstance(entry, list):
        return [_expanded(member, docs) for member in entry]
    if isinstance(entry, dict):
        return {title: _expanded(target, docs) for title, target in entry.items()}
    if not entry.endswith("/"):
        return entry
    pages = sorted((docs / entry).glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return [str(path.relative_to(docs)) for path in pages]
