"""How the documentation is written: a page answers its title at once, in words that its reader knows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
GUIDES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if page.parent.name not in ("reference", "decisions", "runbooks")),
]
PAGES = [
    *GUIDES,
    *sorted((DOCS / "runbooks").glob("*.md")),
    *sorted((DOCS / "decisions").glob("*.md")),
    *(ROOT / page for page in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
]

RIDDLES = {
    r"\bwhere there (is|are) (none|one)\b": "say `if there is no ...`",
    r"\b(is|are) none\b(?! of)": "say what is empty or missing",
    r"\b(are|is) refused in words\b": "say with which error",
    r"\bwhat it wishes\b|\bwished\b": "desired",
    r"\bstandings?\b": "release status",
    r"\bgo(es)? before (it|these|the)\b": "overrides",
    r"\bheld against\b": "compared with",
    r"\b(no|some|every)body\b|\bwhoever\b": "name them: the caller, an operator, every client",
    r"\bfor ever\b": "forever",
    r"\bgo(es)? by (the|its|their|what|that)\b": "uses",
    r"\bbec(o|a)mes? of\b": "say how it ends, or how it is translated",
    r"\b(is|are|was|were) told (apart|of|to|what|that|why)\b": "say who reports what to whom",
    r"\b(lies|lie|stands) (beside|in the|on the)\b": "is stored",
}
"""Turns of phrase that readers stumbled over, and what to write."""

_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|\]\([^)\n]*\)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_riddles(page: Path) -> None:
    text = _CODE.sub("", page.read_text())
    assert {found[0]: better for riddle, better in RIDDLES.items() if (found := re.search(riddle, text))} == {}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_says_what_it_is_for_before_its_first_section(page: Path) -> None:
    head = re.match(r"# [^\n]+\n+(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert head
    assert len(re.sub(r"<!--.*?-->", "", head[1], flags=re.DOTALL).split()) >= 10
