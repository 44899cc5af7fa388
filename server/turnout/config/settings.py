"""The settings of a server, and the overrides for single models."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from turnout.address import Address
from turnout.config.auth import Auth
from turnout.config.loading import Loading, SandboxSettings
from turnout.config.repository_url import ModelsField, RepositoryUrl
from turnout.config.rollouts import Probes, RolloutSettings
from turnout.config.runtime import BatchingSettings, Runtime
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
    Section,
    ShadowLane,
    Signing,
    Tracing,
    Transfers,
    TransportSettings,
    WebSettings,
)
from turnout.config.tls import TlsSettings
from turnout.config.values import AddressField, Count, DatabaseUrl, Durations, Load, LoadAll, LoadField

MODEL_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""Pattern of names in `[model.<name>]`. It equals `turnout.registry.manifest.names.MODEL_NAME`, which cannot be
imported here because `registry` is a higher layer."""


class ModelOverrides(Section):
    """Settings of one model. They default to the settings for all models.

    Attributes:
        load: Which versions are loaded: `all`; `latest:N` (the N highest releases, newer candidates and tagged
            versions); `on_demand` (the default version and tagged versions, and every other version when it is first
            requested); or a list of selectors. Versions that policies, rollouts and rollbacks need are always loaded.
            Defaults to `loading.load`.
        slo_ms: Latency objectives. `turnout_slo_exceeded_total` is an exact count of the requests slower than each.
        false_alarm_meter: Share of the baseline's requests that goes to each of two test groups while no rollout runs.
            Both groups are served by the baseline and compared as a canary would be, which measures how often rollouts
            of this model raise a false alarm. 0 for none.
        batching, runtime, limits, shadow, signing, trials: The sections of the same name, for this model.
    """

    load: LoadField = LoadAll()
    slo_ms: Durations = ()
    false_alarm_meter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    batching: BatchingSettings = BatchingSettings()
    runtime: Runtime = Runtime()
    limits: QueueLimits = QueueLimits()
    shadow: ShadowLane = ShadowLane()
    signing: Signing = Signing()
    trials: SandboxSettings = SandboxSettings()


