"""What configurations of Triton set of a server, `[model.NAME]`, as TOML."""

import json
import re
from collections.abc import Mapping
from typing import Any

from turnout.config.rendering import value_text

_BARE = re.compile(r"[A-Za-z0-9_-]+")

Settings = Mapping[str, Mapping[str, Any]]
"""Of one model: plain values by key, by table; its own, which are in none, under ""."""


def as_toml(models: Mapping[str, Settings]) -> str:
    """Returns the settings of models, by name, as TOML; "" if there are none."""
    blocks: list[str] = []
    for name, tables in models.items():
        key = name if _BARE.fullmatch(name) else json.dumps(name)
        for table, values in tables.items():
            lines = [f"{one} = {value_text(value)}" for one, value in values.items()]
            header = f"[model.{key}.{table}]" if table else f"[model.{key}]"
            blocks.append("\n".join([header, *lines]) + "\n")
    return "\n".join(blocks)
