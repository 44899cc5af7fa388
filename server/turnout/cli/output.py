"""Prints the output of commands: tables for people, JSON for programs, one sentence for an error."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from turnout.cli.terminal_text import TerminalConsole, escaped
from turnout.errors import FieldViolation, TurnoutError, kind_of
from turnout.text.quantities import json_name

NO_VERSION = "no version is published yet; publish one with `turnout publish NAME 1.0.0 MODEL.onnx --release`"
"""Shown in place of a table of versions or models without rows."""

_NARROWEST = 4
"""Width that every other column is left with at least."""
_GAP, _NARROW_GAP = 3, 1
"""Spaces between two columns, and where a terminal is too narrow."""
_PIPE_WIDTH = 400
"""Maximum width of a table in columns if there is no terminal: `grep` and `awk` need each row on one line."""

_LONG_WORK = 64 * 1024 * 1024
"""Number of bytes from which reading or copying takes long enough to show a progress bar."""


class ServerRefused(TurnoutError):
    """Raised when a running server answers with an error, or no server answers.

    Attributes:
        kind: Name of the client error class, such as `NotFound`.
    """

    def __init__(self, kind: str, message: str, *, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message, violations=violations)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar.

    Attributes:
        advance: Advances the bar by a number of bytes.
        say: Changes the text in front of the bar.
        shown: Whether anyone can see it.
    """

    advance: Callable[[int], None]
    say: Callable[[str], None]
    shown: bool

    def __call__(self, done: int) -> None:
        """Advances the bar by `done` bytes."""
        self.advance(done)


class CommandOutput:
    """The output of one command.

    Attributes:
        console: Standard output, for live views.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=False)
        self._err = _console(stderr=True)

    def show(self, body: Any, *renderables: RenderableType) -> None:
        """Prints `body` if JSON output was requested, else the renderables."""
        if self.as_json:
            typer.echo(escaped(_json(body)))
            return
        for renderable in renderables:
            with nullcontext() if self.console.is_terminal else self.console.capture() as captured:
                self.console.print(renderable, soft_wrap=isinstance(renderable, str | Text))
            if captured is not None:  # without the spaces with which a table pads its lines
                self.console.file.writelines(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines())
                self.console.file.flush()  # otherwise lines on standard error would appear first

    def note(self, sentence: str) -> None:
        """Prints a sentence on standard error, unless JSON output was requested; then `body` must contain it."""
        if not self.as_json:
            self._err.print(sentence, soft_wrap=True)

    @contextmanager
    def progress(self, what: str, size: int, *, slow: bool = False) -> Iterator["Bar"]:
        """Shows a progress bar while the block runs, if standard error is a terminal.

        Args:
            what: Text in front of the bar.
            size: Number of bytes to process. A small size shows no bar unless the work is slow.
            slow: Whether the work takes long regardless of its size.

        Yields:
            The bar. Call it with the number of bytes just processed.
        """
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        quiet = self.as_json or not self._err.is_terminal or (size < _LONG_WORK and not slow)
        sizes = DownloadColumn(binary_units=True)
        columns = (TextColumn("{task.description}"), BarColumn(), sizes, TransferSpeedColumn())
        with Progress(*columns, console=self._err, transient=True, disable=quiet) as bar:
            task = bar.add_task(what, total=size)
            yield Bar(lambda done: bar.advance(task, done), lambda text: bar.update(task, description=text), not quiet)

    def error(self, error: TurnoutError) -> None:
        """Prints `error` on standard error."""
        if self.as_json:
            violations = [{"field": v.field, "description": v.description} for v in error.violations]
            kind = error.kind if isinstance(error, ServerRefused) else kind_of(error)
            body = {"error": {"kind": kind, "message": error.message, "violations": violations}}
            typer.echo(escaped(json.dumps(body, indent=2, ensure_ascii=False)), err=True)
            return
        several = [v.description for v in error.violations] if len(error.violations) > 1 else [error.message]
        for sentence in several:
            self._err.print(Text.assemble(("error: ", "bold red"), sentence), soft_wrap=True)


@contextmanager
def reporting(*, as_json: bool) -> Iterator[CommandOutput]:
    """Yields a command's output. Prints a TurnoutError raised in the block and exits with 1."""
    output = CommandOutput(as_json=as_json)
    try:
        yield output
    except TurnoutError as error:
        output.error(error)
        raise typer.Exit(1) from None


class _FittingTable(Table):
    """A table whose columns are all visible, where a terminal allows it.

    rich gives the columns that must not wrap their width first, and none to the others if nothing is left.

    Attributes:
        words: Length of the longest word in each of those columns, by place.
        width_of_all: Width in which no cell wraps.
        width_of_whole: Width from which on those columns leave enough for the others.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        header = any(columns)
        super().__init__(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_header=header)
        self.words: dict[int, int] = {}
        self.width_of_all = self.width_of_whole = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what rich shows; on a narrow terminal, its columns move together, then those wrap between words."""
        if self.words and options.max_width < self.width_of_all:
            self.padding = (0, _NARROW_GAP, 0, 0)
        if options.max_width < self.width_of_whole:
            for place, width in self.words.items():
                self.columns[place].no_wrap = False
                self.columns[place].width = width
        yield from super().__rich_console__(console, options)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    cut: Sequence[str] = (),
) -> Table:
    """Returns a table without borders. Cells are plain text, not markup.

    The columns in `right` are right-aligned. The cells of those in `whole` stay on one line where others can give way,
    such as times. Those in `cut` are cut where a terminal is too narrow, since their beginning is enough.
    """
    rows = list(rows)
    grid = _FittingTable(columns)
    for place, column in enumerate(columns):
        cells = [column, *(str(cell) for row in rows if isinstance(cell := row[place], str | Text))]
        widest = max(map(cell_len, cells))
        grid.width_of_all += _GAP + (_NARROWEST if column in cut else widest)
        grid.width_of_whole += _NARROW_GAP + (widest if column in whole else _NARROWEST)
        if column in whole:
            grid.words[place] = max(cell_len(word) for cell in cells for word in cell.split() or [""])
        grid.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="ellipsis" if column in cut else "fold",
            no_wrap=column in whole,
        )
    for row in rows:
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return grid


def facts(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Returns a table of names and values, one pair per line."""
    return table(("", ""), ((Text(name, "bold"), value) for name, value in pairs))


def _console(*, stderr: bool) -> Console:
    console = TerminalConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _json(body: Any, indent: str = "") -> str:
    """Returns `body` as JSON: objects over several lines, lists of plain values, such as tensors, on one line.

    Numbers that JSON lacks are strings, as protobuf writes them: "NaN", "Infinity" and "-Infinity".
    """
    deeper = indent + "  "
    if isinstance(body, Mapping) and body:
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_json(value, deeper)}" for key, value in body.items()]
        return f"{{\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}}}"
    if isinstance(body, list | tuple):
        items = [_json(value, deeper) for value in body]
        if any(isinstance(value, Mapping) for value in body):
            return f"[\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}]"
        return f"[{', '.join(items)}]"
    if isinstance(body, float) and not math.isfinite(body):
        body = json_name(body)
    return json.dumps(body, ensure_ascii=False)
