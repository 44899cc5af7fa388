"""Changes one model's settings in a configuration file. The rest of the file, including comments, is preserved."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from turnout.config.sources import load_settings
from turnout.errors import ConfigError, TurnoutError


def model_toml(model: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns settings of a model, by sub-table of `[model.NAME]` and key, as TOML, ready to copy into a configuration
    file.
    """
    return tomlkit.dumps({"model": {model: {table: dict(keys) for table, keys in tables.items()}}})


def write_model(file: Path, model: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Sets settings of a model, by sub-table of `[model.NAME]` and key, in a configuration file, atomically. Comments
    and the order of keys are preserved, and the case of the model's name is ignored.

    Raises:
        ConfigError: The file cannot be read, parsed or written, or would be invalid with the change. The file is left
            unchanged.
    """
    try:
        document = tomlkit.parse(file.read_text("utf-8"))
        models = document.setdefault("model", tomlkit.table(is_super_table=True))
        name = next((key for key in models if key.lower() == model.lower()), model)
        own = models.setdefault(name, tomlkit.table(is_super_table=True))
        for table, keys in tables.items():
            section = own.setdefault(table, tomlkit.table())
            for key, value in keys.items():
                section[key] = value
        text = tomlkit.dumps(document)
    except OSError as error:
        raise ConfigError(f"{file} cannot be changed: {error.strerror}") from None
    except (TOMLKitError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file} is not TOML that can be changed here: {error}") from None
    _replace(file, text)


def _replace(file: Path, text: str) -> None:
    real = file.resolve()  # replaces a symbolic link's target, not the link
    new = real.with_name(f".{real.name}.{os.getpid()}.new")
    try:
        new.touch(0o600)  # it may contain secrets
        new.write_text(text, "utf-8")
        new.chmod(real.stat().st_mode & 0o7777)
        load_settings(new)
        new.replace(real)
    except OSError as error:
        raise ConfigError(f"{file} cannot be changed: {error.strerror}") from None
    except TurnoutError as error:
        raise ConfigError(f"{file} is unchanged; the change would make it invalid: {error.message}") from None
    finally:
        new.unlink(missing_ok=True)
