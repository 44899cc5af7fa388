"""Sets up authentication and authorization from the server's settings."""

from structlog.typing import FilteringBoundLogger

from turnout.auth.authority import Authority
from turnout.auth.policy.policy_file import load_policy
from turnout.config import Settings, check_exposure, open_to_anybody
from turnout.telemetry.metrics.auth import AuthRecorder
from turnout.web.authorization import Refuse
from turnout.web.console.application import console_refusal
from turnout.web.errors import refusal_of

POLICY_FAILING = (
    "the policy file cannot be used, and the previous policy stays in force: the log says what is wrong with it"
)


def open_authority(settings: Settings, recorder: AuthRecorder, log: FilteringBoundLogger) -> Authority | None:
    """Returns the object that authorizes callers; None if `[auth]` is not enabled. Blocking.

    Logs a warning for each listener that other machines can reach without authentication or encryption.

    Raises:
        ConfigError: The policy file is invalid, or a listener would be open to other machines without `--insecure`.
    """
    check_exposure(settings)
    for listener in open_to_anybody(settings):
        log.warning("open to anybody", listener=listener, address=str(getattr(settings, listener)))
    if not settings.auth.enabled:
        return None
    share = settings.workers
    return Authority(settings.auth, load_policy(settings.auth.policy, share), recorder, log, share)


def refuse_by(path: str) -> Refuse:
    """Returns the function that creates the error response for a rejected request, in the format of a route."""
    if path.startswith("/console"):
        return console_refusal
    return lambda _, error: refusal_of(path, error)
