"""Text that others wrote, as a terminal may be given it: reasons, descriptions and names come from whoever may publish.

A terminal obeys control characters: what it is told by them may change its title, its clipboard and what is on screen.
Characters that turn the direction of writing show a text in another order than it has. Pure.
"""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROLS = re.compile(f"[{_OBEYED}]")
"""All but tabs and the ends of lines."""


def shown(text: str) -> str:
    """Returns a text with `?` for each character that a terminal would obey."""
    return _CONTROLS.sub("?", text)


def escaped(json_text: str) -> str:
    """Returns JSON with those characters as escapes, which mean the same."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


class TerminalConsole(Console):
    """A console that shows text as `shown`, and adds its own styles."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of a renderable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or not _CONTROLS.search(text) else Segment(shown(text), style)
