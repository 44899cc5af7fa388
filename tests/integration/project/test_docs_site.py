"""The site builds without a warning, leads nowhere that is not there, and calls no other host."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Attributes of elements that a browser fetches by itself; a link that a reader may follow is none."""

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page has a browser fetch, its anchors, and its text that stayed Markdown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if url := values.get(LOADS.get(tag, "")):
            self.fetched.append(url)
        if tag == "a" and (href := values.get("href")):
            self.links.append(href)
        if name := values.get("id"):
            self.anchors.add(name)


def built(config: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=230)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = built(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert done.stdout == ""
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> Mapping[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_the_site_has_every_page_of_the_docs(site: Path, pages: Mapping[Path, Page]) -> None:
    pages_of_docs = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    written = {
        str(page.with_name("index") if page.name == "README.md" else page.with_suffix("")) for page in pages_of_docs
    }
    assert {str(path.relative_to(site).with_suffix("")) for path in pages} == written | {"404"}


def test_nothing_is_fetched_from_another_host(site: Path, pages: Mapping[Path, Page]) -> None:
    fetched = {url for page in pages.values() for url in page.fetched}
    assert fetched
    assert [url for url in fetched if re.match(r"(\w+:)?//", url)] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_every_link_within_the_site_leads_somewhere(pages: Mapping[Path, Page]) -> None:
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link) or path.name == "404.html":
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            assert target in pages, f"{path.name}: {link}"
            assert not anchor or anchor in pages[target].anchors or anchor == "__toc", f"{path.name}: {link}"


def test_no_list_stayed_text(pages: Mapping[Path, Page]) -> None:
    # Forges take a list right after a paragraph; mkdocs wants an empty line before it.
    for path in pages:
        assert not re.search(r"<p>[^<]*\n(- |\d\. )", path.read_text()), path


def test_a_link_out_of_the_docs_that_leads_nowhere_breaks_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A page\n\n[a file](../nowhere.toml)\n")
    (tmp_path / "docs/hooks.py").write_text((ROOT / "docs/hooks.py").read_text())
    config = "site_name: Test\nhooks: [docs/hooks.py]\nexclude_docs: '*.py'\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    done = built(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "index.md: there is no ../nowhere.toml" in done.stderr
