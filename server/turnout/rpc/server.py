"""The two gRPC listeners and the services that each of them offers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from structlog.typing import FilteringBoundLogger

from turnout.config import Address, Oip, Settings
from turnout.oip.services import OipServices
from turnout.routing.request_metadata import PreferenceReader
from turnout.rpc.authorization import protected
from turnout.rpc.catalog import CatalogServicer
from turnout.rpc.control.following import followed
from turnout.rpc.guard import MethodGuard
from turnout.rpc.oip.service import DESCRIPTOR as OIP_DESCRIPTOR
from turnout.rpc.oip.service import SERVICE_NAME as OIP_SERVICE
from turnout.rpc.oip.service import oip_methods
from turnout.rpc.prediction import prediction_methods
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.standard_services.channelz import channelz_servicer
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
from turnout.serving.versions.catalog import Catalog
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
    """What the listeners' methods call.

    `control` and `registry` have the objects that implement these services, and `ready` returns whether the server
    should receive traffic. `peers` are the other workers; None if this is the only one.
    """

    guard: MethodGuard
    inference: DataPlane
    catalog: Catalog
    router: Router
    oip: OipServices
    control: Sequence[object]
    registry: Sequence[object]
    registry_threads: CancellableThreads
    ready: Callable[[], bool]
    peers: Peers | None


def data_methods(services: Services, settings: Settings) -> Methods:
    """Returns the methods for clients: prediction, catalog, OIP, health and reflection.

    None of them can change which models and versions are served, unless the settings allow it.
    """
    methods = {**_data_methods(services, settings, settings.oip), **_server_methods(services, _DATA)}
    return protected(methods, services.guard.authority)


def control_methods(services: Services, settings: Settings) -> Methods:
    """Returns the methods for operators: the methods for clients, plus control, registry and channelz."""
    guard = services.guard
    methods = {
        **_data_methods(services, settings, settings.oip.model_copy(update=_EVERYTHING)),
        **followed(guard.methods(_CONTROL, *services.control), services.peers),
        **followed(guard.methods(_REGISTRY, *services.registry), services.peers),
        **guard.methods(_CHANNELZ, channelz_servicer(), skip_unimplemented=True),
        **_server_methods(services, (*_DATA, *_OPERATORS)),
    }
    return protected(methods, guard.authority)


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

    Port 0 selects a free port. With `shared`, other workers listen on the same port, which their supervisor reserves.

    Raises:
        ConfigError: The address cannot be bound, or the transport does not support the TLS settings.
    """
    if address.port and not shared:
        # If the port is in use, the gRPC core would write a line of its own to standard error.
        listening_socket.listen(address).close()
    return GrpcioListener(
        methods, address, [*_options(settings, shared), ("grpc.enable_channelz", int(channelz))], log, identity
    )


_EVERYTHING = {"allow_repository_control": True, "allow_settings_changes": True}
"""Settings of `[oip]` that are overridden for operators."""


def _data_methods(services: Services, settings: Settings, allowed: Oip) -> Mapping[str, Method]:
    guard = services.guard
    preferences = PreferenceReader(settings.routing)
    max_items = settings.limits.max_stream_items
    return {
        **prediction_methods(services.inference, preferences, max_items, guard),
        **guard.methods(_CATALOG, CatalogServicer(services.catalog, services.router)),
        **oip_methods(services.inference, preferences, services.oip, allowed, max_items, guard),
    }


def _server_methods(services: Services, offered: Sequence[ServiceDescriptor]) -> Mapping[str, Method]:
    guard = services.guard
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


_UNLIMITED_MS = 2**31 - 1


def _milliseconds(seconds: float) -> int:
    """Returns a duration as the gRPC core takes it. 0 means that there is no limit."""
    return min(int(seconds * 1000) or _UNLIMITED_MS, _UNLIMITED_MS)


def _options(settings: Settings, shared: bool) -> list[tuple[str, int]]:
    limits = settings.limits
    size, header_size = int(limits.max_message_bytes), int(limits.max_header_bytes)
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.max_concurrent_streams", limits.max_streams),
        # Between these two sizes, gRPC would reject some of the calls at random.
        ("grpc.max_metadata_size", header_size),
        ("grpc.absolute_max_metadata_size", header_size),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.header_timeout_s)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_timeout_s)),
        ("grpc.max_connection_age_ms", _milliseconds(limits.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(settings.drain.timeout_s)),
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
