"""What configurations of Triton set of a server, `[model.NAME]`, as TOML."""

from collections.abc import Mapping
from typing import Any

import tomlkit

Settings = Mapping[str, Mapping[str, Any]]
"""Of one model: plain values by key, by table; its own, which are in none, under ""."""


def as_toml(models: Mapping[str, Settings]) -> str:
    """Returns the settings of models, by name, as TOML; "" if there are none."""
    tables = {
        name: {**settings.get("", {}), **{table: dict(values) for table, values in settings.items() if table}}
        for name, settings in models.items()
        if settings
    }
    return tomlkit.dumps({"model": tables}) if tables else ""
