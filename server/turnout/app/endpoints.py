"""Creates what the listeners serve: the gRPC services, the HTTP routes and the console."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from starlette.routing import Route
from starlette.types import ASGIApp

from turnout.admission.requests import Admission, ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.app.authorization import refuse_by
from turnout.app.foundation import Foundation
from turnout.app.rollouts import Rollouts
from turnout.app.scraping import Scrapes
from turnout.app.serving import Serving
from turnout.config import is_loopback
from turnout.host.cpu import lower_priority
from turnout.oip.description import ModelDescription
from turnout.oip.extensions.repository import ModelRepository
from turnout.oip.extensions.settings import ServerSettings
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.extensions.statistics import Statistics
from turnout.oip.services import OipServices
from turnout.publishing import Publisher
from turnout.registry.signing.trust import Trust
from turnout.registry.transfer.uploads import Uploads
from turnout.routing.request_metadata import PreferenceReader
from turnout.routing.traffic_shares import record_weights
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.control.activity import ActivityMethods
from turnout.rpc.control.events import EventMethods
from turnout.rpc.control.probes import ProbeMethods
from turnout.rpc.control.rollouts import RolloutMethods
from turnout.rpc.control.shadows import ShadowMethods
from turnout.rpc.control.traffic import TrafficMethods
from turnout.rpc.control.versions import VersionMethods
from turnout.rpc.guard import MethodGuard
from turnout.rpc.registry.fetches import FetchMethods
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.registry.uploads import UploadMethods
from turnout.rpc.registry.versions import PublishedVersionMethods
from turnout.rpc.server import Services
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.versions.follow import VersionFinder
from turnout.serving.versions.manager import Manager
from turnout.state.release_status import ModelReleaseState
from turnout.telemetry.logging import LogForm, Threshold
from turnout.threads import Threads
from turnout.web.abandoned import AbandonedRequests
from turnout.web.admission import AdmissionGate
from turnout.web.authorization import protect
from turnout.web.body import BodyReceiver
from turnout.web.console.application import console_routes
from turnout.web.console.comparison import VersionComparison
from turnout.web.console.ended_sessions import EndedSessions
from turnout.web.console.pages import Pages
from turnout.web.console.recent import Recent
from turnout.web.console.rollout_history import TrackedRollouts
from turnout.web.console.session import Sessions
from turnout.web.console.views import ModelViews
from turnout.web.exchange import HttpInference
from turnout.web.guard import BrowserGuard
from turnout.web.oip.routes import oip_routes
from turnout.web.predict import predict_routes
from turnout.web.rollouts import rollout_routes
from turnout.web.server import WebServices
from turnout.workers.peers import Peers


@dataclass(frozen=True, slots=True)
class EndpointParts:
    """The components from which the endpoints are created.

    Attributes:
        refresh: Applies recorded changes and published versions.
        accepting: Returns whether the server accepts requests; False once it drains.
        peers: The other workers; None if this is the only one.
    """

    base: Foundation
    serving: Serving
    rollouts: Rollouts
    uploads: Uploads
    refresh: Callable[[], Awaitable[None]]
    accepting: Callable[[], bool]
    peers: Peers | None = None

    @property
    def loads(self) -> Manager | Peers:
        """The object that loads and unloads versions in every worker."""
        return self.peers or self.serving.manager

    def ready(self) -> bool:
        """Returns whether the server should receive traffic.

        That is the case if every version that should be loaded is Ready or Failed, at least one version serves (unless
        there is none to serve), the server is not draining, and the other workers are ready as well.
        """
        others = self.peers is None or self.peers.member.others_ready
        served = not self.serving.availability.unserved
        return self.base.catalog.snapshot.complete and served and self.accepting() and others


def open_uploads(base: Foundation, stack: AsyncExitStack) -> Uploads:
    """Creates the manager of uploads, which `stack` closes."""
    publisher = Publisher(base.settings, base.repository, base.store, base.processes)
    uploads = Uploads(base.repository, publisher, base.settings.transfers)
    stack.callback(uploads.close)
    return uploads


def open_services(
    parts: EndpointParts, threshold: Threshold, form: LogForm, unsent: UnsentBudget, stack: AsyncExitStack
) -> Services:
    """Creates the services of the listeners, which `stack` closes. Clients may change the log's threshold and form."""
    base, serving = parts.base, parts.serving
    limits = base.settings.limits
    guard = MethodGuard(
        InputLimits.of(limits),
        int(limits.max_message_bytes),
        serving.conversions,
        base.metrics.faults,
        base.log,
        unsent,
        base.authority,
        parts.uploads.model_of,
    )
    # Dedicated threads at a low priority: hashing and gates use a core for seconds, and live requests come first.
    executor = Threads("registry", base.settings.transfers.max_uploads, lower_priority)
    stack.callback(executor.shutdown, wait=True, cancel_futures=True)
    threads = CancellableThreads(executor)
    return Services(
        guard, serving.inference, base.catalog, serving.router, _oip(parts, threshold, form, stack), _control(parts),
        _registry(parts, threads), threads, parts.ready, parts.peers,
    )  # fmt: skip


