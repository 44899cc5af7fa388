"""`turnout publish`."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.cleanup import unwinding
from turnout.cli.options import ChangeOptions, ReleaseOption, TargetOptions, argument, flag, option, server_option
from turnout.cli.output import CommandOutput, reporting
from turnout.cli.publish.signers import CertificateOption, PassphraseOption, key_signer

if TYPE_CHECKING:
    from turnout.cli.workspace import Workspace
    from turnout.registry.publishing.publish import PublishRequest
    from turnout.registry.publishing.publish_options import PublishOptions

REFUSED, TAKEN = 3, 4
"""Exit codes if a gate refuses the version, and if its number is taken: a CI job handles them differently."""

_GATES_SECONDS = 3600.0
_TOLD_SECONDS = 10.0
_ENGINES = "gates run it on TensorRT, which may have to build engines"

_META = """What you state about it, in TOML or JSON. Texts: description, licence, notes. Lists: authors, parents.
Tables: training, dependencies, environment, metadata, preprocessing, batching, tolerances, scores, labels."""


class _PublishTarget(TargetOptions):
    server: Annotated[
        str | None, server_option("Publish by stream to the server with this control listener. (default: to the disk)")
    ] = None


def publish(
    name: Annotated[str, argument("NAME", "The model, for example magika.")],
    version: Annotated[
        str, argument("VERSION", "Exact, for example 3.2.0 or 3.3.0-rc.1; `auto` for the smallest legal one.")
    ],
    file: Annotated[
        str,
        argument(
            "FILE", "ONNX file, its external data beside it; or file://, s3://, gs://, hf:, mlflow:models:/NAME@ALIAS."
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
        bool, flag("--drop-zipmap", "Remove the ZipMap that scikit-learn's classifiers end in, if no answer changes.")
    ] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Run every gate, and publish nothing.")] = False,
    change: ChangeOptions = ChangeOptions(),
    target: _PublishTarget = _PublishTarget(),
) -> None:
    """Check an ONNX model and put it into the repository as an immutable version.

    Publishing the same content again changes nothing. Running servers load it at once. Exits with 0 if the version
    exists now (or would, with --dry-run), 3 if a gate refused it, 4 if its number is taken, and 1 for other errors.

    `turnout publish iris auto iris.onnx --drop-zipmap --release` publishes what skl2onnx exports by default.
    """
    from turnout.cli.publish.publish_view import PublishRefusal, Released, gate_text, result_body, result_view
    from turnout.cli.waiting import progress_notes
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.errors import AlreadyExistsError, InvalidRequest
    from turnout.publishing import Publisher
    from turnout.registry.gates import GateRefused, Skip
    from turnout.registry.manifest.names import check_model_name
    from turnout.registry.publishing.metadata import VersionMetadata, read_metadata
    from turnout.registry.publishing.publish import PublishRequest, source_size
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.sources.source import local_source
    from turnout.registry.transfer.upload_manifest import Bounds, announced_version
    from turnout.rollout.changes.operations import Operations
    from turnout.serving.sandbox.fork_server import start_processes
    from turnout.serving.tensorrt.fallback import builds_engines

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
        transfers = workspace.settings.transfers
        bounds = Bounds(int(transfers.max_file_bytes), int(transfers.max_upload_bytes))
        source = stack.enter_context(local_source(file, bounds))
        request = PublishRequest(
            name, exact, source.path, metadata=metadata_given.over(source.metadata), golden=tuple(golden or ())
        )
        if drop_zipmap:
            request = _without_zipmap(workspace, request, stack)
        if target.server is not None:
            _publish_to(out, target, request, how, release=release)
            return
        try:
            # Before the copy: if the store cannot be used, no unrecorded version may stay behind.
            with workspace.store() as store:
                processes = start_processes()
                stack.callback(processes.close)
                publisher = Publisher(workspace.settings, workspace.repository, store, processes)
                engines = builds_engines(workspace.settings.for_model(name).runtime.providers)
                with (
                    out.progress("publishing", source_size(request), slow=True) as bar,
                    progress_notes(out.note, _ENGINES if engines else "", _TOLD_SECONDS),
                ):
                    result = publisher.publish(request, how, bar, lambda gate: bar.say(gate_text(gate)))
                released = None
                if release:
                    done = Operations(workspace.repository, store).release_published(
                        name, result.manifest.version, actor=who, reason=change.reason
                    )
                    released = Released(done.sentence, done.answers)
                release_status = store.release_state().of(name).release_status(result.manifest.version)
        except GateRefused as error:
            refusal = PublishRefusal.of(error)
            out.show(refusal.to_json(), *refusal.view())
            out.error(error)
            raise typer.Exit(REFUSED) from None
        except AlreadyExistsError as error:
            out.error(error)
            raise typer.Exit(TAKEN) from None
        out.show(result_body(result, release_status, released), *result_view(result, release_status, released))


def _without_zipmap(workspace: "Workspace", request: "PublishRequest", stack: ExitStack) -> "PublishRequest":
    from turnout.publishing import without_zipmap
    from turnout.serving.sandbox.fork_server import start_processes

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-"))
    processes = start_processes()
    try:
        return without_zipmap(workspace.settings, processes, request, Path(directory))
    finally:
        processes.close()


def _publish_to(
    out: CommandOutput, target: TargetOptions, request: "PublishRequest", how: "PublishOptions", *, release: bool
) -> None:
    from turnout.cli.connection import Server
    from turnout.cli.output import ServerRefused
    from turnout.cli.publish.publish_view import PublishRefusal, result_body, result_view
    from turnout.cli.publish.upload import RefusedByGates, UploadOptions, publish_to

    size = request.source.stat().st_size if request.source.is_file() else 0
    try:
        with out.progress("uploading", size) as advance:
            options = UploadOptions(how, release, _GATES_SECONDS)
            result, release_status, released = publish_to(Server.named(target), request, options, advance)
    except RefusedByGates as error:
        details = error.version
        refusal = PublishRefusal(request.model, details.version, details.parent or None, details.digest, error.report)
        out.show(refusal.to_json(), *refusal.view())
        out.error(error)
        raise typer.Exit(REFUSED) from None
    except ServerRefused as error:
        out.error(error)
        raise typer.Exit(TAKEN if error.kind == "AlreadyExists" else 1) from None
    out.show(result_body(result, release_status, released), *result_view(result, release_status, released))