class ModelTable(Mapping[str, ModelOverrides]):
    """The tables `[model.<name>]` of a running server, the only settings that can change while it runs."""

    def __init__(self, models: Mapping[str, ModelOverrides]) -> None:
        self._configured = dict(models)
        self._beneath: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
        self._models = self._configured

    def replace(self, models: Mapping[str, ModelOverrides]) -> None:
        """Replaces the configured tables."""
        self._configured = dict(models)
        self._models = _over_found(self._configured, self._beneath)

    def put_beneath(self, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Sets defaults from the models' own files, by model, table and key. The configuration overrides them.

        Raises:
            ValueError: A value is not valid; nothing is changed.
        """
        if found != self._beneath:
            self._models = _over_found(self._configured, found)
            self._beneath = found

    def __getitem__(self, name: str) -> ModelOverrides:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The effective settings of one model: its overrides applied to the settings for all models.

    Attributes:
        workers: Number of worker processes that share the cores.
    """

    load: Load
    slo_ms: tuple[float, ...]
    false_alarm_meter: float
    batching: BatchingSettings
    runtime: Runtime
    limits: QueueLimits
    shadow: ShadowLane
    signing: Signing
    trials: SandboxSettings
    workers: int


S = TypeVar("S", bound=Section)


class Settings(BaseSettings):
    """All settings of a server.

    Attributes:
        models: The model repository: a directory, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `oci://HOST/NAME`,
            which need a separate `state`. Credentials are never part of it.
        read_only: Serve the content of `models` without ever writing to it: a repository, exported versions, or a
            Triton model repository. Versions cannot be published to it. Without `state`, every version is released (in
            a Triton model repository, those that its version policy serves), and changes are lost when the server
            stops.
        state: URL of the state store; "" for a SQLite file in the repository.
        grpc: Address of the data listener (gRPC). Clients cannot change what is served there.
        http: Address of the HTTP listener, which also serves metrics, probes and the console.
        control: Address of the control listener, for operators.
        insecure: Allow listening on addresses that other machines can reach without TLS or without authentication.
        server_name: Name of this server in `turnout servers`, metrics and verdicts; "" for HOST:PORT of the data
            listener. It must be unique among the servers that share a state store.
        workers: Number of processes that serve requests on the same ports. Each loads every version. The following
            settings are divided between them, with at least 1 for each: `runtime.runners`, `runtime.processes`,
            `runtime.arena_limit_bytes`, `loading.concurrency`, `shadow.max_inflight`, and the limits of `limits` and
            `shadow` on queues, connections and concurrent requests. Linux only.
        probe: Probes by name.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="TURNOUT_", env_nested_delimiter="__", env_ignore_empty=True
    )

    models: ModelsField = Path("models")
    read_only: bool = False
    state: Annotated[DatabaseUrl, Field(repr=False)] = ""  # it may have a password
    grpc: AddressField = Address("127.0.0.1", 8001)
    http: AddressField = Address("127.0.0.1", 8000)
    control: AddressField = Address("127.0.0.1", 8003)
    insecure: bool = False
    server_name: Annotated[str, Field(max_length=200, pattern=r"^[\w.:@-]*$")] = ""
    workers: Annotated[Count, Field(le=256)] = 1
    tls: TlsSettings = TlsSettings()
    auth: Auth = Auth()
    limits: Limits = Limits()
    batching: BatchingSettings = BatchingSettings()
    runtime: Runtime = Runtime()
    transport: TransportSettings = TransportSettings()
    drain: Drain = Drain()
    repository: RepositorySettings = RepositorySettings()
    retention: Retention = Retention()
    transfers: Transfers = Transfers()
    loading: Loading = Loading()
    trials: SandboxSettings = SandboxSettings()
    routing: Routing = Routing()
    signing: Signing = Signing()
    shadow: ShadowLane = ShadowLane()
    rollout: RolloutSettings = RolloutSettings()
    web: WebSettings = WebSettings()
    console: Console = Console()
    oip: Oip = Oip()
    log: Log = Log()
    tracing: Tracing = Tracing()
    probe: Probes = Field(default_factory=dict)
    model: Annotated[
        Mapping[Annotated[str, Field(pattern=f"^{MODEL_KEY}$")], ModelOverrides],
        AfterValidator(lambda m: _unambiguous(m)),
    ] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns only the constructor's arguments as a source, so that the environment is never read implicitly."""
        return (init_settings,)

    @property
    def state_url(self) -> str:
        """URL of the state store: `state`, or else `<models>/.turnout/state.db`; "" if `models` is a URL."""
        if self.state or isinstance(self.models, RepositoryUrl):
            return self.state
        return "sqlite:///" + quote(str((self.models / ".turnout" / "state.db").absolute()))

    def for_model(self, name: str) -> ModelSettings:
        """Returns the effective settings of the model `name`."""
        own = _named(self.model, name)
        return ModelSettings(
            load=own.load if "load" in own.model_fields_set else self.loading.load,
            slo_ms=own.slo_ms,
            false_alarm_meter=own.false_alarm_meter,
            batching=_over(self.batching, own.batching),
            runtime=_over(self.runtime, own.runtime),
            limits=_over(QueueLimits(**_some(self.limits, QueueLimits.model_fields)), own.limits),
            shadow=_over(self.shadow, own.shadow),
            signing=_over(self.signing, own.signing),
            trials=_over(self.trials, own.trials),
            workers=self.workers,
        )


def in_force(before: Settings, after: Settings) -> Settings:
    """Returns `before` with the settings of `after` that a running server can apply: the models and the log level."""
    log = before.log.model_copy(update={"level": after.log.level})
    return before.model_copy(update={"model": dict(after.model), "log": log})


# Created once: each instance copies the defaults of all sections, and every look-up of a model needs one.
_NO_OVERRIDES = ModelOverrides()


def _over_found(
    configured: Mapping[str, ModelOverrides], found: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, ModelOverrides]:
    models = dict(configured)
    for name, tables in found.items():
        key = next((key for key in configured if key.lower() == name.lower()), name)
        metadata_given = configured[key].model_dump(exclude_unset=True) if key in configured else {}
        merged = {table: {**values, **metadata_given.get(table, {})} for table, values in tables.items()}
        models[key] = ModelOverrides(**{**metadata_given, **merged})
    return models


def _named(models: Mapping[str, ModelOverrides], name: str) -> ModelOverrides:
    """Returns the overrides of a model, ignoring case: variables have none, and no two models differ only in case."""
    if (own := models.get(name)) is not None:
        return own
    folded = name.lower()
    return next((own for key, own in models.items() if key.lower() == folded), _NO_OVERRIDES)


def _unambiguous(models: Mapping[str, ModelOverrides]) -> Mapping[str, ModelOverrides]:
    twice = sorted(models, key=lambda name: (name.lower(), name))
    for name, other in pairwise(twice):
        if name.lower() == other.lower():
            raise ValueError(f"expected one table for a model, got {name!r} and {other!r}, which differ in case only")
    return models


def _over(base: S, own: S) -> S:
    return base.model_copy(update=_some(own, own.model_fields_set)) if own.model_fields_set else base


def _some(section: Section, keys: Iterable[str]) -> dict[str, Any]:
    return {key: getattr(section, key) for key in keys}
