"""Writes the server settings that result from Triton configurations, `[model.NAME]`, as TOML."""

from collections.abc import Mapping
from typing import Any

import tomlkit

Settings = Mapping[str, Mapping[str, Any]]
"""Settings of one model: plain values by table and key. Its own settings, outside any table, are under ""."""


def as_toml(models: Mapping[str, Settings]) -> str:
    """Returns the settings of models, by model name, as TOML; "" if there are none."""
    tables = {
        name: {**settings.get("", {}), **{table: dict(values) for table, values in settings.items() if table}}
        for name, settings in models.items()
        if settings
    }
    return tomlkit.dumps({"model": tables}) if tables else ""
