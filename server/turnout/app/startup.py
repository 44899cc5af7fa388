"""What is put right before a server serves: the repository's directory, half-done publishes, the log."""

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
"""Things that one command would publish, and that are named."""


def prepare_repository(repository: Repository, settings: Settings, log: FilteringBoundLogger) -> None:
    """Makes the directory if need be, sweeps what crashed publishes left, and reports what is not a version.

    Raises:
        ConfigError: It cannot be read.
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
    """Reports what is not a version. A store that does not answer does not stop the start: there may be a cache."""
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
    """Tells what is not served: at once what one command would publish."""
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
    """Tells whether nothing was ever declared, although there are versions: the store was lost, or never copied.

    Every version is a candidate then, which plain requests and ranges never reach, and nothing is known of yanked ones.
    """
    if store.head().revision:
        return False
    try:
        found = repository.published()
    except OSError:
        return False
    # What Triton's version policies serve is released as it is found.
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
    """Records versions whose publishers died before they could, and checks the keys that are trusted.

    Raises:
        ConfigError: A key cannot be read.
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
    except (OSError, UnavailableError) as error:  # a repository that may only be read, or is busy: the next start will
        log.warning("versions that no event tells of are not recorded", reason=str(error))
