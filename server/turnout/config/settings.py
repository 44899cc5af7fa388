"""All that can be set: for a server, and for one model otherwise than for the rest."""

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
from turnout.config.sections import (
    BatchingSettings,
    Drain,
    Limits,
    Log,
    Oip,
    QueueLimits,
    RepositorySettings,
    Retention,
    Routing,
    Runtime,
    Section,
    ShadowLane,
    Signing,
    Tracing,
    Transfers,
    TransportSettings,
)
from turnout.config.tls import TlsSettings
from turnout.config.values import (
    AddressField,
    Count,
    DatabaseUrl,
    Durations,
    Load,
    LoadAll,
    LoadField,
)
from turnout.config.web import Console, WebSettings

MODEL_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""Names that `[model.<name>]` takes: `turnout.registry.manifest.names.MODEL_NAME`, which lies above this module."""


class ModelOverrides(Section):
    """Settings of one model. A key that you leave out has the value for all models.

    Attributes:
        load: Which versions are loaded: `all`, `latest:N` (the N highest releases, newer candidates and what tags
            name), `on_demand` (what answers by default and what tags name; every other version by the first request for
            it), or a list of selectors; and always what policies, rollouts and rollbacks need. As `loading.load` where
            it is not set.
        slo_ms: Latency objectives; slower requests are counted exactly by `turnout_slo_exceeded_total`.
        false_alarm_meter: Share of the baseline's requests that each of two lanes of it gets while nothing is rolled
            out, to be compared as a canary would be: how often rollouts of this model raise a false alarm. 0: none.
        batching, runtime, limits, shadow, signing, trials: As the sections of the same name.
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
    """`[model.<name>]` of a server that runs: the one part of its settings that changes then."""

    def __init__(self, models: Mapping[str, ModelOverrides]) -> None:
        self._configured = dict(models)
        self._beneath: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
        self._models = self._configured

    def replace(self, models: Mapping[str, ModelOverrides]) -> None:
        """Puts others into force."""
        self._configured = dict(models)
        self._models = _over_found(self._configured, self._beneath)

    def put_beneath(self, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Puts into force what models themselves say, by name, table and key, where the configuration says nothing.

        Raises:
            ValueError: That cannot be set; nothing changes.
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
    """What holds for one model: its own settings over everybody's.

    Attributes:
        workers: Processes that share the cores.
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
            which need a `state` elsewhere. Credentials are never part of it.
        read_only: Serve what `models` holds, and never write to it: a repository, exports of versions, or a Triton
            model repository. Nothing is published to it. Without `state`, every version is released (in a Triton model
            repository, those that its version policy serves), and changes are forgotten when the server ends.
        state: URL of the state store; "" for a SQLite file in the repository.
        grpc: The data listener; nothing on it changes what is served.
        http: The same over HTTP, with metrics, probes and the console.
        control: The operators' listener.
        insecure: Listen on addresses that other machines reach without TLS, or without asking who calls.
        server_name: Name of this server among those that share its state store, in `turnout servers`, metrics and
            verdicts; "" for HOST:PORT of the data listener. No two may have the same name.
        workers: Processes that serve, on the same ports. Each loads every version. These are divided between
            them, at least 1 each: `runtime.runners`, `runtime.processes` and `runtime.arena_limit_bytes`,
            `loading.concurrency`, `shadow.max_inflight`, and the limits of `limits` and `shadow` on queues, connections
            and requests under way. Linux only.
        probe: By probe name.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="TURNOUT_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    models: ModelsField = Path("models")
    read_only: bool = False
    state: DatabaseUrl = ""
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
        """Reads the arguments alone, so that no environment reaches a `Settings` by surprise."""
        return (init_settings,)

    @property
    def state_url(self) -> str:
        """URL of the state store: `state`, or that of `<models>/.turnout/state.db`; "" where neither names one."""
        if self.state or isinstance(self.models, RepositoryUrl):
            return self.state
        return "sqlite:///" + quote(str((self.models / ".turnout" / "state.db").absolute()))

    def for_model(self, name: str) -> ModelSettings:
        """Returns what holds for the model `name`."""
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
    """Returns what of `after` can be put into force in a server that was started with `before`."""
    log = before.log.model_copy(update={"level": after.log.level})
    return before.model_copy(update={"model": dict(after.model), "log": log})


# Made once: a new one copies the defaults of all its sections, and this is asked for at each look at a model.
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
    """Returns what is set for a model in whatever case: variables have none, and no two models differ in it alone."""
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
    return base.model_copy(update=_some(own, own.model_fields_set))


def _some(section: Section, keys: Iterable[str]) -> dict[str, Any]:
    return {key: getattr(section, key) for key in keys}
