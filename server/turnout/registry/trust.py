"""Whose signatures make a version fit to be served, and what the signatures beside one are worth.

<root>/<model>/.attestations/<version>/signature-<key>.json
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from semver import Version

from turnout.errors import ConfigError, NotTrusted
from turnout.registry import attestations
from turnout.registry.gates import Candidate, GateVerdict, Outcome
from turnout.registry.listing import Published
from turnout.registry.repository import Repository
from turnout.registry.signing import DigestSignature, PublicKey, Signer

if TYPE_CHECKING:
    from turnout.config import Signing

_PREFIX = "signature-"


class Worth(StrEnum):
    """What a signature is worth."""

    TRUSTED = "trusted"
    """It fits, and its key is trusted."""
    UNKNOWN = "unknown key"
    """It fits, and its key is not among the trusted ones."""
    WRONG = "does not fit"
    """It is not that of this version, or no signature at all."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that was found, and what it is worth.

    Attributes:
        key: The id of its key; the file's name where it cannot be read.
        worth: What it is worth.
    """

    key: str
    worth: Worth


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count.

    Attributes:
        required: A version without one of them is not served.
        keys: Those that are trusted.
    """

    required: bool = False
    keys: frozenset[PublicKey] = frozenset()

    @classmethod
    def of(cls, settings: "Signing") -> Self:
        """Reads the keys that are configured.

        Raises:
            ConfigError: One of them is none, or signatures are required and no key is trusted.
        """
        keys = frozenset(PublicKey.parse(text) for text in settings.trusted_keys)
        if settings.require_signature and not keys:
            raise ConfigError("signing.require_signature is set, and signing.trusted_keys names no key")
        return cls(settings.require_signature, keys)

    def judge(self, published: Published, found: Iterable[tuple[str, DigestSignature | None]]) -> list[Signed]:
        """Says what each of the signatures that were found is worth."""
        return [
            Signed(name, Worth.WRONG)
            if signature is None or not signature.fits(published.digest)
            else Signed(signature.key.id, Worth.TRUSTED if signature.key in self.keys else Worth.UNKNOWN)
            for name, signature in found
        ]

    def fault(self, signed: Iterable[Signed]) -> str:
        """Returns why a version with these signatures may not be served, "" where it may."""
        found = list(signed)
        by = {worth: [one.key for one in found if one.worth is worth] for worth in Worth}
        if not self.required or by[Worth.TRUSTED]:
            return ""
        if by[Worth.WRONG]:
            return f"the signature of {by[Worth.WRONG][0]} does not fit it, and no trusted key signed it"
        if by[Worth.UNKNOWN]:
            return f"it is signed by {', '.join(by[Worth.UNKNOWN])} only, which is not trusted (signing.trusted_keys)"
        return "it is not signed, and signing.require_signature asks for that"

    def check(self, repository: Repository, published: Published) -> list[Signed]:
        """Returns who signed a version.

        Raises:
            NotTrusted: No trusted key did, and that is required.
        """
        signed = self.signed(repository, published)
        if fault := self.fault(signed):
            raise NotTrusted(f"{published.manifest.model} {published.manifest.version}: {fault}")
        return signed

    def signed(self, repository: Repository, published: Published) -> list[Signed]:
        """Says what each of the signatures beside a version is worth; reads a few hundred bytes."""
        return self.judge(published, stored(repository, published))


@dataclass(frozen=True, slots=True)
class SignatureGate:
    """Lets in only what a trusted key signed.

    Attributes:
        trust: Whose signatures count.
        repository: Where signatures lie that were made before.
        signer: Signs for the publisher; None for nobody.
    """

    trust: Trust
    repository: Repository
    signer: Signer | None = None

    @property
    def name(self) -> str:
        """`signature`."""
        return "signature"

    def run(self, candidate: Candidate) -> GateVerdict:
        """Looks at what is signed already and what will be."""
        published = Published(candidate.manifest, candidate.digest)
        found = list(stored(self.repository, published))
        if self.signer is not None:
            signature = self.signer.sign(candidate.digest)
            found = [pair for pair in found if pair[0] != signature.key.id] + [(signature.key.id, signature)]
        signed = self.trust.judge(published, found)
        if fault := self.trust.fault(signed):
            return GateVerdict(Outcome.FAILED, fault)
        trusted = [one.key for one in signed if one.worth is Worth.TRUSTED]
        if trusted:
            return GateVerdict(Outcome.PASSED, f"signed by {', '.join(trusted)}")
        return GateVerdict(Outcome.SKIPPED, "no signature is required")


def keep(repository: Repository, model: str, version: Version, signature: DigestSignature) -> None:
    """Puts a signature beside its version.

    Raises:
        OSError: The repository could not be written to.
    """
    attestations.write(repository, model, version, f"{_PREFIX}{signature.key.id}.json", signature.to_bytes())


def stored(repository: Repository, published: Published) -> list[tuple[str, DigestSignature | None]]:
    """Returns the signatures beside a version, by the key that their file is named after; None for what is none.

    A signature of other content is left out: a publish that was cut short may have left it.
    """
    manifest = published.manifest
    try:
        files = attestations.read(repository, manifest.model, manifest.version, _PREFIX)
    except OSError:
        return []
    found: list[tuple[str, DigestSignature | None]] = []
    for name, data in files.items():
        key = name.removeprefix(_PREFIX).removesuffix(".json")
        try:
            signature = DigestSignature.from_bytes(data)
        except ValueError:
            found.append((key, None))
        else:
            if signature.digest == published.digest:
                found.append((key, signature))
    return found
