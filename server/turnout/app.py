"""Puts a server together and runs it: the only place where the parts meet.

running()   startup -> serve -> drain -> shutdown, as one context
run()       the same for a process: until a signal, or until a part that must not end does
"""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from semver import Version
from starlette.routing import Route
from structlog.typing import FilteringBoundLogger

from turnout.config import Address, Settings
from turnout.life import SideTasks, drain
from turnout.oip.description import Description
from turnout.publishing import Publisher
from turnout.registry.announcement import Bounds
from turnout.registry.repository import Repository
from turnout.registry.trust import Trust
from turnout.registry.uploads import Uploads
from turnout.rollout.attempt import Entry, Rollout
from turnout.rollout.controller import Rollouts
from turnout.rollout.driven import Observer
from turnout.rollout.enforcement import Enforcement
from turnout.rollout.meter import FalseAlarmMeters
from turnout.rollout.preview import Previews
from turnout.rollout.roster import Roster
from turnout.rollout.shown import record_rollouts
from turnout.rollout.webhook import Webhook
from turnout.routing.adoption import Recorder
from turnout.routing.applied import Policies
from turnout.routing.configured import named
from turnout.routing.declarations import Declarer
from turnout.routing.explain import Explainer
from turnout.routing.preferences import PreferenceReader
from turnout.routing.router import PolicyRouter
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.routing.weights import record_epochs, record_weights
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.errors import code_name
from turnout.rpc.registry.service import RegistryServicer
from turnout.rpc.server import Services, control_server, data_server, listen
from turnout.serving import providers
from turnout.serving.catalog import Catalog
from turnout.serving.conversion import ConversionThread
from turnout.serving.follow import follow
from turnout.serving.inference import Inference
from turnout.serving.limits import InputLimits
from turnout.serving.manager import Manager
from turnout.serving.memory import device_memory, pci_addresses
from turnout.serving.nvml import Nvml
from turnout.serving.priority import step_back
from turnout.serving.replay import Replays
from turnout.serving.traced import TracedInference
from turnout.startup import prepare_log, prepare_repository
from turnout.state.store import StateStore
from turnout.telemetry.exposition import Form
from turnout.telemetry.logging import AccessLog, LibraryLogs, make_logger
from turnout.telemetry.metrics import Metrics
from turnout.telemetry.tracing.assembly import tracing
from turnout.web.console.application import console_routes
from turnout.web.console.recent import Recent
from turnout.web.guard import Guard, is_loopback
from turnout.web.oip.description import DescriptionEndpoints
from turnout.web.oip.inference import InferenceEndpoint
from turnout.web.oip.routes import oip_routes
from turnout.web.server import Web, bind, http_server

_EXPIRY_SECONDS = 0.5
"""Between two looks for uploads that nobody goes on with, at least."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs.

    Attributes:
        grpc: Where the data listener listens.
        http: Where the HTTP listener listens.
        control: Where the control listener listens.
        services: What the listeners serve.
        failed: Done when a part that must not end ended; its exception says why.
    """

    grpc: Address
    http: Address
    control: Address
    services: Services
    failed: "asyncio.Future[None]"