def open_web(
    parts: EndpointParts,
    oip: OipServices,
    scrapes: Scrapes,
    recent: Recent,
    ended: EndedSessions,
    admission: Admission,
    budget: ReceiveBudget,
    unsent: UnsentBudget,
    stack: AsyncExitStack,
) -> ASGIApp:
    """Creates the application of the HTTP listener, which shares services, admission and budgets with gRPC."""
    base, serving, member = parts.base, parts.serving, None if parts.peers is None else parts.peers.member
    settings = base.settings
    sessions = Sessions(
        settings.console.token.get_secret_value(),
        ended,
        base.authority,
        b"" if member is None else member.start.session_key.get_secret_value().encode(),
        settings.workers,
    )
    bodies = BodyReceiver(int(settings.limits.http_max_body_bytes), budget)
    runs = HttpInference(serving.inference, PreferenceReader(settings.routing), bodies, unsent, new_request_id)
    limits = InputLimits.of(settings.limits)
    endpoints = [
        *predict_routes(runs, serving.router, limits),
        *oip_routes(runs, oip, settings.oip, trailing_metadata, limits),
        *rollout_routes(parts.rollouts.log),
    ]
    web = WebServices(
        scrapes.scrape if member is None else member.scrape,
        parts.ready,
        serving.availability,
        base.metrics.faults,
        endpoints,
        _console(parts, recent, sessions) if settings.console.enabled else (),
        partial(
            protect,
            authority=base.authority,
            refuse=refuse_by,
            session=sessions.caller,
            anonymous_metrics=settings.auth.anonymous_metrics,
        ),
        base.authority is not None,
    )
    guarded = BrowserGuard(web.application(), settings.web.hosts, loopback=is_loopback(settings.http.host))
    watched = AbandonedRequests(AdmissionGate(guarded, admission, base.log, parts.accepting))
    stack.callback(watched.close)
    return watched


def _console(parts: EndpointParts, recent: Recent, sessions: Sessions) -> Sequence[Route]:
    base, serving, rollouts = parts.base, parts.serving, parts.rollouts
    part = "" if parts.peers is None else parts.peers.part
    models = ModelViews(base.catalog, serving.policies, serving.explainer, recent, part)
    comparison = VersionComparison(
        base.repository, lambda model: ProcessSandbox(base.settings.for_model(model), base.processes)
    )
    tracked = TrackedRollouts(rollouts.log)
    pages = Pages(models, serving.shadows, rollouts.engine, tracked, comparison, sessions)
    return console_routes(pages, rollouts.engine, base.metrics.server.auth, base.log, parts.peers)


def _control(parts: EndpointParts) -> Sequence[object]:
    base, serving, rollouts, peers = parts.base, parts.serving, parts.rollouts, parts.peers
    catalog, manager, engine = base.catalog, serving.manager, rollouts.engine

    def sample() -> None:
        manager.sample()
        record_weights(catalog, serving.policies, serving.router)

    return (
        EventMethods(base.store),
        VersionMethods(parts.loads, manager.refresh, catalog, rollouts.release_writer, rollouts.releases),
        TrafficMethods(serving.traffic, serving.policies, catalog, serving.explainer, engine.answers, peers),
        ShadowMethods(catalog, serving.shadows, peers),
        RolloutMethods(engine, rollouts.releases, rollouts.log, rollouts.previews, rollouts.analyses, peers),
        ProbeMethods(rollouts.analyses, catalog, engine),
        ActivityMethods(sample, catalog, engine, base.metrics, parts.accepting, peers),
    )


def _oip(parts: EndpointParts, threshold: Threshold, form: LogForm, stack: AsyncExitStack) -> OipServices:
    base, serving, peers = parts.base, parts.serving, parts.peers
    router, catalog, settings = serving.router, base.catalog, base.settings
    shared_memory = SharedMemory(settings.oip, int(settings.limits.max_message_bytes), peers)
    stack.callback(shared_memory.close)
    return OipServices(
        ModelDescription(router, catalog, parts.accepting, shared_memory=shared_memory.enabled),
        Statistics(router, catalog, peers),
        ModelRepository(
            router,
            catalog,
            parts.loads,
            VersionFinder(catalog, base.repository.look_soon, parts.refresh),
            serving.manager.asked,
        ),
        ServerSettings(threshold, form, serving.tracer, catalog, peers, base.log),
        shared_memory,
    )


def _registry(parts: EndpointParts, threads: CancellableThreads) -> Sequence[object]:
    base, rollouts, transfers = parts.base, parts.rollouts, parts.base.settings.transfers

    def release_state(model: str) -> ModelReleaseState:
        return base.store.release_state().of(model)

    def trust(model: str) -> Trust:
        return Trust.of(base.settings.for_model(model).signing)

    return (
        UploadMethods(parts.uploads, rollouts.operations, release_state, parts.refresh, threads, transfers.idle_s),
        FetchMethods(base.repository, threads, transfers.idle_s, transfers.max_fetches),
        PublishedVersionMethods(base.repository, rollouts.release_writer, release_state, trust, parts.refresh, threads),
    )
