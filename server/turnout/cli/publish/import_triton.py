"""`turnout import triton`."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from turnout.cli.cleanup import unwinding
from turnout.cli.options import ChangeOptions, DiskTarget, argument, flag, option
from turnout.cli.output import CommandOutput, reporting, table
from turnout.errors import ConfigError, InvalidRequest, TurnoutError

if TYPE_CHECKING:
    from turnout.cli.workspace import Workspace
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.triton.mapping import MappedField
    from turnout.registry.triton.tree import TritonModel
    from turnout.state.store import StateStore

NOT_ALL = 3
"""Exit code if a model or a version was not imported."""


@dataclass(frozen=True, slots=True)
class _Version:
    """The result for one version.

    Attributes:
        outcome: `published`, `was there` (already published), `would be published` or `refused`.
    """

    number: int
    outcome: str
    digest: str = ""
    release_status: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        optional = {"digest": self.digest, "standing": self.release_status, "reason": self.reason}
        known = {"number": self.number, "version": f"{self.number}.0.0", "outcome": self.outcome}
        return known | {key: value or None for key, value in optional.items()}


@dataclass(slots=True)
class _Imported:
    """The result for one model."""

    model: "TritonModel"
    rows: "Sequence[MappedField]"
    versions: list[_Version] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Returns whether every version of the model was imported."""
        return not self.model.fault and all(version.outcome != "refused" for version in self.versions)


def import_triton(
    directory: Annotated[Path, argument("DIR", "The Triton model repository, or one model's directory in it.")],
    model: Annotated[list[str] | None, option("--model", "NAME", "Only this model; may be repeated.")] = None,
    release: Annotated[
        bool, typer.Option("--release/--no-release", help="Release the versions that Triton would serve.")
    ] = True,
    dry_run: Annotated[bool, flag("--dry-run", "Run all gates and list the results, but publish nothing.")] = False,
    settings_file: Annotated[
        Path | None, option("--settings", "FILE", "Write the matching server settings to this new TOML file.")
    ] = None,
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Publish a model repository of NVIDIA Triton: version 3 of a model becomes 3.0.0.

    For example `turnout import triton model_repository --dry-run`. Clients that ask for `model_version="3"` still get
    that version. Every field of each config.pbtxt is listed, with how it was translated. The repository itself is not
    changed; `turnout serve --models DIR --read-only` serves it without an import.

    Exits with 0 if everything was imported, 3 if a model or a version was not, and 1 for other errors.
    """
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.publishing.publish_options import PublishOptions
    from turnout.registry.storage.files import explain
    from turnout.registry.triton.mapping import as_toml
    from turnout.registry.triton.tree import read_tree

    with reporting(as_json=target.as_json) as out, ExitStack() as stack:
        stack.enter_context(unwinding())
        try:
            found = read_tree(directory)
        except OSError as error:
            raise InvalidRequest.at("DIR", f"{directory.name!r} {explain(error)}") from error
        if not found:
            raise InvalidRequest.at(
                "DIR", f"{directory.name!r} is not a Triton model repository: it holds no <model>/<number>/model.onnx"
            )
        names = [one.name for one in found]
        if unknown := [name for name in model or () if name not in names]:
            raise InvalidRequest.at("--model", f"{unknown[0][:64]!r} is not in it; there are: {', '.join(names)}")
        wanted = [one for one in found if not model or one.name in model]
        how = PublishOptions(actor_or_login(change.actor), change.reason, dry_run=dry_run)
        workspace = Workspace.open(target)
        text = as_toml({one.name: one.settings for one in wanted if not one.fault})
        if settings_file is not None and text:
            _write(settings_file, text)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-")))
        with workspace.store() as store:
            imported = [_import(out, workspace, store, one, how, scratch, release=release) for one in wanted]
        out.show(_body(imported, text), *_view(imported, text, settings_file))
        if not all(one.whole for one in imported):
            raise typer.Exit(NOT_ALL)


def _import(
    out: CommandOutput,
    workspace: "Workspace",
    store: "StateStore",
    model: "TritonModel",
    how: "PublishOptions",
    scratch: Path,
    *,
    release: bool,
) -> _Imported:
    from turnout.registry.publishing.publish import PublishRequest, source_size
    from turnout.registry.triton.samples import write_samples
    from turnout.registry.triton.tree import version_of
    from turnout.rollout.changes.operations import Operations

    home = scratch / model.name
    home.mkdir()
    golden, sample_rows = write_samples(model, home)
    imported = _Imported(model, [*model.rows, *sample_rows])
    if model.fault:
        return imported
    with workspace.publisher(store) as publisher:
        operations = Operations(workspace.repository, store)
        for number, source in model.sources.items():
            version = version_of(number)
            request = PublishRequest(model.name, version, source, model.metadata, golden)
            try:
                with out.progress(f"importing {model.name} {version}", source_size(request)) as advance:
                    result = publisher.publish(request, how, advance)
                if release and not how.dry_run and number in model.served:
                    operations.release_published(model.name, version, actor=how.actor, reason=how.reason)
            except TurnoutError as error:
                imported.versions.append(_Version(number, "refused", reason=error.message))
                continue
            outcome = "published" if result.created else "was there"
            if how.dry_run and result.report.results:
                outcome = "would be published"
            release_status = "" if how.dry_run else str(store.release_state().of(model.name).release_status(version))
            imported.versions.append(_Version(number, outcome, result.digest, release_status))
    imported.versions += [_Version(number, "refused", reason=why) for number, why in model.faults.items()]
    return imported


def _write(file: Path, text: str) -> None:
    """Writes a new file, unless one with the same text exists, as after an earlier import."""
    try:
        if file.exists() and file.read_bytes() == text.encode():
            return
        with file.open("x") as opened:
            opened.write(text)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error


def _body(imported: Sequence[_Imported], text: str) -> dict[str, Any]:
    return {
        "ok": all(one.whole for one in imported),
        "models": [
            {
                "model": one.model.name,
                "refused": one.model.fault or None,
                "versions": [version.to_json() for version in one.versions],
                "fields": [{"field": row.path, "fate": str(row.outcome), "note": row.note} for row in one.rows],
            }
            for one in imported
        ],
        "settings": text or None,
    }


def _view(imported: Sequence[_Imported], text: str, written: Path | None) -> list[RenderableType]:
    versions = [
        (one.model.name, str(v.number), f"{v.number}.0.0", v.outcome, v.release_status, v.reason or v.digest[:19])
        for one in imported
        for v in one.versions
    ]
    versions += [(one.model.name, "", "", "refused", "", one.model.fault) for one in imported if one.model.fault]
    rows = [(one.model.name, row.path, str(row.outcome), row.note) for one in imported for row in one.rows]
    columns = ("MODEL", "TRITON'S", "VERSION", "OUTCOME", "RELEASE STATUS", "")
    displayed: list[RenderableType] = [table(columns, versions)]
    if rows:
        displayed += ["", table(("MODEL", "FIELD OF CONFIG.PBTXT", "IS", ""), rows)]
    if text and written is None:
        matching = "Matching settings for turnout.toml (or write them with --settings FILE):"
        displayed += ["", matching, "", text.rstrip("\n")]
    elif text:
        displayed += ["", f"The matching settings are in {written}: `turnout serve --config {written}` applies them"]
    return displayed
