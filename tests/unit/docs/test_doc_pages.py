"""The reader of the docs' pages: what it takes for files, commands and their output, and what it refuses."""

from pathlib import Path

import pytest

from doc_pages import Command, File, NotRun, difference, steps

PAGE = """# A page

```python title="a.py"
print(1)
```

```console
$ python a.py
1
$ cat <<END
> text
> END
...
```

<!-- not run: needs Docker -->
```console
$ docker compose up
```
"""


def written(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text)
    return page


def test_files_commands_and_what_is_not_run_come_in_order(tmp_path: Path) -> None:
    assert steps(written(tmp_path, PAGE)) == [
        File("a.py", "print(1)\n"),
        Command("python a.py", ("1",)),
        Command("cat <<END\ntext\nEND", ("...",)),
        NotRun("needs Docker", "$ docker compose up\n"),
    ]


def test_a_page_that_goes_on_from_another_has_its_files_first(tmp_path: Path) -> None:
    (tmp_path / "first.md").write_text(PAGE)
    page = written(tmp_path, "<!-- files of: first.md -->\n\n```console\n$ ls\n```\n")
    assert steps(page) == [File("a.py", "print(1)\n"), Command("ls", ())]


@pytest.mark.parametrize("fence", ["```python\nx\n```\n", "```\nx\n```\n", "```bash\nx\n```\n", "```console\n$ x\n"])
def test_a_fence_that_is_neither_run_nor_marked_is_refused(tmp_path: Path, fence: str) -> None:
    with pytest.raises(ValueError, match=r"fence|neither"):
        steps(written(tmp_path, f"{PAGE}\n{fence}"))


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ((), ""),
        (("a", "b"), "a\nb\n"),
        (("a  b",), "a     b   \n"),
        (("took ... ms",), "took 0.31 ms\n"),
        (("first", "...", "last"), "first\nx\ny\nlast\n"),
        (("first", "..."), "first\n"),
    ],
)
def test_what_is_printed_as_shown_is_no_difference(expected: tuple[str, ...], printed: str) -> None:
    assert difference(expected, printed) == ""


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ((), "a\n"),
        (("a",), ""),
        (("a",), "a\nb\n"),
        (("a", "b"), "b\na\n"),
        (("a.b",), "axb\n"),
        (("took ... ms",), "took 0.31 s\n"),
        (("first", "...", "last"), "first\nx\n"),
    ],
)
def test_anything_else_is(expected: tuple[str, ...], printed: str) -> None:
    assert "and there was" in difference(expected, printed)
