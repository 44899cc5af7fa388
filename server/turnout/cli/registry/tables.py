"""Shows versions and changes as tables."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from turnout.cli.output import facts, table
from turnout.cli.publish.gates_view import gates_table
from turnout.cli.registry.card import latest_reports, provenance_lines, report_line, seen_line
from turnout.cli.registry.description import VersionDescription
from turnout.registry.manifest.manifest import metadata_text
from turnout.text.quantities import seconds_text, size_text

_STYLES = {"released": "green", "yanked": "red", "ready": "green", "failed": "bold red"}
_DIGEST_SHOWN = len("sha256:") + 12


def versions_table(versions: Sequence[VersionDescription]) -> Table:
    """Returns a table with a row for each version, including its state if a server reported it."""
    live = any(version.live for version in versions)
    columns = ["MODEL", "VERSION", "DEFAULT", "RELEASE STATUS", *(["STATE"] if live else []), "TAGS", "SIZE", "DIGEST"]
    rows = []
    for version in versions:
        row: list[RenderableType] = [
            version.model, version.version, "default" if version.default else "", _styled(version.release_status),
            ", ".join(version.tags), size_text(version.size_bytes), version.digest[:_DIGEST_SHOWN],
        ]  # fmt: skip
        if live:
            row.insert(4, _styled(version.live.state if version.live else ""))
        rows.append(row)
    return table(columns, rows, right=["SIZE"], cut=["DIGEST"])


def details(version: VersionDescription) -> Table:
    """Returns a table with all details of one version."""
    because = f": {version.content.yanked}" if version.content and version.content.yanked else ""
    pairs: list[tuple[str, RenderableType]] = [
        ("version", f"{version.model} {version.version}"),
        ("digest", version.digest),
        ("release status", Text.assemble(_styled(version.release_status), because)),
        ("tags", ", ".join(version.tags) or "none"),
    ]
    if live := version.live:
        reason = f": {live.reason}" if live.reason else ""
        pairs.append(("state", Text.assemble(_styled(live.state), reason)))
        if live.providers:
            pairs.append(("runs on", ", ".join(live.providers)))
            pairs.append(("loaded in", seconds_text(live.load_seconds)))
        if live.isolation:
            pairs.append(("isolation", live.isolation))
        if live.cuda_graphs:
            pairs.append(("CUDA graphs", live.cuda_graphs))
        if live.tensorrt:
            pairs.append(("TensorRT", live.tensorrt))
    pairs.append(("inputs", "\n".join(f"{s}{' (may be left out)' if s.has_default else ''}" for s in version.inputs)))
    pairs.append(("outputs", "\n".join(map(str, version.outputs))))
    if version.batching:
        rows = version.live.max_batch_rows if version.live else 0
        pairs.append(("batching", f"up to {rows} rows; {version.batching}" if rows else version.batching))
    if content := version.content:
        manifest = content.manifest
        signed = [f"{key} ({worth})" for key, worth in content.evidence_records.signatures.items()]
        pairs.append(("signed by", ", ".join(signed) or "not signed"))
        files = [(file.path, size_text(file.size), file.digest[:_DIGEST_SHOWN]) for file in manifest.files]
        pairs.append(("files", table(("", "", ""), files)))
        pairs.append(("operators", ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in manifest.opset.items())))
        for name, tolerance in manifest.tolerances.items():
            pairs.append(("tolerance", f"{name}: {tolerance.atol:g} + {tolerance.rtol:g} x expected"))
        pairs += [(name, metadata_text(value)) for name, value in manifest.metadata.items()]
        pairs += provenance_lines(manifest.provenance)
        if content.evidence_records.seen is not None:
            pairs.append(("published with", seen_line(content.evidence_records.seen)))
        for report in latest_reports(content.evidence_records):
            pairs += [("gates ran", report_line(report)), ("gates", gates_table(report.report))]
    else:
        pairs.append(("size", size_text(version.size_bytes)))
    return facts(pairs)


def _styled(word: str) -> Text:
    return Text(word, _STYLES.get(word, ""))