@asynccontextmanager
async def running(settings: Settings, log: FilteringBoundLogger) -> AsyncIterator[Running]:
    """Runs a server for as long as the context is entered; leaving it drains and stops the server.

    Raises:
        ConfigError: An address cannot be had, or a setting cannot be met here.
        Unavailable: The state store does not answer.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(LibraryLogs(log))
        await asyncio.to_thread(providers.start_runtime)
        root = await asyncio.to_thread(prepare_repository, settings, log)
        store = await asyncio.to_thread(StateStore.open, settings.state_url)
        stack.callback(store.close)
        nvml = await asyncio.to_thread(Nvml.open, log)
        if nvml is not None:
            stack.callback(nvml.close)

        repository, catalog, metrics = Repository(root), Catalog(), Metrics()
        await asyncio.to_thread(prepare_log, repository, store, settings, log)
        policies = Policies()

        def held(model: str) -> Mapping[Version, str]:
            return {**roster.held(model), **policies.held(model)}

        router = PolicyRouter(catalog, policies, serve_yanked=settings.routing.yanked_pins == "warn")
        access = AccessLog(log, settings.log.access_sample_rate)
        tracer = await stack.enter_async_context(tracing(settings.tracing, metrics.server.spans, log))
        conversions = ConversionThread()
        stack.callback(conversions.close)
        plane = Inference if tracer is None else TracedInference
        inference = plane(router, catalog, metrics, access, code_name, conversions)
        manager = Manager(repository, store.declared, settings, named, held, catalog, metrics, log)
        shadows = Shadows(settings, catalog, metrics, repository.directory, log)
        traffic = Traffic(store, catalog, policies, shadows.observe, log)
        webhook = Webhook(settings.rollout, log)

        def tell(model: str, rollout: Rollout, entry: Entry) -> None:
            if rollout.state.final and entry.kind == str(rollout.state):
                metrics.rollouts.verdicts[model, entry.kind] += 1
            webhook.tell(model, rollout, entry)

        tick = settings.rollout.tick_s
        replays = Replays()
        stack.push_async_callback(replays.close)
        observer = Observer(catalog, policies, shadows, replays, tick)
        roster = Roster(store, observer, manager.reconcile, log)
        enforcement = Enforcement(store, traffic, policies, observer, roster, manager.refresh, tick, tell, log)
        rollouts = Rollouts(
            store, traffic, policies, catalog, observer, roster, enforcement, manager.reconcile, tick, log
        )
        declarer = Declarer(repository, store)
        uploads = _uploads(repository, store, settings)
        stack.callback(uploads.close)
        meters = FalseAlarmMeters(
            lambda model: settings.for_model(model).false_alarm_meter, catalog, policies, observer, log
        )
        previews = Previews(catalog, rollouts)
        recent = Recent(catalog)
        explainer = Explainer(router, catalog, policies)
        console: Sequence[Route] = ()
        if settings.console.enabled:
            token = settings.console.token.get_secret_value()
            console = console_routes(catalog, policies, shadows, rollouts, explainer, recent, token, log)
        services = Services(
            inference=inference,
            catalog=catalog,
            router=router,
            manager=manager,
            declarer=declarer,
            traffic=traffic,
            explainer=explainer,
            policies=policies,
            shadows=shadows,
            rollouts=rollouts,
            registry=_registry(repository, uploads, declarer, store, manager, settings, stack),
            previews=previews,
            metrics=metrics,
            accepting=lambda: not readiness_off.is_set(),
            conversions=conversions,
            log=log,
            tracer=tracer,
        )
        readiness_off = asyncio.Event()

        async def scrape(form: Form) -> bytes:
            manager.sample()
            if tracer is not None:
                tracer.flush()  # what it traced gives examples of what is counted
            record_weights(catalog, policies, router)
            record_epochs(catalog, policies, metrics.server)
            record_rollouts(rollouts, meters, metrics.rollouts)
            metrics.server.memory = await asyncio.to_thread(device_memory, manager.devices)
            if nvml is not None:
                metrics.server.gpus = await asyncio.to_thread(lambda: nvml.read(pci_addresses(manager.devices)))
            return await metrics.scrape(form)

        async def refresh() -> None:
            await traffic.refresh()  # first: what a policy needs is loaded, and stays so
            await manager.refresh()

        preferences = PreferenceReader(settings.routing)
        body_bytes, limits = int(settings.limits.http_max_body_bytes), InputLimits.of(settings.limits)
        oip = oip_routes(
            InferenceEndpoint(inference, preferences, new_request_id, trailing_metadata, body_bytes, limits),
            DescriptionEndpoints(Description(router, catalog, services.accepting)),
            tracer,
        )
        web = Web(
            inference,
            preferences,
            router,
            scrape,
            services.ready,
            new_request_id,
            body_bytes,
            limits,
            metrics.faults,
            oip,
            console,
            tracer,
        )
        data, control = data_server(services, settings), control_server(services, settings)
        http_socket = bind(settings.http)
        stack.callback(http_socket.close)
        addresses = (
            listen(data, settings.grpc),
            Address(settings.http.host, http_socket.getsockname()[1]),
            listen(control, settings.control),
        )
        guarded = Guard(web.application(), settings.web.hosts, loopback=is_loopback(settings.http.host))
        http = http_server(guarded)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side_tasks = SideTasks(failed)
        stack.push_async_callback(side_tasks.cancel)

        await refresh()
        await data.start()
        await control.start()
        side_tasks.start("http", http.serve(sockets=[http_socket]))
        side_tasks.start("rollouts", rollouts.run(previews.tick, meters.tick))
        side_tasks.start("webhook", webhook.run())
        side_tasks.start("uploads", _expire(uploads, settings.transfers.keep_s))
        if console:
            side_tasks.start("recent", recent.run())
        side_tasks.start("follow", follow(refresh, store.revision, root, settings.repository, log))
        stack.push_async_callback(drain, services, settings, data, control, http, side_tasks)
        try:
            yield Running(*addresses, services, failed)
        finally:
            readiness_off.set()
            catalog.swap(catalog.snapshot)  # wakes who watches the health


async def run(settings: Settings) -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal ends the process at once.

    Returns:
        The exit code: 0 after a drain, 1 where a part that must not end did.

    Raises:
        ConfigError, Unavailable: As `running`.
    """
    log = make_logger(settings.log.format, settings.log.level)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(1)  # asked twice: no drain, no farewell
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(settings, log) as server:
        log.info("listening", grpc=str(server.grpc), http=str(server.http), control=str(server.control))
        # What lives as long as the process is looked at by no collection from now on: each would stall the loop for it.
        gc.collect()
        gc.freeze()
        signalled = asyncio.ensure_future(stopping.wait())
        ends: list[asyncio.Future[Any]] = [signalled, server.failed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        failure = server.failed.exception() if server.failed.done() else None
        if failure is not None:
            log.error("a side task died; the server stops", reason=str(failure), exc_info=failure)
        log.info("draining", seconds=settings.drain.timeout_s)
    log.info("stopped")
    return 0 if failure is None else 1


def _uploads(repository: Repository, store: StateStore, settings: Settings) -> Uploads:
    transfers, publisher = settings.transfers, Publisher(settings, repository, store)

    def yanked(model: str) -> list[Version]:
        return Recorder(repository, store, "", "").yanked(model)

    bounds = Bounds(int(transfers.max_file_bytes), int(transfers.max_upload_bytes))
    return Uploads(repository, publisher, yanked, bounds, transfers.max_uploads, transfers.keep_s)


def _registry(
    repository: Repository,
    uploads: Uploads,
    declarer: Declarer,
    store: StateStore,
    manager: Manager,
    settings: Settings,
    stack: AsyncExitStack,
) -> RegistryServicer:
    # Threads of their own: hashing and gates take a core for seconds, and live requests come first.
    threads = ThreadPoolExecutor(settings.transfers.max_uploads, "registry", initializer=step_back)
    stack.callback(threads.shutdown, wait=True, cancel_futures=True)
    return RegistryServicer(
        repository,
        uploads,
        declarer,
        lambda model: store.declared().of(model),
        lambda model: Trust.of(settings.for_model(model).signing),
        manager.refresh,
        threads,
        settings.transfers.idle_s,
        settings.transfers.max_fetches,
    )


async def _expire(uploads: Uploads, keep_seconds: float) -> None:
    while True:
        await asyncio.sleep(max(keep_seconds / 4, _EXPIRY_SECONDS))
        await asyncio.to_thread(uploads.expire)
