"""Makes text from other users, such as reasons, descriptions and names, safe to print to a terminal.

Control characters could change a terminal's title, its clipboard and the text on the screen. Characters that change the
writing direction could show text in another order. Without side effects.
"""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROLS = re.compile(f"[{_OBEYED}]")
"""Matches characters that terminals interpret, apart from tabs and line ends."""


def printable(text: str) -> str:
    """Returns a text with `?` for each character that a terminal would interpret."""
    return _CONTROLS.sub("?", text)


def escaped(json_text: str) -> str:
    """Returns JSON with these characters escaped, which does not change its meaning."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


class TerminalConsole(Console):
    """A console that prints text as `printable` returns it, with its own styles."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a renderable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not _CONTROLS.search(text) else Segment(printable(text), style)
