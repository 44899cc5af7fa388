"""Settings of a server: what they are (`settings`, by `sections`), made of (`values`), and come from (`sources`).

`Settings(...)` reads nothing but its arguments; `load_settings` reads `turnout.toml`, `TURNOUT_*` and flags.
"""

from turnout.config.rollouts import Probe, Rollout
from turnout.config.sections import (
    Batching,
    Console,
    Drain,
    Limits,
    Loading,
    Log,
    Oip,
    QueueLimits,
    Repository,
    Retention,
    Routing,
    Runtime,
    ShadowLane,
    Signing,
    Tracing,
    Transfers,
    Transport,
    Trials,
    Web,
)
from turnout.config.settings import ModelOverrides, ModelSettings, ModelTable, Settings, in_force
from turnout.config.sources import Loaded, SettingsSource, load_settings, misread_variables
from turnout.config.tls import LISTENERS, ClientCertificates, ListenerName, ListenerTls, Tls
from turnout.config.values import Address, Load, LoadAll, LoadLatest, LoadSelectors, Provider

__all__ = [
    "LISTENERS",
    "Address",
    "Batching",
    "ClientCertificates",
    "Console",
    "Drain",
    "Limits",
    "ListenerName",
    "ListenerTls",
    "Load",
    "LoadAll",
    "LoadLatest",
    "LoadSelectors",
    "Loaded",
    "Loading",
    "Log",
    "ModelOverrides",
    "ModelSettings",
    "ModelTable",
    "Oip",
    "Probe",
    "Provider",
    "QueueLimits",
    "Repository",
    "Retention",
    "Rollout",
    "Routing",
    "Runtime",
    "Settings",
    "SettingsSource",
    "ShadowLane",
    "Signing",
    "Tls",
    "Tracing",
    "Transfers",
    "Transport",
    "Trials",
    "Web",
    "in_force",
    "load_settings",
    "misread_variables",
]
