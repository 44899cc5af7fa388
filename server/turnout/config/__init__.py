"""Settings of a server: what they are (`settings`), what they are made of (`values`), where they come from (`sources`).

`Settings(...)` reads nothing but its arguments; `load_settings` reads `turnout.toml`, `TURNOUT_*` and flags.
"""

from turnout.config.settings import (
    Batching,
    Console,
    Drain,
    Limits,
    Loading,
    Log,
    ModelOverrides,
    ModelSettings,
    Oip,
    QueueLimits,
    Repository,
    Rollout,
    Routing,
    Runtime,
    Settings,
    ShadowLane,
    Signing,
    Tracing,
    Transfers,
)
from turnout.config.sources import Loaded, load_settings
from turnout.config.values import Address, Load, LoadAll, LoadLatest, LoadSelectors, Provider

__all__ = [
    "Address",
    "Batching",
    "Console",
    "Drain",
    "Limits",
    "Load",
    "LoadAll",
    "LoadLatest",
    "LoadSelectors",
    "Loaded",
    "Loading",
    "Log",
    "ModelOverrides",
    "ModelSettings",
    "Oip",
    "Provider",
    "QueueLimits",
    "Repository",
    "Rollout",
    "Routing",
    "Runtime",
    "Settings",
    "ShadowLane",
    "Signing",
    "Tracing",
    "Transfers",
    "load_settings",
]
