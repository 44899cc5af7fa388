"""`turnout publish`."""

import os
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import Output, facts, reporting, size_text, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from semver import Version

    from turnout.cli.workspace import Workspace
    from turnout.registry.publish import PublishRequest, PublishResult
    from turnout.registry.standing import Standing


_NICENESS = 10
"""Hashing and checking can wait; a server on the same machine cannot."""

_GATES_SECONDS = 3600.0
"""What a server may take to check and publish what was uploaded."""


def publish(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model, for example magika.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Exact, for example 3.2.0 or 3.3.0-rc.1.")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="ONNX file, its external data beside it; or file://, s3://, gs://, hf:, mlflow:models:/NAME@ALIAS.",
        ),
    ],
    meta: Annotated[
        Path | None,
        typer.Option("--meta", metavar="FILE", help="Description, provenance, batching, tolerances; TOML or JSON."),
    ] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option("--golden", metavar="FILE", help="Example inputs and outputs as .npz; may be repeated."),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", metavar="", help="Release it too, as `turnout release` does.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="Publish by stream to the server with this control listener. (default: to the disk)",
            show_default=False,
        ),
    ] = None,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an ONNX model and put it into the repository as an immutable version.

    Publishing the same content again changes nothing. Running servers load it at once.
    """
    os.nice(_NICENESS)  # before what follows is imported: that takes as long as publishing a small model does
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.announcement import Bounds
    from turnout.registry.metadata import VersionMetadata, read_metadata
    from turnout.registry.names import check_model_name, parse_version
    from turnout.registry.publish import PublishRequest
    from turnout.registry.publish import publish as publish_version
    from turnout.registry.sources.source import local_source

    with reporting(as_json=as_json) as out, ExitStack() as stack:
        check_model_name(name)
        exact = parse_version(version)
        said = VersionMetadata() if meta is None else read_metadata(meta)
        workspace = Workspace.open(models, state, config)
        transfers = workspace.settings.transfers
        bounds = Bounds(int(transfers.max_file_bytes), int(transfers.max_upload_bytes))
        source = stack.enter_context(local_source(file, bounds))
        request = PublishRequest(
            name,
            exact,
            source.path,
            metadata=said.over(source.metadata),
            golden=tuple(golden or ()),
        )
        if server is not None:
            _publish_to(out, server, request, release=release, actor=actor_or_login(actor), reason=reason)
            return
        # Before the copy: a store that cannot be used must not leave a version behind that was meant to be released.
        with workspace.store() if release else nullcontext() as store:
            size = source.path.stat().st_size if source.path.is_file() else 0
            with out.progress("publishing", size) as advance:
                result = publish_version(
                    workspace.repository, request, yanked=lambda: yanked_versions(workspace, name), progress=advance
                )
            if store is not None:
                store.release(name, request.version, actor=actor_or_login(actor), reason=reason)
        standing = workspace.declared().of(name).standing(request.version)
        out.show(publish_body(result, standing), *publish_shown(result, standing))


def _publish_to(out: Output, server: str, request: "PublishRequest", *, release: bool, actor: str, reason: str) -> None:
    from turnout.cli.connection import Server
    from turnout.cli.upload import Wish, publish_to

    size = request.source.stat().st_size if request.source.is_file() else 0
    with out.progress("uploading", size) as advance:
        wish = Wish(release, actor, reason, _GATES_SECONDS)
        result, standing = publish_to(Server.named(server, None), request, wish, advance)
    out.show(publish_body(result, standing), *publish_shown(result, standing))


def yanked_versions(workspace: "Workspace", name: str) -> "list[Version]":
    """Returns the versions of a model that were yanked."""
    from turnout.registry.standing import Standing

    standings = workspace.declared().of(name).standings
    return [version for version, standing in standings.items() if standing is Standing.YANKED]


def publish_body(result: "PublishResult", standing: "Standing") -> dict[str, object]:
    """Returns what was published as JSON values."""
    return {
        "model": result.manifest.model,
        "version": str(result.manifest.version),
        "digest": result.digest,
        "created": result.created,
        "standing": standing,
        "size_bytes": result.manifest.size,
        "gates": [
            {"gate": one.gate, "outcome": one.verdict.outcome, "evidence": one.verdict.evidence}
            for one in result.report.results
        ],
    }


def publish_shown(result: "PublishResult", standing: "Standing") -> "list[RenderableType]":
    """Returns what was published, for people."""
    manifest = result.manifest
    done = "published" if result.created else "was published before, the same in every byte"
    pairs: list[tuple[str, RenderableType]] = [
        ("digest", result.digest),
        ("standing", standing),
        ("files", f"{len(manifest.files)}, {size_text(manifest.size)}"),
        ("inputs", "\n".join(map(str, manifest.signature.inputs))),
        ("outputs", "\n".join(map(str, manifest.signature.outputs))),
    ]
    if result.report.results:
        gates = [(one.gate, Text(one.verdict.outcome, "green"), one.verdict.evidence) for one in result.report.results]
        pairs.append(("gates", table(("", "", ""), gates)))
    if standing == "candidate":
        pairs.append(("next", f"turnout release {manifest.model}@{manifest.version}"))
    return [f"{manifest.model} {manifest.version} {done}", facts(pairs)]
