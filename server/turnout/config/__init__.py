"""Settings of a server: `settings` and `sections` declare them, `values` has their types, `sources` reads them.

`Settings(...)` uses only its arguments; `load_settings` reads `turnout.toml`, `TURNOUT_*` variables and flags.
"""

from turnout.address import Address, is_loopback
from turnout.config.auth import Auth, JwtIssuer
from turnout.config.exposure import check_exposure, open_to_anybody
from turnout.config.loading import Loading, SandboxSettings
from turnout.config.repository_url import RepositoryUrl
from turnout.config.rollouts import Probe, RolloutSettings
from turnout.config.runtime import BatchingSettings, DimensionSizes, Runtime
from turnout.config.sections import (
    Console,
    Drain,
    Limits,
    Log,
    Oip,
    QueueLimits,
    RepositorySettings,
    Retention,
    Routing,
    ShadowLane,
    Signing,
    Tracing,
    Transfers,
    TransportSettings,
    WebSettings,
)
from turnout.config.settings import ModelOverrides, ModelSettings, ModelTable, Settings, in_force
from turnout.config.sources import (
    LoadedSettings,
    SettingsSource,
    load_settings,
    misread_variables,
    reread,
    with_secrets,
)
from turnout.config.tls import LISTENERS, ClientCertificates, ListenerName, ListenerTls, TlsSettings
from turnout.config.values import Load, LoadAll, LoadLatest, LoadOnDemand, LoadSelectors, Provider

__all__ = [
    "LISTENERS", "Address", "Auth", "BatchingSettings", "ClientCertificates", "Console", "DimensionSizes", "Drain",
    "JwtIssuer", "Limits", "ListenerName", "ListenerTls", "Load", "LoadAll", "LoadLatest", "LoadOnDemand",
    "LoadSelectors", "LoadedSettings", "Loading", "Log", "ModelOverrides", "ModelSettings", "ModelTable", "Oip",
    "Probe", "Provider", "QueueLimits", "RepositorySettings", "RepositoryUrl", "Retention", "RolloutSettings",
    "Routing", "Runtime", "SandboxSettings", "Settings", "SettingsSource", "ShadowLane", "Signing", "TlsSettings",
    "Tracing", "Transfers", "TransportSettings", "WebSettings", "check_exposure", "in_force", "is_loopback",
    "load_settings", "misread_variables", "open_to_anybody", "reread", "with_secrets",
]  # fmt: skip
