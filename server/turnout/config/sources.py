"""Reads settings: flags override the environment, which overrides the file, which overrides the defaults.

Unknown keys are errors.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError
from pydantic_settings.sources.utils import parse_env_vars

from turnout.config.files import secret_of
from turnout.config.settings import Settings
from turnout.config.tls import LISTENERS
from turnout.config.validation_errors import unknown_variable, validation_errors
from turnout.config.values import LEAST_TOKEN
from turnout.errors import ConfigError, FieldViolation
from turnout.text.toml import parse_toml
from turnout.threads import Threads

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger  # which commands on a repository have no use for

DEFAULT_FILE = Path("turnout.toml")
PREFIX = "TURNOUT_"

_KEPT = "the settings cannot be reloaded; the previous ones stay in force"

FILE_VARIABLE = "TURNOUT_CONFIG"
"""The variable with the path of the configuration file. It is not itself a setting."""

CLIENT_VARIABLES = (
    "TURNOUT_TLS_CA", "TURNOUT_TLS_CERT", "TURNOUT_TLS_KEY", "TURNOUT_TLS_SERVER_NAME", "TURNOUT_TOKEN",
    "TURNOUT_TOKEN_FILE",
)  # fmt: skip
"""Variables with the TLS settings and token of commands that call a server. They are not settings of a server."""

PASSPHRASE_VARIABLE = "TURNOUT_KEY_PASSPHRASE"  # noqa: S105 - a name
"""The variable with the passphrase of the signing key, for commands. It is not a setting of a server."""

_NO_SETTINGS = frozenset((FILE_VARIABLE, PASSPHRASE_VARIABLE, *CLIENT_VARIABLES))

# Kubernetes sets variables for every service in a pod's namespace, and one of them is likely to be called turnout.
_SERVICE_LINK = re.compile(r"TURNOUT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_LINK_URL = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and their origins.

    Attributes:
        file: The configuration file that was read; None if there was none.
        origins: The origin of each value by dotted key: the flag (`--grpc`), the variable (`TURNOUT_GRPC`) or the path
            of the file. Keys with default values are missing.
    """

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """The source of a server's settings, from which they can be read again while it runs.

    Attributes:
        config: Path of the configuration file, as in `load_settings`.
        flags: Flags, as in `load_settings`.
        as_json: Whether to override the format of the log with JSON.
    """

    config: Path | None
    flags: Mapping[str, Any]
    as_json: bool

    def load(self) -> LoadedSettings:
        """Returns the settings and their origins. Raises the errors of `load_settings`."""
        loaded = load_settings(self.config, self.flags)
        if not self.as_json:
            return loaded
        log = loaded.settings.log.model_copy(update={"format": "json"})
        return replace(loaded, settings=loaded.settings.model_copy(update={"log": log}))

    def read(self) -> Settings:
        """Returns the settings. Raises the errors of `load_settings`."""
        return self.load().settings


def load_settings(
    config: Path | None = None, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> LoadedSettings:
    """Reads the settings of a server.

    Args:
        config: Path of the configuration file; None for the value of TURNOUT_CONFIG, or else `./turnout.toml` if it
            exists.
        flags: Command-line flags by top-level key. A value of None means that the flag was not given.
        environ: The environment; None for that of the process.

    Raises:
        ConfigError: The file cannot be read, a key or variable is unknown, or a value is invalid.
    """
    environ = os.environ if environ is None else environ
    file = _file(config, environ)
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    in_file = _read(file)
    in_environment = _in_the_files_case(_Environment(environ).read(), in_file)
    in_flags = {key: value for key, value in (flags or {}).items() if value is not None}
    for key, _ in _leaves(in_file):
        origins[key] = str(file)
    for key, _ in _leaves(in_environment):
        origins[key] = _variable(key, environ)
    for key in in_flags:
        origins[key] = f"--{key}"
    for source in (in_file, in_environment, in_flags):
        _merge(merged, source)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        violations = [FieldViolation(key, text) for key, text in validation_errors(error, origins)]
        raise ConfigError("; ".join(v.description for v in violations), violations=violations) from None
    return LoadedSettings(settings, file, origins)


def _file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


class _Environment(EnvSettingsSource):
    """The `TURNOUT_*` variables of one environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(self._environ, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)

    def read(self) -> dict[str, Any]:
        """Returns the settings in the variables, nested by table.

        Raises:
            ConfigError: A variable is not a setting, or the variable of a table is not a JSON object.
        """
        for name, value in self._environ.items():
            if not name.startswith(PREFIX) or name in _NO_SETTINGS or not value or _is_service_link(name, value):
                continue
            if complaint := unknown_variable(name):
                raise ConfigError(complaint)
        try:
            return self()
        except SettingsError as error:
            table = re.search(r'"(\w+)"', str(error))
            name = PREFIX + table[1].upper() if table else "a TURNOUT_ variable"
            raise ConfigError(f"{name}: expected a table, as a JSON object, or single keys as {name}__KEY") from None


def _in_the_files_case(table: dict[str, Any], in_file: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings from variables, with the names of models in the case that the file uses."""
    in_variables, models = table.get("model"), in_file.get("model")
    if not isinstance(in_variables, dict) or not isinstance(models, dict):
        return table
    written = {name.lower(): name for name in models}
    return table | {"model": {written.get(name.lower(), name): value for name, value in in_variables.items()}}


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_LINK_URL.match(value) is not None


def _variable(key: str, environ: Mapping[str, str]) -> str:
    """Returns the variable that set `key`: its own variable, or that of a table which contains it."""
    upper = {name.upper() for name in environ}
    parts = key.upper().split(".")
    names = [PREFIX + "__".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in upper), names[0])


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        held = into.get(key)
        if isinstance(value, dict) and isinstance(held, dict):
            _merge(held, value)
        else:
            into[key] = value


def misread_variables(settings: Settings, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields a warning for each client variable that was probably meant to set up TLS for the server.

    There are none if any listener uses TLS.
    """
    environ = os.environ if environ is None else environ
    if any(settings.tls.of(listener) for listener in LISTENERS):
        return
    for name, setting in (("TURNOUT_TLS_CERT", "TURNOUT_TLS__CERT"), ("TURNOUT_TLS_KEY", "TURNOUT_TLS__KEY")):
        if environ.get(name):
            yield f"{name} is what clients show; a server reads {setting}, which is not set: it speaks plain text"


async def reread(read: Callable[[], Settings], log: "FilteringBoundLogger") -> Settings | None:
    """Returns the settings as they are now; None if that fails, which is logged.

    `read` is called in a thread, because the file system may hang, or the file may be a pipe without a writer.
    """
    threads = Threads("settings")
    try:
        return await threads.run(read)
    except ConfigError as error:
        log.error(_KEPT, reason=error.message)
    except Exception as error:  # later reloads must still be possible
        log.error(_KEPT, exc_info=error)
    finally:
        threads.shutdown()
    return None


def with_secrets(settings: Settings) -> Settings:
    """Returns settings that include the secrets stored in files. Blocking.

    Raises:
        ConfigError: A file cannot be read or is invalid.
    """
    console, rollout = settings.console, settings.rollout
    token = secret_of("console.token", console.token, console.token_file, least=LEAST_TOKEN)
    signing = secret_of("rollout.webhook_secret", rollout.webhook_secret, rollout.webhook_secret_file)
    update = {
        "console": console.model_copy(update={"token": SecretStr(token)}),
        "rollout": rollout.model_copy(update={"webhook_secret": SecretStr(signing)}),
    }
    return settings.model_copy(update=update)
