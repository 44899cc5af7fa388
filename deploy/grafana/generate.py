"""Writes the dashboards in Grafana's format.

python deploy/grafana/generate.py           writes deploy/grafana/dashboards/*.json
python deploy/grafana/generate.py --check   fails if a committed file is out of date
"""

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from board_model import model
from board_overview import overview
from board_resources import resources
from board_rollout import rollout
from board_shadow import shadow

BOARDS = {"overview": overview, "model": model, "rollout": rollout, "shadow": shadow, "resources": resources}
TARGET = Path(__file__).parent / "dashboards"


def rendered() -> dict[Path, str]:
    """Returns the text of each dashboard by path."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {TARGET / f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}


def main() -> int:
    """Writes or checks the dashboards. Returns 1 if the check finds a difference, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    wanted = rendered()
    present = {path: path.read_text() for path in TARGET.glob("*.json")}
    if check:
        differing = sorted(p.name for p in wanted.keys() | present.keys() if wanted.get(p) != present.get(p))
        if differing:
            print(f"not what generate.py makes: {', '.join(differing)}", file=sys.stderr)
        return int(bool(differing))
    TARGET.mkdir(exist_ok=True)
    for path in present.keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
