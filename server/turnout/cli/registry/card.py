"""A version's model card: statements by its publisher, provenance, inputs and outputs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from turnout.cli.registry.description import Content, VersionDescription
from turnout.cli.terminal_text import printable
from turnout.registry.gates.reports import GateAttestation
from turnout.registry.manifest.provenance import Provenance
from turnout.registry.publishing.environment_record import SeenEnvironment
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.text.quantities import size_text

_STATED = ("description", "authors", "licence", "notes")
_ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def provenance_lines(provenance: Provenance) -> list[tuple[str, str]]:
    """Returns the stated provenance as pairs of name and value."""
    training = provenance.training
    pairs = [
        ("trained on", "\n".join(f"{one.name}  {one.digest}" for one in training.datasets)),
        ("code", f"commit {training.commit}" if training.commit else ""),
        ("seed", "" if training.seed is None else str(training.seed)),
        ("hyperparameters", _listed(training.hyperparameters)),
        ("measured", _listed(training.metrics)),
        ("dependencies", f"{provenance.lock.name}  {provenance.lock.digest}" if provenance.lock else ""),
        ("made for", _listed(provenance.environment.to_json())),
        ("made from", ", ".join(provenance.parents)),
    ]
    return [(name, value) for name, value in pairs if value]


def seen_line(seen: SeenEnvironment) -> str:
    """Returns the environment in which a version was published, on one line."""
    what = _listed(seen.environment.to_json())
    carried = ", in another repository" if seen.imported else ""
    return f"{what}, turnout {seen.turnout}, {seen.platform}{carried}; {seen.time}"


def latest_reports(evidence_records: EvidenceRecords) -> list[GateAttestation]:
    """Returns the latest gate reports of a version: the newest made here, and the newest imported."""
    newest = {report.imported: report for report in evidence_records.reports}  # the oldest come first
    return [newest[imported] for imported in (False, True) if imported in newest]


def report_line(report: GateAttestation) -> str:
    """Returns when, where and against which version the gates ran, on one line."""
    against = f"against {report.parent}" if report.parent else "against no other version"
    carried = ", in another repository" if report.imported else ""
    return f"{against}, turnout {report.turnout}{carried}; {report.time}"


def markdown(version: VersionDescription) -> str:
    """Returns the card as a Markdown file. Text by people is escaped, so that it is neither markup nor controls a
    terminal.
    """
    content = version.content
    assert content is not None, "a card needs the manifest, from the disk or from a server's registry"
    manifest, stated = content.manifest, content.manifest.metadata
    lines = [f"# {version.model} {version.version}", ""]
    if description := stated.get("description"):
        lines += [_text(description), ""]
    release_status = f"{version.release_status}{', tagged ' + ', '.join(version.tags) if version.tags else ''}"
    facts = [
        ("digest", f"`{version.digest}`"), ("release status", release_status), ("size", size_text(version.size_bytes)),
    ]  # fmt: skip
    if authors := stated.get("authors"):
        facts.append(("authors", _text(", ".join(map(str, authors)))))
    if licence := stated.get("licence"):
        facts.append(("licence", _text(licence)))
    lines += _table(("", ""), facts)
    if notes := stated.get("notes"):
        lines += ["## Notes", "", _text(notes), ""]
    lines += ["## Inputs and outputs", ""]
    sides = [("in", spec) for spec in version.inputs] + [("out", spec) for spec in version.outputs]
    rows = [
        (side, _text(spec.name), str(spec.dtype), _text(_shape(spec.shape)), "may be left out" * spec.has_default)
        for side, spec in sides
    ]
    lines += _table(("", "name", "type", "shape", ""), rows)
    lines += ["## Provenance", ""]
    lines += _provenance(content)
    lines += ["## Gates", ""]
    lines += _gates(content.evidence_records)
    if free := {name: value for name, value in stated.items() if name not in _STATED}:
        more = [(_text(name), _text(_value(value))) for name, value in free.items()]
        lines += ["## More", "", *_table(("", ""), more)]
    lines += ["## Files", ""]
    files = [(_text(file.path), size_text(file.size), f"`{file.digest}`") for file in manifest.files]
    lines += _table(("path", "size", "digest"), files)
    return printable("\n".join(lines).rstrip() + "\n")


def _provenance(content: Content) -> list[str]:
    rows = [(name, _text(value)) for name, value in provenance_lines(content.manifest.provenance)]
    if content.evidence_records.seen is not None:
        rows.append(("published with", _text(seen_line(content.evidence_records.seen))))
    signed = [f"{key} ({worth})" for key, worth in content.evidence_records.signatures.items()]
    rows.append(("signed by", _text(", ".join(signed) or "nobody")))
    return _table(("", ""), rows)


def _gates(evidence_records: EvidenceRecords) -> list[str]:
    lines: list[str] = []
    for report in latest_reports(evidence_records):
        rows = [(_text(r.gate), str(r.verdict.outcome), _text(r.verdict.evidence)) for r in report.report.results]
        lines += [f"{_text(report_line(report))}", "", *_table(("gate", "outcome", "evidence"), rows)]
    return lines or ["No report is kept.", ""]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def _text(value: object) -> str:
    return "<br>".join(str(value).translate(_ESCAPED).splitlines())


def _shape(shape: Iterable[object]) -> str:
    return "[" + ", ".join("?" if one is None else str(one) for one in shape) + "]"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
