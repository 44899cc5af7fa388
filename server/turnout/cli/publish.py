"""`turnout publish`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnout.cli.workspace import Workspace
    from turnout.registry.comparison import Comparison
    from turnout.registry.gates import Gate

AUTO = "auto"
"""Written for the version, has it chosen."""

REFUSED, TAKEN = 3, 4
"""Exit codes of a gate's refusal and of a number that other content has: a CI job acts on the difference."""

_NICENESS = 10
"""Hashing and checking can wait; a server on the same machine cannot."""


def publish(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model, for example magika.")],
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION", help="Exact, for example 3.2.0 or 3.3.0-rc.1; `auto` for the smallest legal one."
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file; its external data lies beside it.")],
    meta: Annotated[
        Path | None,
        typer.Option("--meta", metavar="FILE", help="Description, authors, batching, tolerances; TOML or JSON."),
    ] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option("--golden", metavar="FILE", help="Example inputs and outputs as .npz; may be repeated."),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", metavar="", help="Release it too, as `turnout release` does.")
    ] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option("--sign-key", metavar="FILE", help="Sign it with this private key, as `turnout sign` does."),
    ] = None,
    skip_gate: Annotated[
        list[str] | None,
        typer.Option("--skip-gate", metavar="GATE", help="Do without a gate; needs --reason. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Run every gate, and publish nothing.")
    ] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check an ONNX model and put it into the repository as an immutable version.

    Publishing the same content again changes nothing. Running servers load it at once. Ends with 0 where the version
    exists now (or would, with --dry-run), 3 where a gate refused it, 4 where its number is taken, 1 for other errors.
    """
    os.nice(_NICENESS)  # before what follows is imported: that takes as long as publishing a small model does
    from turnout.cli.publish_view import refused_body, refused_shown, result_body, result_shown
    from turnout.cli.signer import Signer
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.errors import AlreadyExists, InvalidRequest
    from turnout.registry.gates import GateRefused, Skip
    from turnout.registry.metadata import VersionMetadata, read_metadata
    from turnout.registry.names import check_model_name, parse_version
    from turnout.registry.publish import PublishRequest, source_size
    from turnout.registry.publish import publish as publish_version
    from turnout.routing.adoption import Recorder

    with reporting(as_json=as_json) as out:
        check_model_name(name)
        if not file.exists():
            raise InvalidRequest.at("FILE", f"there is no {file}")
        if dry_run and release:
            raise InvalidRequest.at("--dry-run", "publishes nothing, so that --release has nothing to release")
        request = PublishRequest(
            name,
            None if version == AUTO else parse_version(version),
            file,
            metadata=VersionMetadata() if meta is None else read_metadata(meta),
            golden=tuple(golden or ()),
        )
        who = actor_or_login(actor)
        skips = [Skip(gate, reason, who) for gate in dict.fromkeys(skip_gate or ())]
        workspace = Workspace.open(models, state, config)
        gates, comparison = _gates(workspace, name)
        signing = Signer.of(workspace, name, sign_key)
        try:
            # Before the copy: a store that cannot be used must not leave a version behind that nobody recorded.
            with workspace.store() as store:
                recorder = Recorder(workspace.repository, store, who, reason)
                with out.progress("publishing", source_size(request)) as advance:
                    result = publish_version(
                        workspace.repository,
                        request,
                        gates=(*gates, *signing.gates),
                        skips=skips,
                        comparison=comparison,
                        dry_run=dry_run,
                        attest=signing.attest,
                        yanked=lambda: recorder.yanked(name),
                        recorded=recorder.record,
                        progress=advance,
                    )
                if not dry_run:
                    recorder.settle(result.created)
                    signing.record(store, result, who, reason)
                    if release:
                        store.release(name, result.manifest.version, actor=who, reason=reason)
                standing = store.declared().of(name).standing(result.manifest.version)
        except GateRefused as error:
            out.show(refused_body(error), *refused_shown(error))
            out.error(error)
            raise typer.Exit(REFUSED) from None
        except AlreadyExists as error:
            out.error(error)
            raise typer.Exit(TAKEN) from None
        out.show(result_body(result, standing), *result_shown(result, standing))


def _gates(workspace: "Workspace", name: str) -> "tuple[Sequence[Gate], Comparison]":
    """Puts together what a version of `name` has to pass."""
    from turnout.registry.comparison import Comparison
    from turnout.registry.gates.plan import read_plan
    from turnout.registry.gates.standard import standard_gates
    from turnout.serving.trial import TrialLab

    lab = TrialLab(workspace.settings.for_model(name))
    comparison = Comparison(lab)
    return standard_gates(read_plan(workspace.settings.models, name), lab, comparison), comparison
