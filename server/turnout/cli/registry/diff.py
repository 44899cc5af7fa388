"""`turnout diff`."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from rich.console import RenderableType

from turnout.cli.cleanup import unwinding
from turnout.cli.options import DiskTarget, argument
from turnout.cli.output import facts, reporting, table
from turnout.errors import InvalidRequest
from turnout.text.quantities import seconds_text, size_text

if TYPE_CHECKING:
    from turnout.cli.workspace import Workspace
    from turnout.registry.compatibility.agreement import AnswerAgreement
    from turnout.registry.compatibility.sandbox import SandboxVersion
    from turnout.registry.diff.version_diff import VersionDiff

_TOP_CHANGED = 10


def diff(
    old: Annotated[str, argument("NAME@A", "The older version, for example magika@3.2.0.")],
    new: Annotated[str, argument("NAME@B", "The newer version, for example magika@3.3.0.")],
    target: DiskTarget = DiskTarget(),
) -> None:
    """Compare two versions: signature, weights, metadata, answers, latency.

    Both run on the golden cases that fit them and on synthetic inputs. They may belong to different models.
    """
    from turnout.cli.workspace import Workspace
    from turnout.registry.diff.version_diff import diff_body, diff_versions
    from turnout.serving.sandbox.fork_server import start_processes
    from turnout.serving.sandbox.sandbox import ProcessSandbox

    with reporting(as_json=target.as_json) as out, unwinding():
        workspace = Workspace.open(target)
        before, after = (_chosen(workspace, text) for text in (old, new))
        with closing(start_processes()) as processes:
            sandbox = ProcessSandbox(workspace.settings.for_model(after.manifest.model), processes)
            found = diff_versions(before, after, sandbox)
        out.show(diff_body(found), *_view(found))


def _chosen(workspace: "Workspace", text: str) -> "SandboxVersion":
    from turnout.cli.workspace import ModelVersions, split_reference
    from turnout.registry.compatibility.sandbox import SandboxVersion
    from turnout.routing.selection.selector import parse

    name, selector = split_reference(text)
    if selector is None:
        raise InvalidRequest.at("version", f"expected NAME@VERSION, such as {name}@3.2.0, got {text[:128]!r}")
    with workspace.named():
        known = ModelVersions.of(name, workspace.scan(), workspace.release_state())
        published = known.resolve(parse(selector))
    # The files must be those that were published.
    version = published.manifest.version
    workspace.repository.verify(name, version, expected=published.digest)
    return SandboxVersion(workspace.repository.fetch(name, version), published.manifest)


def _view(found: "VersionDiff") -> "list[RenderableType]":
    changes = [(str(c.bump).upper(), c.subject, c.reason) for c in found.difference.changes]
    weights = found.weights
    pairs: list[tuple[str, RenderableType]] = [
        ("bump", f"at least {found.difference.bump.name}"),
        ("changes", table(("", "", ""), changes) if changes else "none that clients could see"),
        (
            "weights",
            f"{len(weights.changed)} of {weights.tensors} tensors changed"
            f" ({size_text(weights.changed_size)} of {size_text(weights.size)}), {len(weights.new)} new,"
            f" {len(weights.gone)} gone, {weights.renamed} renamed",
        ),
    ]
    if weights.changed:
        top = [
            (c.name, str(list(c.shape)), "another shape or type" if c.relative is None else f"{c.relative:.2%}")
            for c in weights.changed[:_TOP_CHANGED]
        ]
        pairs.append(("most changed", table(("TENSOR", "SHAPE", "LARGEST CHANGE"), top, right=("LARGEST CHANGE",))))
    if found.stated:
        rows = [(one.name, *(_value(one.name, value) for value in (one.old, one.new))) for one in found.stated]
        pairs.append(("stated", table(("", str(found.old.version), str(found.new.version)), rows)))
    pairs += [("golden cases", _agreement(found.golden)), ("synthetic inputs", _agreement(found.synthetic))]
    if latency_comparison := found.latency_comparison:
        times = [
            _times(name, *values) for name, values in (("p50", latency_comparison.p50), ("p99", latency_comparison.p99))
        ]
        pairs.append(
            (
                "CPU time" if latency_comparison.busy else "latency",
                table(("", str(found.old.version), str(found.new.version), "RATIO"), times),
            )
        )
    if found.peak_bytes is not None:
        pairs.append(("peak memory", " and ".join(map(size_text, found.peak_bytes))))
    if found.trouble:
        pairs.append(("not run", found.trouble))
    title = f"{found.old.model} {found.old.version} and {found.new.model} {found.new.version}"
    return [title, facts(pairs)]


def _times(name: str, new: float, old: float) -> tuple[str, ...]:
    return name, seconds_text(old), seconds_text(new), f"{new / max(old, 1e-9):.2f} x"


def _agreement(agreement: "AnswerAgreement | None") -> str:
    if agreement is None or not agreement.examples:
        return "none that both accept"
    outcome = "all within tolerance" if agreement.within else "not within tolerance"
    furthest = f", at most {agreement.largest:.3g} apart ({agreement.furthest})" if agreement.furthest else ""
    return f"{agreement.examples} answered by both, {outcome}{furthest}"


def _value(name: str, value: object) -> str:
    if name == "size" and isinstance(value, int):
        return size_text(value)
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."
