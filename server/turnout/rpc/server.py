"""The two gRPC listeners and what each of them serves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from structlog.typing import FilteringBoundLogger

from turnout.config import Address, Settings
from turnout.errors import ConfigError
from turnout.rollout.controller import Rollouts
from turnout.rollout.preview import Previews
from turnout.routing.applied import Policies
from turnout.routing.declarations import Declarer
from turnout.routing.explain import Explainer
from turnout.routing.preferences import PreferenceReader
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.rpc.catalog import CatalogServicer
from turnout.rpc.channelz import ChannelzServicer
from turnout.rpc.control.service import ControlServicer
from turnout.rpc.guard import Guard, GuardedServer
from turnout.rpc.health import HealthServicer
from turnout.rpc.oip.inference import SERVICE_NAME as OIP_SERVICE
from turnout.rpc.oip.service import oip_handler
from turnout.rpc.prediction import PredictionMethods
from turnout.rpc.registry.service import RegistryServicer
from turnout.serving.availability import Availability
from turnout.serving.catalog import Catalog
from turnout.serving.conversion import ConversionThread
from turnout.serving.inference import Inference, Router
from turnout.serving.limits import InputLimits
from turnout.serving.manager import Manager
from turnout.telemetry.metrics import Metrics
from turnout.telemetry.tracing.tracer import Tracer
from turnout.workers.peers import Peers
from turnout_proto.oip import inference_pb2 as oip_pb2
from turnout_proto.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    prediction_pb2,
    registry_pb2,
    registry_pb2_grpc,
)

PREDICTION = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
CATALOG = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
CONTROL = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name
REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True)
class Services:
    """What the listeners serve.

    Attributes:
        inference: The data plane.
        catalog: What is served.
        router: Finds what a selector names.
        manager: Loads and unloads.
        declarer: Records releases and tags.
        traffic: Changes policies.
        explainer: Explains routes.
        policies: In force.
        shadows: The lanes of copies.
        rollouts: How candidates become baselines.
        registry: Publishes and fetches by stream.
        previews: What rollouts would do.
        metrics: What is counted.
        accepting: Tells whether the server takes requests; False once it drains.
        conversions: Parses what is large.
        log: Tells of messages that are refused, and of errors that nobody foresaw.
        availability: What the server depends on and cannot reach now.
        tracer: Traces requests; None where tracing is off.
        peers: The other workers; None where this server is alone.
    """

    inference: Inference
    catalog: Catalog
    router: Router
    manager: Manager
    declarer: Declarer
    traffic: Traffic
    explainer: Explainer
    policies: Policies
    shadows: Shadows
    rollouts: Rollouts
    registry: RegistryServicer
    previews: Previews
    metrics: Metrics
    accepting: Callable[[], bool]
    conversions: ConversionThread
    log: FilteringBoundLogger
    availability: Availability
    tracer: Tracer | None = None
    peers: Peers | None = None

    @property
    def loads(self) -> Manager | Peers:
        """What loads and unloads versions, in every worker."""
        return self.peers or self.manager

    def ready(self) -> bool:
        """Tells whether traffic should be sent here: all that should be loaded is, and the server does not drain."""
        others = self.peers is None or self.peers.others_ready()
        return self.catalog.snapshot.complete and self.accepting() and others


def data_server(services: Services, settings: Settings) -> grpc.aio.Server:
    """Returns the listener for clients: prediction, catalog, OIP, health, reflection. Nothing on it changes a thing."""
    # Of several workers each listens on the port, which their parent keeps for them.
    server = grpc.aio.server(options=_options(settings, reuse_port=services.peers is not None))
    guard = _guard(services, settings)
    guarded = GuardedServer(server, guard)
    allowed = settings.oip.allow_repository_control
    _add_data_services(server, guarded, guard, services, settings, allow_repository_control=allowed)
    names = [PREDICTION, CATALOG, HEALTH, OIP_SERVICE]
    _add_health(guarded, services, names)
    # Reflection finds services by descriptor, and OIP's messages live under our own package name (shared/OIP.md).
    listed = [PREDICTION, CATALOG, HEALTH, oip_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name]
    _add_reflection(guarded, listed)
    return server


def control_server(services: Services, settings: Settings) -> grpc.aio.Server:
    """Returns the listener for operators: all of the data listener, and control, registry and channelz besides."""
    options = _options(settings, reuse_port=services.peers is not None)
    server = grpc.aio.server(options=[*options, ("grpc.enable_channelz", 1)])
    guard = _guard(services, settings)
    guarded = GuardedServer(server, guard)
    _add_data_services(server, guarded, guard, services, settings, allow_repository_control=True)
    control_pb2_grpc.add_ControlServiceServicer_to_server(
        ControlServicer(
            manager=services.manager,
            catalog=services.catalog,
            declarer=services.declarer,
            traffic=services.traffic,
            policies=services.policies,
            explainer=services.explainer,
            shadows=services.shadows,
            rollouts=services.rollouts,
            previews=services.previews,
            router=services.router,
            metrics=services.metrics,
            accepting=services.accepting,
            peers=services.peers,
        ),
        guarded,  # type: ignore[arg-type] # as far as generated code uses it, it is a server
    )
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(services.registry, guarded)  # type: ignore[arg-type]
    channelz_pb2_grpc.add_ChannelzServicer_to_server(ChannelzServicer(), guarded)
    _add_health(guarded, services, [PREDICTION, CATALOG, CONTROL, REGISTRY, HEALTH, OIP_SERVICE])
    _add_reflection(guarded, [PREDICTION, CATALOG, CONTROL, REGISTRY, HEALTH])
    return server


def listen(server: grpc.aio.Server, address: Address) -> Address:
    """Binds `server`, and returns where it listens, with the real port where 0 was asked for.

    Raises:
        ConfigError: The address cannot be had.
    """
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise ConfigError(f"{address} cannot be listened on; is another server there?") from error
    return Address(address.host, port)


def _guard(services: Services, settings: Settings) -> Guard:
    limits = settings.limits
    return Guard(
        InputLimits.of(limits),
        int(limits.max_message_bytes),
        services.conversions,
        services.metrics.faults,
        services.log,
    )


def _add_data_services(
    server: grpc.aio.Server,
    guarded: GuardedServer,
    guard: Guard,
    services: Services,
    settings: Settings,
    *,
    allow_repository_control: bool,
) -> None:
    preferences = PreferenceReader(settings.routing)
    max_items = settings.limits.max_stream_items
    prediction = PredictionMethods(services.inference, preferences, max_items, guard, services.tracer)
    catalog = CatalogServicer(services.catalog, services.router)
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, guarded)  # type: ignore[arg-type]
    oip = oip_handler(
        inference=services.inference,
        preferences=preferences,
        router=services.router,
        catalog=services.catalog,
        control=services.loads,
        accepting=services.accepting,
        allow_repository_control=allow_repository_control,
        max_stream_items=max_items,
        guard=guard,
        tracer=services.tracer,
    )
    server.add_generic_rpc_handlers((prediction.methods(), oip))


def _add_health(guarded: GuardedServer, services: Services, names: Sequence[str]) -> None:
    servicer = HealthServicer(services.catalog, services.router, services.ready, frozenset(names))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, guarded)


def _add_reflection(guarded: GuardedServer, names: Sequence[str]) -> None:
    servicer = reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, guarded)


def _options(settings: Settings, *, reuse_port: bool) -> list[tuple[str, int]]:
    size = int(settings.limits.max_message_bytes)
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.so_reuseport", int(reuse_port)),  # two servers on one port by mistake would share its traffic unnoticed
        # Clients keep idle connections alive with pings; the default answers that with GOAWAY "too_many_pings".
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
