"""Writes the pages of the reference from the code that they describe.

python docs/reference/generate.py           writes docs/reference/*.md
python docs/reference/generate.py --check   fails where a committed page is not what the code says
"""

import argparse
import sys
from pathlib import Path

from cli_pages import cli_page
from metrics_pages import metrics_page
from protocol_pages import protocol_page
from settings_pages import settings_page

PAGES = {"cli": cli_page, "settings": settings_page, "protocol": protocol_page, "metrics": metrics_page}
TARGET = Path(__file__).parent


def rendered() -> dict[Path, str]:
    """Returns the text of each page by its file."""
    return {TARGET / f"{name}.md": make() for name, make in PAGES.items()}


def main() -> int:
    """Returns 0, or 1 where the check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    wanted = rendered()
    present = {path: path.read_text() for path in TARGET.glob("*.md")}
    if check:
        differing = sorted(p.name for p in wanted.keys() | present.keys() if wanted.get(p) != present.get(p))
        for name in differing:
            print(f"docs/reference/{name} is not what the code says: run `make reference`", file=sys.stderr)
        return int(bool(differing))
    for path in present.keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
