"""Whose signatures make a version fit to be served, and what the signatures beside one are worth.

<root>/<model>/.attestations/<version>/bundle-<key>.sigstore.json
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Self

from semver import Version

from turnout.config import Signing
from turnout.errors import ConfigError, NotTrusted
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.signing.bundle import Bundle, plain
from turnout.registry.signing.certificates import Authorities, SignerCertificate
from turnout.registry.signing.keys import PublicKey
from turnout.registry.signing.signer import Signer, made_by
from turnout.registry.storage import attestations
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository

PREFIX, SUFFIX = "bundle-", ".sigstore.json"
MAX_SIGNATURES = 32
"""That are looked at of one version, beside those of trusted keys: each may have megabytes."""


class SignatureStatus(StrEnum):
    """What a signature is worth."""

    TRUSTED = "trusted"
    """It is one of this version, and its signer is trusted."""
    UNKNOWN = "unknown key"
    """It says that it is one of this version, and its signer is not among the trusted ones."""
    OTHER = "of other content"
    """It is one of another version, or of what a publish that was cut short would have published."""
    WRONG = "does not fit"
    """It does not cover this version as it is, its key did not make it, or it is not a signature at all."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that was found, and what it is worth.

    Attributes:
        key: The id of its key; the file's name if it cannot be read.
        why: Why it is worth no more, as half a sentence; "" if nothing is to be said.
    """

    key: str
    worth: SignatureStatus
    why: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count.

    Attributes:
        policy: What becomes of a version without one of them.
        keys: Those that are trusted.
        authorities: Those whose certificates are.
    """

    policy: Literal["off", "warn", "require"] = "off"
    keys: frozenset[PublicKey] = frozenset()
    authorities: Authorities = field(default_factory=Authorities)

    @classmethod
    def of(cls, settings: Signing) -> Self:
        """Reads the keys and certificates that are configured.

        Raises:
            ConfigError: One of them is not valid, or signatures are asked for and nobody is trusted.
        """
        keys = frozenset(map(PublicKey.parse, settings.trusted_keys))
        authorities = Authorities.load(settings.trusted_authorities)
        if settings.signatures != "off" and not (keys or authorities.roots):
            raise ConfigError(
                f'signing.signatures is "{settings.signatures}", and neither signing.trusted_keys nor'
                " signing.trusted_authorities names anybody"
            )
        return cls(settings.signatures, keys, authorities)

    @property
    def required(self) -> bool:
        """A version without a trusted signature is neither published nor loaded."""
        return self.policy == "require"

    def judge(self, published: Published, bundle: Bundle) -> Signed:
        """Says what a signature is worth."""
        signer, key = None, next((key for key in self.keys if key.hint == bundle.hint), None)
        name = bundle.hint[:16]
        try:
            statement = bundle.statement
            if bundle.certificates:
                signer = SignerCertificate.from_der(bundle.certificates)
                key, name = signer.key, signer.key.id
            elif not bundle.hint:
                key = next((key for key in self.keys if made_by(key, bundle)), None)
                name = "" if key is None else key.id
        except ValueError as error:
            return Signed(name, SignatureStatus.WRONG, str(error))
        if key is not None and not made_by(key, bundle):
            return Signed(name, SignatureStatus.WRONG, "its key did not make it")
        if not statement.is_about(published):
            return Signed(name, SignatureStatus.OTHER, f"it is one of other content ({plain(statement.name)})")
        if fault := statement.fault(published):
            return Signed(name, SignatureStatus.WRONG, fault)
        if key in self.keys:
            return Signed(name, SignatureStatus.TRUSTED)
        if signer is None:
            return Signed(name, SignatureStatus.UNKNOWN, "which is not trusted (signing.trusted_keys)")
        fault = self.authorities.fault(signer)
        return Signed(name, SignatureStatus.UNKNOWN if fault else SignatureStatus.TRUSTED, fault)

    def fault(self, published: Published, signed: Iterable[Signed]) -> str:
        """Returns why a version with these signatures is not what is asked for, "" if it is, or nothing is asked."""
        found = list(signed)
        by = {worth: [one for one in found if one.worth is worth] for worth in SignatureStatus}
        if self.policy == "off" or by[SignatureStatus.TRUSTED]:
            return ""
        if wrong := by[SignatureStatus.WRONG]:
            return f"the signature of {wrong[0].key} does not fit it ({wrong[0].why}), and no trusted key signed it"
        if unknown := by[SignatureStatus.UNKNOWN]:
            return f"it is signed by {', '.join(one.key for one in unknown)} only: {unknown[0].why}"
        if other := by[SignatureStatus.OTHER]:
            return f"it is not signed: the signature of {other[0].key} is not one of this version, {other[0].why}"
        return "it is not signed, and signing.signatures asks for that"

    def check(self, repository: Repository, published: Published) -> list[Signed]:
        """Returns who signed a version.

        Raises:
            NotTrusted: Nobody did who is trusted, and that is required.
        """
        signed = self.signed(repository, published)
        if self.required and (fault := self.fault(published, signed)):
            raise NotTrusted(f"{published.manifest.model} {published.manifest.version}: {fault}")
        return signed

    def doubt(self, repository: Repository, published: Published) -> str:
        """Returns why a version is not signed as required, "" if it is, or nothing is asked. Reads small files."""
        return "" if self.policy == "off" else self.fault(published, self.signed(repository, published))

    def signed(self, repository: Repository, published: Published) -> list[Signed]:
        """Says what each of the signatures beside a version is worth."""
        return [self.worth(published, one) for one in self.stored(repository, published)]

    def stored(self, repository: Repository, published: Published) -> Sequence["SignatureFile"]:
        """Returns the signatures beside a version: of the keys that are trusted, and some of those of others.

        Whoever may publish may sign with as many keys as they like; that is to hide no signature that counts.
        """
        prefixes = [*(PREFIX + name for name in sorted(key.id for key in self.keys)), PREFIX]
        files = {file: data for prefix in prefixes for file, data in _files(repository, published, prefix).items()}
        return [SignatureFile.of(file, data) for file, data in files.items()]

    def worth(self, published: Published, found: "SignatureFile") -> Signed:
        """Says what a signature that was found is worth."""
        if found.bundle is not None:
            judged = self.judge(published, found.bundle)
            return judged if judged.key else Signed(found.name, judged.worth, judged.why)
        return Signed(found.name, SignatureStatus.WRONG, found.fault)


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """A file beside a version that is a signature, or is in the place of one.

    Attributes:
        name: The key's id, as the file is named after it.
        bundle: What it holds; None if it cannot be read as one.
        fault: Why it cannot.
    """

    name: str
    bundle: Bundle | None = None
    fault: str = ""

    @classmethod
    def of(cls, file: str, data: bytes) -> Self:
        """Reads the signature in a file of that name."""
        name = file.removeprefix(PREFIX).removesuffix(SUFFIX)
        try:
            return cls(name, Bundle.from_bytes(data))
        except ValueError as error:
            return cls(name, fault=str(error))


