"""Where settings come from: flags over environment over file over defaults; what none of them knows is an error."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError
from pydantic_settings.sources.utils import parse_env_vars

from turnout.config.settings import Settings
from turnout.config.tls import LISTENERS
from turnout.config.validation_errors import unknown_variable, validation_errors
from turnout.errors import ConfigError, FieldViolation

DEFAULT_FILE = Path("turnout.toml")
PREFIX = "TURNOUT_"

FILE_VARIABLE = "TURNOUT_CONFIG"
"""Names the file; no setting itself."""

CLIENT_VARIABLES = (
    "TURNOUT_TLS_CA", "TURNOUT_TLS_CERT", "TURNOUT_TLS_KEY", "TURNOUT_TLS_SERVER_NAME", "TURNOUT_TOKEN",
    "TURNOUT_TOKEN_FILE",
)  # fmt: skip
"""What commands trust and present where they call a server; no settings of a server."""

PASSPHRASE_VARIABLE = "TURNOUT_KEY_PASSPHRASE"  # noqa: S105 - a name
"""What commands decrypt a key with that they sign by; no setting of a server."""

_NO_SETTINGS = frozenset((FILE_VARIABLE, PASSPHRASE_VARIABLE, *CLIENT_VARIABLES))

# Kubernetes gives every pod variables about each service beside it, and one is likely to be called turnout.
_SERVICE_LINK = re.compile(r"TURNOUT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_LINK_URL = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and where they came from.

    Attributes:
        file: The file that was read, if any.
        origins: By dotted key: the flag (`--grpc`), the variable (`TURNOUT_GRPC`) or the file's path. A key that is
            not there has its default.
    """

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where a server's settings come from, to be read again while it runs.

    Attributes:
        config: As of `load_settings`.
        flags: As of `load_settings`.
        as_json: The log is in JSON, whatever they say.
    """

    config: Path | None
    flags: Mapping[str, Any]
    as_json: bool

    def load(self) -> LoadedSettings:
        """Returns the settings and their origins; raises as `load_settings`."""
        loaded = load_settings(self.config, self.flags)
        if not self.as_json:
            return loaded
        log = loaded.settings.log.model_copy(update={"format": "json"})
        return replace(loaded, settings=loaded.settings.model_copy(update={"log": log}))

    def read(self) -> Settings:
        """Returns the settings; raises as `load_settings`."""
        return self.load().settings


def load_settings(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Reads the settings of a server.

    Args:
        config: The file to read; None: what TURNOUT_CONFIG names, else `./turnout.toml` where there is one.
        flags: By top-level key; a value of None was not given.
        environ: The environment; None for that of the process.

    Raises:
        ConfigError: The file cannot be read; a key or variable is unknown; a value is not what it should be.
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
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


class _Environment(EnvSettingsSource):
    """The `TURNOUT_*` variables of one environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(self._environ, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)

    def read(self) -> dict[str, Any]:
        """Returns what the variables set, nested by table.

        Raises:
            ConfigError: A variable names no setting, or one that names a table does not hold a JSON object.
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
    """Returns what variables set, with the names of models, which have no case there, as the file writes them."""
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
    """Returns the variable that set `key`: its own, or one that holds a table with it."""
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
    """Yields a sentence for each variable of clients that seems to be meant for the server, which speaks plain text.

    Args:
        settings: Of the server.
        environ: The environment; None for that of the process.
    """
    environ = os.environ if environ is None else environ
    if any(settings.tls.of(listener) for listener in LISTENERS):
        return
    for name, setting in (("TURNOUT_TLS_CERT", "TURNOUT_TLS__CERT"), ("TURNOUT_TLS_KEY", "TURNOUT_TLS__KEY")):
        if environ.get(name):
            yield f"{name} is what clients show; a server reads {setting}, which is not set: it speaks plain text"
