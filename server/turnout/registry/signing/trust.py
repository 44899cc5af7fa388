"""Determines the status of signatures, and whether a version is signed as required.

<root>/<model>/.attestations/<version>/bundle-<key>.sigstore.json
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, Self

from semver import Version

from turnout.config import Signing
from turnout.errors import ConfigError, Exhausted, NotTrusted
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.signing.bundle import Bundle, plain
from turnout.registry.signing.certificates import Authorities, SignerCertificate
from turnout.registry.signing.keys import PublicKey
from turnout.registry.signing.signer import Signer, made_by
from turnout.registry.storage import attestations
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository

PREFIX, SUFFIX = attestations.SIGNATURE, ".sigstore.json"
MAX_SIGNATURES = attestations.MAX_FILES
"""Maximum number of signatures of a version. Where certificates are trusted, all of them are read, since any may have
one: publishers may sign with any number of keys, which must not hide a trusted signature."""

_MOST_UNTRUSTED = 32
"""Maximum number of signatures that are read beside those of trusted keys, where only keys are trusted."""

_NAMED = 3


class SignatureStatus(StrEnum):
    """Status of a signature."""

    TRUSTED = "trusted"
    """It is about this version, and its signer is trusted."""
    UNKNOWN = "unknown key"
    """It claims to be about this version, but its signer is not trusted."""
    OTHER = "of other content"
    """It is about another version, or about one whose publish was interrupted."""
    WRONG = "does not fit"
    """It does not cover exactly this version's files, its key did not make it, or it is not a signature."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that was found, with its status.

    Attributes:
        key: Id of its key; the name of the file if it cannot be read.
        why: Reason for the status, as a phrase; "" if there is none.
    """

    key: str
    worth: SignatureStatus
    why: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """Trusted keys and authorities, and whether their signatures are required.

    Attributes:
        policy: What happens to a version without a trusted signature.
        authorities: Authorities whose certificates are trusted.
    """

    policy: Literal["off", "warn", "require"] = "off"
    keys: frozenset[PublicKey] = frozenset()
    authorities: Authorities = field(default_factory=Authorities)

    @classmethod
    def of(cls, settings: Signing) -> Self:
        """Reads the configured keys and certificates.

        Raises:
            ConfigError: A key or certificate is invalid, or signatures are wanted but nothing is trusted.
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
        """Whether a version without a trusted signature can be neither published nor loaded."""
        return self.policy == "require"

    def judge(self, published: Published, bundle: Bundle) -> Signed:
        """Determines the status of a signature."""
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
        """Returns why a version with these signatures does not meet the policy; "" if it does."""
        found = list(signed)
        by = {worth: [one for one in found if one.worth is worth] for worth in SignatureStatus}
        if self.policy == "off" or by[SignatureStatus.TRUSTED]:
            return ""
        if wrong := by[SignatureStatus.WRONG]:
            return f"the signature of {wrong[0].key} does not fit it ({wrong[0].why}), and no trusted key signed it"
        if unknown := by[SignatureStatus.UNKNOWN]:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            by_whom = ", ".join(one.key for one in unknown[:_NAMED])
            return f"it is signed by {by_whom}{more} only: {unknown[0].why}"
        if other := by[SignatureStatus.OTHER]:
            return f"it is not signed: the signature of {other[0].key} is not one of this version, {other[0].why}"
        return "it is not signed, and signing.signatures asks for that"

    def check(self, repository: Repository, published: Published) -> list[Signed]:
        """Returns the signatures of a version.

        Raises:
            NotTrusted: A trusted signature is required, but there is none.
        """
        signed = self.signed(repository, published)
        if self.required and (fault := self.fault(published, signed)):
            raise NotTrusted(f"{published.manifest.model} {published.manifest.version}: {fault}")
        return signed

    def doubt(self, repository: Repository, published: Published) -> str:
        """Returns why a version does not meet the policy; "" if it does. Reads small files."""
        return "" if self.policy == "off" else self.fault(published, self.signed(repository, published))

    def signed(self, repository: Repository, published: Published) -> list[Signed]:
        """Returns the status of each signature beside a version."""
        of_trusted = [PREFIX + name for name in sorted(key.id for key in self.keys)]
        most = MAX_SIGNATURES if self.authorities.roots else _MOST_UNTRUSTED
        with suppress(OSError):
            return [
                self.worth(published, *one) for one in _files(repository, published, *of_trusted, PREFIX, most=most)
            ]
        return []

    def worth(self, published: Published, file: str, data: bytes) -> Signed:
        """Determines the status of the signature in a file of that name."""
        name = file.removeprefix(PREFIX).removesuffix(SUFFIX)
        try:
            bundle = Bundle.from_bytes(data)
        except ValueError as error:
            return Signed(name, SignatureStatus.WRONG, str(error))
        judged = self.judge(published, bundle)
        return judged if judged.key else replace(judged, key=name)