@dataclass(frozen=True, slots=True)
class SignatureGate:
    """Lets in only what somebody trusted signed; if that is asked for without force, tells what is not.

    Attributes:
        repository: Where signatures lie that were made before: there, or where the version comes from.
        signer: Signs for the publisher; None for nobody.
    """

    name = "signature"
    trust: Trust
    repository: Repository
    signer: Signer | None = None

    def run(self, candidate: Candidate) -> GateVerdict:
        """Looks at what is signed already and what will be."""
        published = Published(candidate.manifest, candidate.digest)
        found = self.trust.stored(self.repository, published)
        if self.signer is not None:
            name = self.signer.key.id
            found = [one for one in found if one.name != name] + [SignatureFile(name, self.signer.sign(published))]
        signed = [self.trust.worth(published, one) for one in found]
        if fault := self.trust.fault(published, signed):
            return GateVerdict(GateOutcome.FAILED if self.trust.required else GateOutcome.WARNED, fault)
        trusted = dict.fromkeys(one.key for one in signed if one.worth is SignatureStatus.TRUSTED)
        if trusted:
            return GateVerdict(GateOutcome.PASSED, f"signed by {', '.join(trusted)}")
        return GateVerdict(GateOutcome.SKIPPED, "no signature is asked for")


def keep(repository: Repository, model: str, version: Version, key: str, bundle: Bundle) -> None:
    """Stores a signature beside its version, replacing an earlier one by the same key.

    The caller must have verified that the key with the id `key` made it.

    Raises:
        OSError: The repository could not be written to.
    """
    attestations.write(repository, model, version, f"{PREFIX}{key}{SUFFIX}", bundle.to_bytes())


def bundles(repository: Repository, published: Published) -> dict[str, bytes]:
    """Returns the signatures beside a version that are about it, by file name, as bytes."""
    return {
        name: data
        for name, data in _files(repository, published, PREFIX, attestations.MAX_FILES).items()
        if name.endswith(SUFFIX) and is_about(published, data)
    }


def is_about(published: Published, data: bytes) -> bool:
    """Tells whether `data` is a bundle that says of itself that it is about a version."""
    try:
        return Bundle.from_bytes(data).statement.is_about(published)
    except ValueError:
        return False


def _files(repository: Repository, published: Published, prefix: str, most: int = MAX_SIGNATURES) -> dict[str, bytes]:
    manifest = published.manifest
    try:
        return attestations.read(repository, manifest.model, manifest.version, prefix, most)
    except OSError:
        return {}
