"""Cuts a release: one version for the packages, the chart, the images and the tag.

python deploy/release.py cut VERSION     writes the version everywhere, cuts the changelog, renders the manifests,
                                         commits and tags. Nothing is pushed.
python deploy/release.py check VERSION   fails if a file has another version; CI runs it for a tag
python deploy/release.py notes VERSION   prints the changelog's section of that version
"""

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "pyproject.toml": r'(?m)^version = "(?P<version>[^"]+)"$',
    "deploy/kubernetes/turnout/Chart.yaml": r"(?m)^(?:appV|v)ersion: (?P<version>\S+)$",
    "deploy/kubernetes/kserve/cluster-serving-runtime.yaml": r"image: turnout:(?P<version>\S+)",
}
"""The files with the version, and the patterns that find it. All other occurrences are generated from these."""

CHANGELOG = "CHANGELOG.md"
_HEAD = "## [Unreleased]\n"
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}(-[0-9A-Za-z.-]+)?")


class NotReleasable(Exception):
    """Raised when a release cannot be made; the message says why."""


def named(root: Path) -> dict[str, set[str]]:
    """Returns the versions in each file."""
    return {
        place: {match["version"] for match in re.finditer(pattern, (root / place).read_text())}
        for place, pattern in PLACES.items()
    }


def check(root: Path, version: str) -> None:
    """Raises NotReleasable if a file has another version, or the changelog has no section for this one."""
    wrong = [f"{place} names {', '.join(sorted(found))}" for place, found in named(root).items() if found != {version}]
    if wrong:
        raise NotReleasable(f"expected {version} everywhere: {'; '.join(wrong)}")
    notes((root / CHANGELOG).read_text(), version)


def notes(changelog: str, version: str) -> str:
    """Returns the changelog's section of a version. Raises NotReleasable if it is missing or empty."""
    found = re.search(rf"(?ms)^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(?P<text>.*?)(?=^## \[|\Z)", changelog)
    if found is None or not found["text"].strip():
        raise NotReleasable(f"{CHANGELOG} says nothing of {version}")
    return found["text"].strip() + "\n"


def cut(changelog: str, version: str, today: str) -> str:
    """Returns the changelog with the unreleased section moved to the version. Raises NotReleasable if it is empty."""
    if f"## [{version}]" in changelog:
        raise NotReleasable(f"{CHANGELOG} has {version} already")
    released = changelog.replace(_HEAD, f"{_HEAD}\n## [{version}] - {today}\n", 1)
    notes(released, version)
    return released


def write(root: Path, version: str, today: str) -> list[str]:
    """Writes the version and the changelog's section, and returns the changed files."""
    if not _VERSION.fullmatch(version):
        raise NotReleasable(f"expected a semantic version such as 1.2.3 or 1.2.3-rc.1, got {version!r}")
    text = cut((root / CHANGELOG).read_text(), version, today)
    (root / CHANGELOG).write_text(text)
    for place, pattern in PLACES.items():
        before = (root / place).read_text()
        after = re.sub(pattern, lambda match: match[0].replace(match["version"], version), before)
        (root / place).write_text(after)
    return [CHANGELOG, *PLACES]


def _run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603 - fixed


def release(version: str) -> None:
    """Cuts, commits and tags a release. Raises NotReleasable if the tree has changes, or is not on main."""
    if _run("git", "status", "--porcelain"):
        raise NotReleasable("expected a tree without changes: commit or stash them")
    if (branch := _run("git", "branch", "--show-current").strip()) != "main":
        raise NotReleasable(f"expected to be on main, is on {branch or 'no branch'}")
    changed = write(ROOT, version, datetime.now(UTC).date().isoformat())
    _run(sys.executable, "deploy/kubernetes/render.py")
    _run("git", "add", *changed, "deploy/kubernetes")
    _run("git", "commit", "--quiet", "--message", f"Release {version}")
    _run("git", "tag", "--annotate", f"v{version}", "--message", f"Turnout {version}")
    print(f"v{version} is tagged. What is left: git push origin main v{version}")


def main() -> int:
    """Runs the command. Returns 0, or 1 with an error message on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["cut", "check", "notes"])
    parser.add_argument("version", metavar="VERSION", help="without a v")
    arguments = parser.parse_args()
    try:
        if arguments.command == "cut":
            release(arguments.version)
        elif arguments.command == "check":
            check(ROOT, arguments.version)
        else:
            print(notes((ROOT / CHANGELOG).read_text(), arguments.version), end="")
    except NotReleasable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))}: {error.stderr.strip()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
