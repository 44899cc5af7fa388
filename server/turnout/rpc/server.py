"""The two gRPC listeners and the services that each of them offers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from structlog.typing import FilteringBoundLogger

from turnout.auth.authority import Authority
from turnout.config import Address, Oip, Settings
from turnout.oip.services import OipServices
from turnout.releases.release import ReleaseStateWriter
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.operators.releases import Releases
from turnout.rollout.preview import Previews
from turnout.rollout.reporting.log import RolloutLog
from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.routing.request_metadata import PreferenceReader
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.routing.traffic_shares import record_weights
from turnout.rpc.authorization import protected
from turnout.rpc.catalog import CatalogServicer
from turnout.rpc.control.activity import ActivityMethods
from turnout.rpc.control.events import EventMethods
from turnout.rpc.control.following import followed
from turnout.rpc.control.rollouts import RolloutMethods
from turnout.rpc.control.traffic import TrafficMethods
from turnout.rpc.control.versions import VersionMethods
from turnout.rpc.guard import MethodGuard
from turnout.rpc.oip.service import DESCRIPTOR as OIP_DESCRIPTOR
from turnout.rpc.oip.service import SERVICE_NAME as OIP_SERVICE
from turnout.rpc.oip.service import oip_methods
from turnout.rpc.prediction import prediction_methods
from turnout.rpc.registry.service import RegistryServicer
from turnout.rpc.standard_services.channelz import ChannelzServicer
from turnout.rpc.standard_services.health import HealthServicer
from turnout.rpc.standard_services.reflection import ALPHA as REFLECTION_ALPHA
from turnout.rpc.standard_services.reflection import V1 as REFLECTION_V1
from turnout.rpc.standard_services.reflection import ReflectionServicer
from turnout.rpc.standard_services.until_drain import until_drain
from turnout.rpc.transport import listening_socket
from turnout.rpc.transport.grpcio import GrpcioListener
from turnout.rpc.transport.port import CallListener, Method, Methods
from turnout.serving.data_plane.data_plane import DataPlane
from turnout.serving.data_plane.inference import Router
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.versions.availability import Availability
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.manager import Manager
from turnout.state.store import StateStore
from turnout.telemetry.metrics.versions import Metrics
from turnout.threads import Threads
from turnout.tls.identity import IdentitySource
from turnout.workers.peers import Peers
from turnout_proto.v1 import catalog_pb2, control_pb2, prediction_pb2, registry_pb2

_PREDICTION: ServiceDescriptor = prediction_pb2.DESCRIPTOR.services_by_name["PredictionService"]
_CATALOG: ServiceDescriptor = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"]
_CONTROL: ServiceDescriptor = control_pb2.DESCRIPTOR.services_by_name["ControlService"]
_REGISTRY: ServiceDescriptor = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
_HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
_CHANNELZ: ServiceDescriptor = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]

_DATA = (_PREDICTION, _CATALOG, _HEALTH)
_OPERATORS = (_CONTROL, _REGISTRY, _CHANNELZ)


@dataclass(frozen=True, slots=True)
class Services:
    """The components that the listeners' methods use.

    Attributes:
        inference: Answers inference requests.
        catalog: Models and versions that are served.
        router: Resolves selectors.
        manager: Loads and unloads versions.
        release_writer: Records releases and tags.
        traffic: Changes traffic policies.
        explainer: Explains routing decisions.
        policies: Traffic policies in force.
        shadows: Shadow lanes.
        rollouts: Runs rollouts.
        releases: Manual releases, withdrawals and rollbacks.
        rollout_log: Reads recorded rollouts.
        registry: Publishes and fetches versions over streams.
        previews: Predicts the effects of rollouts.
        analyses: Runs probes.
        metrics: Metrics of all versions.
        accepting: Returns whether the server accepts requests; False once it drains.
        conversions: Thread that parses large messages.
        oip: Services of the Open Inference Protocol other than inference.
        store: The state store.
        log: Logger for rejected messages and unexpected errors.
        availability: Dependencies that are currently unreachable.
        peers: The other workers; None if this is the only one.
        authority: Authorizes callers; None if `[auth]` is not enabled.
    """

    inference: DataPlane
    catalog: Catalog
    router: Router
    manager: Manager
    release_writer: ReleaseStateWriter
    traffic: Traffic
    explainer: Explainer
    policies: Policies
    shadows: Shadows
    rollouts: RolloutEngine
    releases: Releases
    rollout_log: RolloutLog
    registry: RegistryServicer
    previews: Previews
    analyses: Analyses
    metrics: Metrics
    accepting: Callable[[], bool]
    conversions: Threads
    oip: OipServices
    store: StateStore
    log: FilteringBoundLogger
    availability: Availability
    peers: Peers | None = None
    authority: Authority | None = None

    @property
    def loads(self) -> Manager | Peers:
        """The object that loads and unloads versions in every worker."""
        return self.peers or self.manager

    def ready(self) -> bool:
        """Returns whether the server should receive traffic.

        That is the case if every version that should be loaded is Ready or Failed, at least one version serves (unless
        there is none to serve), the server is not draining, and the other workers are ready as well.
        """
        others = self.peers is None or self.peers.others_ready()
        served = not self.availability.unserved
        return self.catalog.snapshot.complete and served and self.accepting() and others


def data_methods(services: Services, settings: Settings) -> Methods:
    """Returns the methods for clients: prediction, catalog, OIP, health and reflection.

    None of them can change which models and versions are served, unless the settings allow it.
    """
    guard = _guard(services, settings)
    methods = {**_data_methods(guard, services, settings, settings.oip), **_server_methods(guard, services, _DATA)}
    return protected(methods, services.authority)


def control_methods(services: Services, settings: Settings) -> Methods:
    """Returns the methods for operators: the methods for clients, plus control, registry and channelz."""
    guard, registry = _guard(services, settings), services.registry
    methods = {
        **_data_methods(guard, services, settings, settings.oip.model_copy(update=_EVERYTHING)),
        **followed(guard.methods(_CONTROL, *_control(services)), services.peers),
        **followed(guard.methods(_REGISTRY, registry.uploads, registry.versions), services.peers),
        **guard.methods(_CHANNELZ, ChannelzServicer(), skip_unimplemented=True),
        **_server_methods(guard, services, (*_DATA, *_OPERATORS)),
    }
    return protected(methods, services.authority)


def listen(
    methods: Methods,
    address: Address,
    settings: Settings,
    log: FilteringBoundLogger,
    identity: IdentitySource | None,
    shared: bool,
    *,
    channelz: bool = False,
) -> CallListener:
    """Returns a listener that is bound to an address. It accepts no connections until it is started.

    Args:
        methods: Methods by path.
        address: Address to listen on; port 0 selects a free port.
        settings: The server's settings.
        log: Logger for exceptions that methods should not raise.
        identity: The listener's certificate and key; None for plain text.
        shared: Whether other workers listen on the same port, which their supervisor reserves.
        channelz: Whether to collect data for the channelz service.

    Raises:
        ConfigError: The address cannot be bound, or the transport does not support the TLS settings.
    """
    if address.port and not shared:
        # If the port is in use, the gRPC core would write a line of its own to standard error.
        listening_socket.listen(address).close()
    return GrpcioListener(
        methods, address, [*_options(settings, shared), ("grpc.enable_channelz", int(channelz))], log, identity
    )


def _guard(services: Services, settings: Settings) -> MethodGuard:
    limits = settings.limits
    return MethodGuard(
        InputLimits.of(limits),
        int(limits.max_message_bytes),
        services.conversions,
        services.metrics.faults,
        services.log,
        services.authority,
        services.registry.uploads.model_of_upload,
    )


_EVERYTHING = {"allow_repository_control": True, "allow_settings_changes": True}
"""Settings of `[oip]` that are overridden for operators."""


def _data_methods(guard: MethodGuard, services: Services, settings: Settings, allowed: Oip) -> Mapping[str, Method]:
    preferences = PreferenceReader(settings.routing)
    max_items = settings.limits.max_stream_items
    return {
        **prediction_methods(services.inference, preferences, max_items, guard),
        **guard.methods(_CATALOG, CatalogServicer(services.catalog, services.router)),
        **oip_methods(
            plane=services.inference,
            preferences=preferences,
            oip=services.oip,
            allow_repository_control=allowed.allow_repository_control,
            allow_settings_changes=allowed.allow_settings_changes,
            max_stream_items=max_items,
            guard=guard,
        ),
    }


def _control(services: Services) -> Sequence[object]:
    """Returns the objects that implement the control service."""
    manager, catalog, rollouts, peers = services.manager, services.catalog, services.rollouts, services.peers

    def sample() -> None:
        manager.sample()
        record_weights(catalog, services.policies, services.router)

    return (
        EventMethods(services.store),
        VersionMethods(services.loads, manager.refresh, catalog, services.release_writer, services.releases),
        TrafficMethods(
            services.traffic, services.policies, catalog, services.explainer, rollouts.answers, services.shadows, peers
        ),
        RolloutMethods(
            rollouts, services.releases, services.rollout_log, services.previews, services.analyses, catalog
        ),
        ActivityMethods(sample, catalog, rollouts, services.metrics, services.accepting, peers),
    )


def _server_methods(
    guard: MethodGuard, services: Services, offered: Sequence[ServiceDescriptor]
) -> Mapping[str, Method]:
    """Returns the methods about the server itself: health and reflection."""
    described = {OIP_SERVICE: OIP_DESCRIPTOR} | {service.full_name: service for service in offered}
    served = frozenset((*described, REFLECTION_ALPHA.full_name, REFLECTION_V1))
    health = HealthServicer(services.catalog, services.router, services.ready, served)
    reflection = ReflectionServicer(described)
    methods = {
        **guard.methods(_HEALTH, health, skip_unimplemented=True),
        **guard.methods(REFLECTION_ALPHA, reflection, skip_unimplemented=True),
        **guard.methods(REFLECTION_ALPHA, reflection, name=REFLECTION_V1, skip_unimplemented=True),
    }
    return until_drain(methods, services.inference.draining)


_MOST_PENDING = 50_000
"""Maximum number of calls on grpcio that wait until they can be admitted or refused, of some 9 KB each. gRPC cancels
calls beyond that, so its defaults (1,000 and 3,000) would be too few: 30 connections with 100 calls each."""


def _options(settings: Settings, shared: bool) -> list[tuple[str, int]]:
    size = int(settings.limits.max_message_bytes)
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.max_concurrent_streams", settings.limits.max_streams),
        # gRPC counts a stream a little longer than its client does, and would refuse calls of clients at the limit.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        ("grpc.so_reuseport", int(shared)),  # otherwise two servers could share a port by mistake, unnoticed
        # Clients keep idle connections alive with pings, which gRPC by default answers with GOAWAY "too_many_pings".
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
