"""Compares two published versions in the same way as the gate `bump` compares a candidate with its parent."""

from collections import OrderedDict
from collections.abc import Callable

from turnout.errors import UnavailableError
from turnout.host.cpu import lower_priority
from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.compatibility.numbering import bump_between
from turnout.registry.compatibility.sandbox import Sandbox, SandboxVersion
from turnout.registry.gates.bump import BumpFinding, bump_finding
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.catalog import VersionEntry
from turnout.threads import Threads

_MOST_KEPT = 256


class VersionComparison:
    """Compares versions, one pair at a time and with lower priority than requests, and caches the findings.

    Used on the event loop only.
    """

    def __init__(self, repository: Repository, sandbox: Callable[[str], Sandbox]) -> None:
        """Creates the comparison. `sandbox` returns the sandbox for a model, as for publishing."""
        self._repository = repository
        self._sandbox = sandbox
        self._threads = Threads("comparison", 1, lower_priority)
        self._kept: OrderedDict[tuple[str, str], BumpFinding] = OrderedDict()

    async def of(self, new: VersionEntry, old: VersionEntry, *, examine: bool) -> BumpFinding | None:
        """Returns the gate's finding for `new` over `old`.

        If the manifests alone do not decide, weights are compared and both versions are run with `examine`; without it,
        the result is None.

        Raises:
            UnavailableError: The files of a version cannot be read.
            TurnoutError: A version is not a readable ONNX model.
        """
        key = new.digest, old.digest
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        after, before = self._version(new), self._version(old)
        if not examine and not _from_manifests(after, before):
            return None
        comparison = ParentComparison(self._sandbox(new.model))
        try:
            finding = await self._threads.run(bump_finding, after, before, comparison)
        except OSError as error:
            raise UnavailableError(
                f"{new.version_text} and {old.version_text} cannot be compared: {error.strerror}"
            ) from error
        self._kept[key] = finding
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return finding

    def _version(self, entry: VersionEntry) -> SandboxVersion:
        return SandboxVersion(self._repository.directory(entry.model, entry.version), entry.manifest)


def _from_manifests(new: SandboxVersion, old: SandboxVersion) -> bool:
    """Returns whether the manifests alone decide the finding, which is so except for a PATCH that they allow."""
    if bump_between(old.manifest.version, new.manifest.version) > VersionBump.PATCH:
        return True
    stated = ParentComparison().difference(new, old, VersionBump.MINOR)
    return stated.complete or stated.bump > VersionBump.PATCH
