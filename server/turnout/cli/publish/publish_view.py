"""Shows the result of `turnout publish`, and of its gates."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.console import RenderableType

from turnout.cli.output import facts
from turnout.cli.publish.gates_view import gates_table
from turnout.cli.releases.answers_view import answers_body, answers_lines
from turnout.registry.gates.gate import GateRefused, GateReport
from turnout.registry.publishing.publish import PublishResult
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.routing.default_answers import RoutingTable
from turnout.state.release_status import ReleaseStatus
from turnout.text.quantities import progress_text, size_text

if TYPE_CHECKING:  # these import SQLAlchemy, which a publish to a server does not need
    from turnout.cli.workspace import Workspace
    from turnout.state.store import StateStore


@dataclass(frozen=True, slots=True)
class Released:
    """The release made by `turnout publish --release`.

    Attributes:
        sentence: What the release did, for display.
        answers: The versions that answer from now on.
    """

    sentence: str
    answers: RoutingTable


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """A successful publish.

    Attributes:
        released: The release, if one was requested.
    """

    result: PublishResult
    release_status: ReleaseStatus
    released: Released | None = None

    @classmethod
    def of(
        cls, workspace: "Workspace", store: "StateStore", result: PublishResult, how: PublishOptions, *, release: bool
    ) -> Self:
        """Returns the outcome of a publish by this process. Releases the version first if `release` is true."""
        from turnout.rollout.changes.operations import Operations

        model, version, released = result.manifest.model, result.manifest.version, None
        if release:
            operations = Operations(workspace.repository, store)
            done = operations.release_published(model, version, actor=how.actor, reason=how.reason)
            released = Released(done.sentence, done.answers)
        return cls(result, store.release_state().of(model).release_status(version), released)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        result = self.result
        body = {
            "ok": True,
            "model": result.manifest.model,
            "version": str(result.manifest.version),
            "parent": None if result.parent is None else str(result.parent),
            "digest": result.digest,
            "created": result.created,
            "dry_run": result.dry_run,
            "standing": self.release_status,
            "size_bytes": result.manifest.size,
            "gates": result.report.to_json()["gates"],
        }
        return body if self.released is None else body | {"answers": answers_body(self.released.answers)}

    def view(self) -> list[RenderableType]:
        """Returns the lines and tables to print."""
        result, manifest = self.result, self.result.manifest
        done = "would be published" if result.dry_run else "published"
        if not result.created and not result.report.results:
            done = "was published before with exactly this content"
        pairs: list[tuple[str, RenderableType]] = [("digest", result.digest)]
        if not result.dry_run:
            pairs.append(("release status", self.release_status))
        if result.parent is not None:
            pairs.append(("follows", str(result.parent)))
        pairs += [
            ("files", f"{len(manifest.files)}, {size_text(manifest.size)}"),
            ("inputs", "\n".join(map(str, manifest.signature.inputs))),
            ("outputs", "\n".join(map(str, manifest.signature.outputs))),
        ]
        if result.report.results:
            pairs.append(("gates", gates_table(result.report)))
        if self.release_status == "candidate" and not result.dry_run:
            pairs.append(("next", f"turnout release {manifest.model}@{manifest.version}"))
        view: list[RenderableType] = [f"{manifest.model} {manifest.version} {done}", facts(pairs)]
        if self.released is not None:
            view += [*filter(None, [self.released.sentence]), *answers_lines(self.released.answers)]
        return view


@dataclass(frozen=True, slots=True)
class PublishRefusal:
    """A publish that a gate refused.

    Attributes:
        version, digest: Version number and digest that the version would have had.
        parent: Version that it was compared with; None if there is no lower one.
    """

    model: str
    version: str
    parent: str | None
    digest: str
    report: GateReport

    @classmethod
    def of(cls, error: GateRefused) -> Self:
        """Returns the refusal by a gate that this process ran."""
        candidate = error.candidate
        parent = None if candidate.parent is None else str(candidate.parent.manifest.version)
        manifest = candidate.manifest
        return cls(manifest.model, str(manifest.version), parent, candidate.digest, error.report)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        failure = self.report.failure
        return {
            "ok": False,
            "model": self.model,
            "version": self.version,
            "parent": self.parent,
            "digest": self.digest,
            "created": False,
            "refused_by": None if failure is None else failure.gate,
            "gates": self.report.to_json()["gates"],
        }

    def view(self) -> list[RenderableType]:
        """Returns the lines and tables to print."""
        return [f"{self.model} {self.version} is not published", facts([("gates", gates_table(self.report))])]


def gate_text(gate: str, seconds: float) -> str:
    """Returns the text beside the progress bar while a gate runs, and for how long if that is a second or more. `gate`
    is "" before the first one.
    """
    stage = f"publishing: gate {gate}" if gate else "publishing"
    return progress_text(stage, seconds) if seconds >= 1 else stage
