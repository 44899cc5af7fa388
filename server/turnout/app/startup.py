"""Checks and repairs at startup: the repository's directory, interrupted publishes, and missing log entries."""

from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from turnout.config import Settings
from turnout.errors import ConfigError, UnavailableError
from turnout.registry.mounted.repository import MountedRepository
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.files import explain
from turnout.registry.storage.listing import Problem
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import SWEEP_TIMEOUT
from turnout.releases.adoption import adopt
from turnout.state.store import StateStore

_TOLD = 10
"""Maximum number of reasons that are listed for one command."""


def prepare_repository(repository: Repository, settings: Settings, log: FilteringBoundLogger) -> None:
    """Creates the directory if necessary, removes the remains of crashed publishes, and logs invalid entries.

    Raises:
        ConfigError: The repository cannot be read.
    """
    root = repository.place
    if repository.remote:
        _look_at_remote(repository, log)
        return
    try:
        if not settings.read_only:
            repository.root.mkdir(parents=True, exist_ok=True)
        elif not repository.root.is_dir():
            raise ConfigError(f"there is no directory {root}, which --read-only is to serve")
        for name in repository.sweep():
            log.warning("swept a publish that never finished", staging=name)
        _report(repository.scan().problems, log)
    except OSError as error:
        raise ConfigError(f"the repository {root} cannot be read: {error.strerror}") from error


def _look_at_remote(repository: Repository, log: FilteringBoundLogger) -> None:
    """Does the same for a remote repository. An unreachable store does not prevent the start: there may be a cache."""
    try:
        for name in repository.sweep():
            log.warning("swept a publish that never finished", staging=name)
        listing = repository.scan()
    except OSError as error:
        log.error(
            "the model repository cannot be listed, and was never listed on this machine",
            repository=repository.place, reason=explain(error),
        )  # fmt: skip
        return
    if listing.away:
        log.error("the model repository cannot be listed", repository=repository.place, reason=listing.away)
    _report(listing.problems, log)


def _report(problems: Sequence[Problem], log: FilteringBoundLogger) -> None:
    """Logs entries that are not served, with one line for all entries that the same command would publish."""
    by_command: dict[str, list[str]] = {}
    for problem in problems:
        if problem.command:
            by_command.setdefault(problem.command, []).append(problem.reason)
        else:
            log.warning("not served", reason=problem.reason)
    for command, reasons in by_command.items():
        more = f"; and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
        log.warning("not served", reason=f"{'; '.join(reasons[:_TOLD])}{more}; publish it with: {command}")


NEW_STORE = (
    "the state store was new when this server started, and knows of no release, tag, yank or policy: restore a backup "
    "of it and restart, or release what should answer with `turnout release NAME@VERSION`"
)


def store_is_new(repository: Repository, store: StateStore, log: FilteringBoundLogger) -> bool:
    """Returns whether the state store is new although the repository contains versions, and logs an error if so.

    The store was then lost or never copied. Every version is a candidate, which plain requests and ranges never reach,
    and it is unknown which versions were yanked.
    """
    if store.head().revision:
        return False
    try:
        found = repository.published()
    except OSError:
        return False
    # Versions that Triton's version policies select are released when they are found.
    mounted = repository if isinstance(repository, MountedRepository) else None
    versions = sum(mounted is None or not mounted.is_triton(one) for one in found)
    if not versions:
        return False
    log.error(
        f"the state store is new, and the repository holds {versions} version{'s' * (versions != 1)}: every one is a "
        "candidate, which plain requests and ranges do not reach",
        what_to_do="if there was a store, stop the servers and restore a backup of it; else release what should "
        "answer, with `turnout release NAME@VERSION`",
        state=repr(store),
    )
    return True


def prepare_log(repository: Repository, store: StateStore, settings: Settings, log: FilteringBoundLogger) -> None:
    """Records versions whose publishers crashed before recording them, and checks the trusted keys.

    Raises:
        ConfigError: A trusted key cannot be read.
    """
    for name in ("", *settings.model):
        Trust.of(settings.for_model(name).signing)
    if settings.read_only:
        return
    try:
        for one in adopt(repository, store, actor="server", timeout=SWEEP_TIMEOUT):
            log.warning(
                "recorded a version that its publisher did not",
                model=one.manifest.model,
                version=str(one.manifest.version),
            )
    except (OSError, UnavailableError) as error:  # not writable or busy: the next start will record them
        log.warning("versions that no event tells of are not recorded", reason=str(error))