@dataclass(frozen=True, slots=True)
class SignatureGate:
    """The gate `signature`: refuses versions without a trusted signature, or warns about them, as the policy says.

    Attributes:
        trust: The policy, and the trusted keys and authorities.
        repository: Repository with existing signatures: the target, or the one from which the version is imported.
        signer: Signs for the publisher; None for no signature.
    """

    name = "signature"
    trust: Trust
    repository: Repository
    signer: Signer | None = None

    def run(self, candidate: Candidate) -> GateVerdict:
        """Checks the existing signatures, and the one that will be added."""
        published = Published(candidate.manifest, candidate.digest)
        signed = self.trust.signed(self.repository, published)
        if self.signer is not None:
            made = self.signer.sign(published).to_bytes()
            signed.append(self.trust.worth(published, file_name(self.signer.key.id), made))
        if fault := self.trust.fault(published, signed):
            return GateVerdict(GateOutcome.FAILED if self.trust.required else GateOutcome.WARNED, fault)
        trusted = dict.fromkeys(one.key for one in signed if one.worth is SignatureStatus.TRUSTED)
        if trusted:
            return GateVerdict(GateOutcome.PASSED, f"signed by {', '.join(trusted)}")
        return GateVerdict(GateOutcome.SKIPPED, "no signature is asked for")


def keep(repository: Repository, model: str, version: Version, key: str, bundle: Bundle) -> None:
    """Stores a signature beside its version, replacing an earlier one by the same key.

    The caller must have checked that `key`, an id, made it.

    Raises:
        Exhausted: As many others have signed it as may.
        OSError: The repository could not be written to.
    """
    repository.refresh_evidence_records()
    others = [name for name in attestations.names(repository, model, version) if name.startswith(PREFIX)]
    if len(others) >= MAX_SIGNATURES and file_name(key) not in others:
        raise Exhausted(f"{model} {version} has {len(others)} signatures, which is the maximum")
    attestations.write(repository, model, version, file_name(key), bundle.to_bytes())


def file_name(key: str) -> str:
    """Returns the name of the file with the signature by the key with this id."""
    return f"{PREFIX}{key}{SUFFIX}"


def bundles(repository: Repository, published: Published) -> dict[str, bytes]:
    """Returns the signatures beside a version that are about it, as bytes by file name."""
    found: dict[str, bytes] = {}
    with suppress(OSError):
        found |= {
            name: data
            for name, data in _files(repository, published, PREFIX)
            if name.endswith(SUFFIX) and is_about(published, data)
        }
    return found


def is_about(published: Published, data: bytes) -> bool:
    """Returns whether `data` is a bundle that claims to be about a version."""
    try:
        return Bundle.from_bytes(data).statement.is_about(published)
    except ValueError:
        return False


def _files(
    repository: Repository, published: Published, *prefixes: str, most: int = attestations.MAX_FILES
) -> Iterator[tuple[str, bytes]]:
    return attestations.read(repository, published.manifest.model, published.manifest.version, *prefixes, most=most)
