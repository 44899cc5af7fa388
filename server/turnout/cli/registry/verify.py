"""`turnout verify`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from turnout.cli.options import ActorOption, DiskTarget, argument, option
from turnout.cli.output import NO_VERSION, reporting, table
from turnout.errors import DigestMismatch, TurnoutError
from turnout.text.quantities import count_text, size_text

if TYPE_CHECKING:
    from turnout.cli.registry.audit import LogAudit
    from turnout.cli.workspace import Workspace
    from turnout.config import Signing
    from turnout.registry.manifest.digest import Progress
    from turnout.registry.storage.listing import Listing, Problem, Published


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying one version.

    Attributes:
        version: Name of the version's directory.
        digest: Digest of the version; None if its manifest cannot be read.
        size_bytes: Total size of its files according to the manifest; 0 if the manifest cannot be read.
        fault: How the version differs from what was published; "" if it does not.
        untrusted: Why its signatures are not sufficient, if signatures are required; "" if they are sufficient.
        warning: The same, if signatures are not required but warned about.
        signatures: Result of each signature, by key.
    """

    model: str
    version: str
    digest: str | None
    size_bytes: int
    fault: str
    untrusted: str = ""
    warning: str = ""
    signatures: dict[str, str] = field(default_factory=dict)


def verify(
    version: Annotated[
        str | None, argument("NAME[@SELECTOR]", "A model, or one of its versions. (default: everything)")
    ] = None,
    head: Annotated[
        str | None, option("--head", "HEAD", "Earlier output of `turnout log --head`, which the log must contain.")
    ] = None,
    signed_by: Annotated[
        list[Path] | None,
        option(
            "--signed-by",
            "FILE",
            "Public key or CA certificate (PEM) that must have signed. May be repeated. (default: the settings')",
        ),
    ] = None,
    actor: ActorOption = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Read all bytes of published versions, and the log of all changes, and compare both with what was written.

    Exits with 1 if a file was changed, is missing or does not belong there, or if the log was altered. A version
    without an event, because its publisher died before recording it, is recorded now. Signatures are checked against
    the keys that [signing] trusts, or against --signed-by.
    """
    from turnout.cli.registry.audit import LogAudit
    from turnout.cli.workspace import Workspace, actor_or_login, split_reference
    from turnout.state.event_log.chain import Head

    with reporting(as_json=target.as_json) as out:
        name, selector = (None, None) if version is None else split_reference(version)
        kept = None if head is None else Head.parse(head)
        workspace = Workspace.open(target)
        trusted = _signers(signed_by)
        listing = workspace.scan()
        log = LogAudit.of(workspace, listing, kept, actor_or_login(actor))
        damaged = _damaged(workspace, listing, name, selector)
        chosen = _chosen(workspace, listing, name, selector, damaged)
        with out.progress("verifying", sum(p.manifest.size for p in chosen)) as advance:
            results = [
                Verified(p.model, p.version, None, 0, p.reason.removeprefix(f"{p.model} {p.version}: "))
                for p in damaged
            ]
            results += [_verify(workspace, published, log, trusted, advance) for published in chosen]
        bad = sum(1 for result in results if result.fault)
        rows = [
            (
                f"{result.model} {result.version}",
                _word(result),
                result.fault or result.untrusted or f"{size_text(result.size_bytes)}, {result.digest}{_signed(result)}",
            )
            for result in results
        ]
        untrusted = sum(1 for result in results if result.untrusted)
        ok = not (bad or untrusted) and log.ok
        body = {"ok": ok, "versions": [asdict(result) for result in results], "log": log.to_json()}
        ending = [f"\n{bad} of {count_text(len(results), 'version')} are not what was published"] if bad else []
        if untrusted:
            ending.append(f"\n{untrusted} of {count_text(len(results), 'version')} are not signed as required")
        out.show(body, table(("", "", ""), rows) if rows else NO_VERSION, *log.lines(), *ending)
        if not ok:
            raise typer.Exit(1)


def _word(result: Verified) -> Text:
    if result.fault:
        return Text("changed", "bold red")
    return Text("untrusted", "bold red") if result.untrusted else Text("ok", "green")


def _signed(result: Verified) -> str:
    by = "".join(f", signed by {key} ({worth})" for key, worth in result.signatures.items())
    return by + (f"; warning: {result.warning}" if result.warning else "")


def _signers(files: list[Path] | None) -> "Signing | None":
    """Returns settings that require a signature by one of the given signers; None if none is given."""
    from turnout.config import Signing
    from turnout.registry.storage.files import read_named

    if not files:
        return None
    sides: dict[bool, list[str]] = {True: [], False: []}
    for file in files:
        sides[b"BEGIN CERTIFICATE" in read_named(file, "public key")].append(str(file))
    return Signing(signatures="require", trusted_keys=tuple(sides[False]), trusted_authorities=tuple(sides[True]))


def _damaged(workspace: "Workspace", listing: "Listing", name: str | None, selector: str | None) -> "list[Problem]":
    """Returns those of the requested versions that were published but are no longer readable as versions."""
    from turnout.registry.manifest.manifest import MANIFEST_FILE

    repository = workspace.repository

    def was_version(problem: "Problem") -> bool:
        directory = repository.root / problem.model / problem.version
        return problem.damaged if repository.remote else (directory / MANIFEST_FILE).exists()

    return [
        problem
        for problem in listing.problems
        if was_version(problem) and name in (None, problem.model) and selector in (None, problem.version)
    ]


def _chosen(
    workspace: "Workspace", listing: "Listing", name: str | None, selector: str | None, damaged: "list[Problem]"
) -> "list[Published]":
    """Returns those of the requested versions that can be read; none if the requested one is damaged."""
    from turnout.cli.workspace import ModelVersions
    from turnout.routing.selection.selector import parse

    if name is None:
        return list(listing.published)
    try:
        with workspace.named():
            known = ModelVersions.of(name, listing, workspace.release_state())
            return list(known.published.values()) if selector is None else [known.resolve(parse(selector))]
    except TurnoutError:
        if damaged:
            return []
        raise


def _verify(
    workspace: "Workspace", published: "Published", log: "LogAudit", trusted: "Signing | None", advance: "Progress"
) -> Verified:
    from turnout.registry.signing.trust import SignatureStatus, Trust

    manifest = published.manifest
    fault = ""
    try:
        expected = log.published.get((manifest.model, str(manifest.version)))
        workspace.repository.verify_stored(manifest.model, manifest.version, expected=expected, progress=advance)
    except DigestMismatch as error:
        fault = error.message.removeprefix(f"{manifest.model} {manifest.version}: ")
    trust = Trust.of(trusted or workspace.settings.for_model(manifest.model).signing)
    signed = trust.signed(workspace.repository, published)
    signatures = {one.key: str(one.worth) for one in signed}
    doubt = trust.fault(published, signed)
    wrong = [
        f"the signature of {one.key} {one.worth} ({one.why})" for one in signed if one.worth is SignatureStatus.WRONG
    ]
    return Verified(
        model=manifest.model,
        version=str(manifest.version),
        digest=published.digest,
        size_bytes=manifest.size,
        fault=", ".join(filter(None, (fault, *wrong))),
        untrusted=doubt if trust.required else "",
        warning="" if trust.required else doubt,
        signatures=signatures,
    )
