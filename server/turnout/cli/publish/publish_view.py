"""Shows the result of `turnout publish`, and of its gates."""

from dataclasses import dataclass
from typing import Any, Self

from rich.console import RenderableType

from turnout.cli.answers_view import answers_body, answers_line
from turnout.cli.output import facts, size_text
from turnout.cli.publish.gates_view import gates_table
from turnout.registry.gates import GateRefused, GateReport, GateResult
from turnout.registry.gates.reports import report_json
from turnout.registry.publishing.publish import PublishResult
from turnout.routing.default_answers import RoutingTable
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class Released:
    """The release that `turnout publish --release` made.

    Attributes:
        sentence: What it did, for people.
        answers: Which versions answer from now on.
    """

    sentence: str
    answers: RoutingTable


def result_body(
    result: PublishResult, release_status: ReleaseStatus, released: Released | None = None
) -> dict[str, Any]:
    """Returns a successful publish, and its release, as JSON values."""
    body = {
        "ok": True,
        "model": result.manifest.model,
        "version": str(result.manifest.version),
        "parent": None if result.parent is None else str(result.parent),
        "digest": result.digest,
        "created": result.created,
        "dry_run": result.dry_run,
        "standing": release_status,
        "size_bytes": result.manifest.size,
        "gates": report_json(result.report)["gates"],
    }
    return body if released is None else body | {"answers": answers_body(released.answers)}


@dataclass(frozen=True, slots=True)
class PublishRefusal:
    """A publish that a gate refused.

    Attributes:
        model: The model's name.
        version, digest: Those that the version would have had.
        parent: The version that it was compared with; None if there is no lower one.
        report: The results of the gates.
    """

    model: str
    version: str
    parent: str | None
    digest: str
    report: GateReport

    @classmethod
    def of(cls, error: GateRefused) -> Self:
        """Returns the refusal of a gate that ran here."""
        candidate = error.candidate
        parent = None if candidate.parent is None else str(candidate.parent.manifest.version)
        manifest = candidate.manifest
        return cls(manifest.model, str(manifest.version), parent, candidate.digest, error.report)

    def to_json(self) -> dict[str, Any]:
        """Returns its JSON form."""
        failure = self.report.failure
        return {
            "ok": False,
            "model": self.model,
            "version": self.version,
            "parent": self.parent,
            "digest": self.digest,
            "created": False,
            "refused_by": None if failure is None else failure.gate,
            "gates": report_json(self.report)["gates"],
        }

    def view(self) -> list[RenderableType]:
        """Returns it for people."""
        return [f"{self.model} {self.version} is not published", facts([("gates", gates_table(self.report))])]


def result_view(
    result: PublishResult, release_status: ReleaseStatus, released: Released | None = None
) -> list[RenderableType]:
    """Returns a successful publish, and its release, for people."""
    manifest = result.manifest
    done = "would be published" if result.dry_run else "published"
    if not result.created and not result.report.results:
        done = "was published before with exactly this content"
    pairs: list[tuple[str, RenderableType]] = [("digest", result.digest)]
    if not result.dry_run:
        pairs.append(("release status", release_status))
    if result.parent is not None:
        pairs.append(("follows", str(result.parent)))
    pairs += [
        ("files", f"{len(manifest.files)}, {size_text(manifest.size)}"),
        ("inputs", "\n".join(map(str, manifest.signature.inputs))),
        ("outputs", "\n".join(map(str, manifest.signature.outputs))),
    ]
    if result.report.results:
        pairs.append(("gates", gates_table(result.report)))
    if release_status == "candidate" and not result.dry_run:
        pairs.append(("next", f"turnout release {manifest.model}@{manifest.version}"))
    view: list[RenderableType] = [f"{manifest.model} {manifest.version} {done}", facts(pairs)]
    if released is not None:
        view += [line for line in (released.sentence, answers_line(released.answers)) if line]
    return view


def gate_text(gate: GateResult) -> str:
    """Returns the text beside the progress bar once a gate has ended, while the next one runs."""
    return f"publishing: {gate.gate} {gate.verdict.outcome}"
