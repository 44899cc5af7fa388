"""`turnout publish`."""

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.cleanup import unwinding
from turnout.cli.options import ChangeOptions, ReleaseOption, TargetOptions, argument, flag, option
from turnout.cli.output import CommandOutput, ServerRefused, reporting
from turnout.cli.publish.signers import CertificateOption, PassphraseOption, key_signer
from turnout.cli.waiting import progress_notes
from turnout.errors import AlreadyExistsError, InvalidRequest, TurnoutError
from turnout.registry.manifest.names import check_model_name

if TYPE_CHECKING:
    from turnout.cli.publish.publish_view import PublishOutcome, PublishRefusal
    from turnout.cli.workspace import Workspace
    from turnout.registry.publishing.publish import PublishRequest
    from turnout.registry.publishing.publish_options import PublishOptions

REFUSED, TAKEN = 3, 4
"""Exit codes if a gate refuses the version, and if the version number is taken: CI jobs handle these differently."""

_TOLD_SECONDS = 10.0
_ENGINES = "gates run it on TensorRT, which may have to build engines"

_META = """Metadata of the version, in TOML or JSON. Texts: description, licence, notes. Lists: authors, parents.
Tables: training, dependencies, environment, metadata, preprocessing, batching, tolerances, scores, labels."""


def publish(
    name: Annotated[str, argument("NAME", "Name of the model, for example magika.")],
    version: Annotated[
        str, argument("VERSION", "Exact, for example 3.2.0 or 3.3.0-rc.1; `auto` for the smallest valid number.")
    ],
    file: Annotated[
        str,
        argument(
            "FILE", "ONNX file, external data beside it; or file://, s3://, gs://, hf:, mlflow:models:/NAME@ALIAS."
        ),
    ],
    meta: Annotated[Path | None, option("--meta", "FILE", _META)] = None,
    golden: Annotated[
        list[Path] | None, option("--golden", "FILE", "Example inputs and outputs as .npz; may be repeated.")
    ] = None,
    release: ReleaseOption = False,
    sign_key: Annotated[
        Path | None, option("--sign-key", "FILE", "Sign it with this private key, as `turnout sign` does.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    certificate: CertificateOption = None,
    skip_gate: Annotated[
        list[str] | None, option("--skip-gate", "GATE", "Skip a gate; needs --reason. May be repeated.")
    ] = None,
    drop_zipmap: Annotated[
        bool, flag("--drop-zipmap", "Remove the final ZipMap of a scikit-learn classifier, if no answer changes.")
    ] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Run all gates, but publish nothing.")] = False,
    change: ChangeOptions = ChangeOptions(),
    target: TargetOptions = TargetOptions(),
) -> None:
    """Check an ONNX model and put it into the repository as an immutable version.

    Publishing the same content again changes nothing. Running servers load the version at once. Exits with 0 if the
    version now exists (or would, with --dry-run), 3 if a gate refused it, 4 if its number is taken, and 1 for other
    errors.

    `turnout publish iris auto iris.onnx --drop-zipmap --release` publishes what skl2onnx exports by default.
    """
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.gates.gate import Skip
    from turnout.registry.publishing.metadata import VersionMetadata, read_metadata
    from turnout.registry.publishing.publish import PublishRequest
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.sources.source import local_source
    from turnout.registry.transfer.upload_manifest import announced_version

    with reporting(as_json=target.as_json) as out, ExitStack() as stack:
        stack.enter_context(unwinding())
        check_model_name(name)
        if dry_run and release:
            raise InvalidRequest.at("--dry-run", "publishes nothing, so that --release has nothing to release")
        exact = announced_version(version)
        metadata_given = VersionMetadata() if meta is None else read_metadata(meta)
        who = actor_or_login(change.actor)
        key = None if sign_key is None else key_signer(sign_key, passphrase_file, certificate)
        skips = [Skip(gate, change.reason, who) for gate in dict.fromkeys(skip_gate or ())]
        how = PublishOptions(who, change.reason, key, skips, dry_run)
        workspace = Workspace.open(target)
        source = stack.enter_context(local_source(file, workspace.settings.transfers))
        request = PublishRequest(
            name, exact, source.path, metadata=metadata_given.over(source.metadata), golden=tuple(golden or ())
        )
        if drop_zipmap:
            request = _without_zipmap(workspace, request, stack)
        if target.server is None:
            outcome = _publish_here(out, workspace, request, how, release=release)
        else:
            outcome = _publish_to(out, target, request, how, release=release)
        out.show(outcome.to_json(), *outcome.view())


def _without_zipmap(workspace: "Workspace", request: "PublishRequest", stack: ExitStack) -> "PublishRequest":
    from turnout.publishing import without_zipmap
    from turnout.serving.sandbox.fork_server import start_processes

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-"))
    with closing(start_processes()) as processes:
        return without_zipmap(workspace.settings, processes, request, Path(directory))


def _publish_here(
    out: CommandOutput, workspace: "Workspace", request: "PublishRequest", how: "PublishOptions", *, release: bool
) -> "PublishOutcome":
    from turnout.cli.publish.publish_view import PublishOutcome, PublishRefusal, gate_text
    from turnout.registry.gates.gate import GateRefused
    from turnout.registry.publishing.publish import source_size
    from turnout.serving.tensorrt.fallback import builds_engines

    engines = builds_engines(workspace.settings.for_model(request.model).runtime.providers)
    try:
        with (
            workspace.store() as store,  # opened first: if it cannot be used, no unrecorded version may be left behind
            workspace.publisher(store) as publisher,
        ):
            with (
                out.progress("publishing", source_size(request), slow=True) as bar,
                progress_notes(out.note, _ENGINES if engines else "", _TOLD_SECONDS),
            ):
                result = publisher.publish(request, how, bar, lambda gate: bar.say(gate_text(gate, 0.0)))
            return PublishOutcome.of(workspace, store, result, how, release=release)
    except GateRefused as error:
        raise _refused(out, error, PublishRefusal.of(error)) from None
    except AlreadyExistsError as error:
        out.error(error)
        raise typer.Exit(TAKEN) from None


def _publish_to(
    out: CommandOutput, target: TargetOptions, request: "PublishRequest", how: "PublishOptions", *, release: bool
) -> "PublishOutcome":
    from turnout.cli.connection import Server
    from turnout.cli.publish.upload import RefusedByGates, publish_to

    size = request.source.stat().st_size if request.source.is_file() else 0
    try:
        with out.progress("uploading", size, slow=True) as bar:
            return publish_to(Server.named(target), request, how, bar, release=release)
    except RefusedByGates as error:
        raise _refused(out, error, error.refusal) from None
    except ServerRefused as error:
        out.error(error)
        raise typer.Exit(TAKEN if error.kind == "AlreadyExists" else 1) from None


def _refused(out: CommandOutput, error: TurnoutError, refusal: "PublishRefusal") -> typer.Exit:
    """Prints the results of the gates, and returns the exit with which the command ends."""
    out.show(refusal.to_json(), *refusal.view())
    out.error(error)
    return typer.Exit(REFUSED)
