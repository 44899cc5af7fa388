"""Reads the secrets that settings name files for."""

from pydantic import SecretStr

from turnout.config.files import console_token, secret_of
from turnout.config.settings import Settings


def with_secrets(settings: Settings) -> Settings:
    """Returns settings that include the secrets stored in files. Blocking.

    Raises:
        ConfigError: A file cannot be read or is invalid.
    """
    console, rollout = settings.console, settings.rollout
    token = console_token(console.token, console.token_file)
    signing = secret_of("rollout.webhook_secret", rollout.webhook_secret, rollout.webhook_secret_file)
    update = {
        "console": console.model_copy(update={"token": SecretStr(token)}),
        "rollout": rollout.model_copy(update={"webhook_secret": SecretStr(signing)}),
    }
    return settings.model_copy(update=update)
