"""Links in the documentation lead somewhere: each relative link to a file, and each anchor to a heading of it."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "client").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
INDEX = DOCS / "README.md"

_FENCE = re.compile(r"^(```+|~~~+).*?^\1`*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_ID = re.compile(r'<a id="([^"]+)"></a>')
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


def links(text: str) -> list[str]:
    """Returns the targets of links and pictures in `text`, but for those in code."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """Returns the anchors of `text`: its headings, by GitHub's rule, and `<a id="..."></a>`."""
    text = _FENCE.sub("", text)
    found = set(_ID.findall(text))
    for heading in _HEADING.findall(_ID.sub("", text)):
        terms = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", terms.lower()).replace(" ", "-")
        number = next(n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@cache
def anchors_of(page: Path) -> frozenset[str]:
    return frozenset(anchors(page.read_text()))


def relative_links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yields each relative link of `page` as it is written, the path that it names, and its anchor."""
    for link in links(page.read_text()):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        yield link, (page.parent / path).resolve() if path else page, anchor


def broken(page: Path) -> list[str]:
    """Returns the links of `page` that lead nowhere, out of the repository, or to a heading that does not exist."""
    found = []
    for link, target, anchor in relative_links(page):
        exists = target.is_relative_to(ROOT) and target.exists()
        if not exists or (anchor and (target.suffix != ".md" or anchor not in anchors_of(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = {INDEX}, [INDEX]
    while todo:
        for _, target, _ in relative_links(todo.pop()):
            if target.suffix == ".md" and target.is_relative_to(DOCS) and target not in reached:
                reached.add(target)
                todo.append(target)
    assert sorted(str(page.relative_to(DOCS)) for page in set(DOCS.rglob("*.md")) - reached) == []


def test_the_index_names_every_guide_and_how_to_itself() -> None:
    named = {target for _, target, _ in relative_links(INDEX)}
    pages = {*DOCS.glob("*.md"), *(DOCS / "how-to").glob("*.md"), *(DOCS / "reference").glob("*.md")} - {INDEX}
    assert sorted(page.name for page in pages - named) == []


def test_every_decision_stands_in_the_list_of_decisions() -> None:
    named = {target.name for _, target, _ in relative_links(DOCS / "decisions" / "README.md")}
    assert {page.name for page in (DOCS / "decisions").glob("0*.md")} - named == set()


def test_what_a_link_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    headings = "# One `code` & two\n\n## Again\n\n## Again\n\n"
    page.write_text(f"{headings}[a](#again-1) [b](#one-code--two) [c](#three) `[d](e)`\n")
    assert anchors(page.read_text()) == {"one-code--two", "again", "again-1"}
    assert links(page.read_text()) == ["#again-1", "#one-code--two", "#three"]
    assert links("```\n[a](b)\n```\n\n![p](c.png)\n") == ["c.png"]


def test_the_list_of_decisions_marks_what_was_superseded_and_amended() -> None:
    rows = dict(re.findall(r"^\| \[\d+\]\((0[^)]+)\) \| (.+) \|$", (DOCS / "decisions/README.md").read_text(), re.M))
    for page in (DOCS / "decisions").glob("0*.md"):
        mark = re.search(r"^\*(Superseded|Amended) by \[\d+\]\(([^)]+)\)", page.read_text(), re.MULTILINE)
        message = re.search(r"(superseded|amended) by \[\d+\]\(([^)]+)\)", rows[page.name], re.IGNORECASE)
        assert (mark and (mark[1].lower(), mark[2])) == (message and (message[1].lower(), message[2])), page.name
