"""deploy/release.py: one version everywhere, a section of the changelog, and refusals in words."""

import importlib.util
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-02\n\n- First.\n"


@pytest.fixture
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "deploy" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(release, tmp_path: Path) -> Path:
    """The files that name a version, as they are, and a short changelog."""
    for place in release.PLACES:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / place, tmp_path / place)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_every_file_names_the_version_of_the_package(release) -> None:
    assert set(map(frozenset, release.named(ROOT).values())) == {frozenset({version("turnout")})}


def test_no_other_file_names_it_by_hand(release) -> None:
    """What the chart renders does, and is rendered anew; so a version written anywhere else would be left behind."""
    known = {ROOT / place for place in release.PLACES}
    rendered = ROOT / "deploy" / "kubernetes" / "manifests"
    files = [ROOT / "Dockerfile", *ROOT.glob("deploy/**/*.y*ml"), *ROOT.glob("*/pyproject.toml"), ROOT / "mkdocs.yml"]
    pattern = re.compile(rf"(turnout[:@]v?|[vV]ersion: \"?){re.escape(version('turnout'))}\b")
    assert [f for f in files if f not in known and rendered not in f.parents and pattern.search(f.read_text())] == []


def test_a_cut_writes_the_version_everywhere_and_dates_the_changelog(release, tree) -> None:
    release.write(tree, "0.2.0-rc.1", "2026-11-29")
    assert set(map(frozenset, release.named(tree).values())) == {frozenset({"0.2.0-rc.1"})}
    release.check(tree, "0.2.0-rc.1")
    text = (tree / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [0.2.0-rc.1] - 2026-11-29\n\n### Added\n\n- A thing.\n\n## [0.1.0]" in text
    assert release.notes(text, "0.2.0-rc.1") == "### Added\n\n- A thing.\n"
    assert release.notes(text, "0.1.0") == "- First.\n"


@pytest.mark.parametrize("wrong", ["", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3; rm", "1.2.3-"])
def test_what_is_no_version_is_refused(release, tree, wrong) -> None:
    with pytest.raises(release.NotReleasable, match="semantic version"):
        release.write(tree, wrong, "2026-11-29")


@pytest.mark.parametrize(
    ("changelog", "cut"),
    [
        ("# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-02\n\n- First.\n", "0.2.0"),
        ("# Changelog\n", "0.2.0"),
        (CHANGELOG, "0.1.0"),
    ],
    ids=["nothing to release", "no section", "released before"],
)
def test_a_release_of_nothing_is_refused(release, changelog, cut) -> None:
    with pytest.raises(release.NotReleasable, match=r"CHANGELOG\.md (says nothing of|has)"):
        release.cut(changelog, cut, "2026-11-29")


def test_a_file_that_names_another_version_is_named(release, tree) -> None:
    release.write(tree, "0.2.0", "2026-11-29")
    chart = tree / "deploy" / "kubernetes" / "turnout" / "Chart.yaml"
    chart.write_text(chart.read_text().replace("appVersion: 0.2.0", "appVersion: 0.1.9"))
    with pytest.raises(release.NotReleasable, match=r"Chart\.yaml names 0\.1\.9, 0\.2\.0"):
        release.check(tree, "0.2.0")


def test_the_command_says_what_is_in_the_way() -> None:
    command = [sys.executable, ROOT / "deploy" / "release.py", "check", "99.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: expected 99.0.0 everywhere: pyproject.toml names")
