"""What `turnout publish` prints of a version and of its gates."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.output import facts, size_text, table
from turnout.registry.gate_reports import report_body
from turnout.registry.gates import GateRefused, GateReport, Outcome
from turnout.registry.publish import PublishResult
from turnout.registry.standing import Standing

_STYLES: Mapping[Outcome, str] = {
    Outcome.PASSED: "green",
    Outcome.WARNED: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "dim",
}


def result_body(result: PublishResult, standing: Standing) -> dict[str, Any]:
    """Returns the JSON form of a publish that went through."""
    return {
        "ok": True,
        "model": result.manifest.model,
        "version": str(result.manifest.version),
        "parent": None if result.parent is None else str(result.parent),
        "digest": result.digest,
        "created": result.created,
        "dry_run": result.dry_run,
        "standing": standing,
        "size_bytes": result.manifest.size,
        "gates": _gates_body(result.report),
    }


def refused_body(error: GateRefused) -> dict[str, Any]:
    """Returns the JSON form of a publish that a gate refused."""
    told = report_body(error.candidate, error.report)
    failure = error.report.failure
    assert failure is not None
    return {
        "ok": False,
        "model": told["model"],
        "version": told["version"],
        "parent": None if told["parent"] is None else told["parent"]["version"],
        "digest": told["digest"],
        "created": False,
        "refused_by": failure.gate,
        "gates": told["gates"],
    }


def result_shown(result: PublishResult, standing: Standing) -> list[RenderableType]:
    """Returns what people are shown of a publish that went through."""
    manifest = result.manifest
    done = "would be published" if result.dry_run else "published"
    if not result.created and not result.report.results:
        done = "was published before, the same in every byte"
    pairs: list[tuple[str, RenderableType]] = [("digest", result.digest)]
    if not result.dry_run:
        pairs.append(("standing", standing))
    if result.parent is not None:
        pairs.append(("follows", str(result.parent)))
    pairs += [
        ("files", f"{len(manifest.files)}, {size_text(manifest.size)}"),
        ("inputs", "\n".join(map(str, manifest.signature.inputs))),
        ("outputs", "\n".join(map(str, manifest.signature.outputs))),
    ]
    if result.report.results:
        pairs.append(("gates", gates_table(result.report)))
    if standing == "candidate" and not result.dry_run:
        pairs.append(("next", f"turnout release {manifest.model}@{manifest.version}"))
    return [f"{manifest.model} {manifest.version} {done}", facts(pairs)]


def refused_shown(error: GateRefused) -> list[RenderableType]:
    """Returns what people are shown of a publish that a gate refused."""
    manifest = error.candidate.manifest
    return [
        f"{manifest.model} {manifest.version} is not published",
        facts([("gates", gates_table(error.report))]),
    ]


def gates_table(report: GateReport) -> RenderableType:
    """Returns a line for each gate."""
    return table(
        ("", "", ""),
        (
            (one.gate, Text(one.verdict.outcome, _STYLES[one.verdict.outcome]), one.verdict.evidence)
            for one in report.results
        ),
    )


def _gates_body(report: GateReport) -> list[dict[str, Any]]:
    return [
        {
            "gate": one.gate,
            "outcome": one.verdict.outcome,
            "evidence": one.verdict.evidence,
            "numbers": dict(one.verdict.numbers),
        }
        for one in report.results
    ]
