"""Renders the chart into plain manifests, and copies the alert rules into it.

python deploy/kubernetes/render.py           writes manifests/*.yaml, one for each file in values/, and turnout/rules/
python deploy/kubernetes/render.py --check   fails if a committed file is out of date

Needs helm-python-sdk (the `dev` extra), which is Helm as a library.
"""

import argparse
import re
import sys
from pathlib import Path

import helm_python

HERE = Path(__file__).resolve().parent
CHART = HERE / "turnout"
RULES = HERE.parent / "prometheus" / "rules"

_OF_HELM = re.compile(r"^ +(app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: .*)\n", re.MULTILINE)
"""Labels that mark resources as managed by Helm, which these manifests are not."""


def documents(values: str, name: str = "turnout", namespace: str = "turnout") -> dict[str, str]:
    """Returns the manifests that the chart renders for `values` (YAML), by template, without empty ones.

    Raises:
        helm_python.HelmError: The values violate the schema, or contradict each other.
    """
    with helm_python.Chart.load(CHART) as chart:
        given = helm_python.values_from_yaml(values)
        chart.validate_schema(given)
        rendered = chart.render(given, name=name, namespace=namespace)
    return {
        path.rpartition("/")[2]: text.strip() + "\n"
        for path, text in sorted(rendered.items())
        if path.endswith(".yaml") and text.strip()
    }


def wanted() -> dict[Path, str]:
    """Returns the text of each generated file by path. The rules come first, since the other files include them."""
    texts = {CHART / "rules" / rules.name: rules.read_text() for rules in sorted(RULES.glob("*.yml"))}
    for values in sorted((HERE / "values").glob("*.yaml")):
        parts = documents(values.read_text()).values()
        head = f"# Rendered by deploy/kubernetes/render.py from values/{values.name}: change that, or the chart.\n"
        texts[HERE / "manifests" / values.name] = head + "---\n".join(_OF_HELM.sub("", part) for part in parts)
    return texts


def main() -> int:
    """Writes or checks the files. Returns 1 if the check finds a difference, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    texts = wanted()
    present = {path for folder in (CHART / "rules", HERE / "manifests") for path in folder.glob("*.y*ml")}
    if check:
        stale = [p for p in texts.keys() | present if p not in texts or not p.exists() or p.read_text() != texts[p]]
        for path in sorted(stale):
            print(f"{path.relative_to(HERE)} is not what render.py writes", file=sys.stderr)
        return int(bool(stale))
    for path in present - texts.keys():
        path.unlink()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    # Render again, since the manifests include the rules that were just written.
    for path, text in wanted().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
