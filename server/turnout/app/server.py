"""Puts a server together and runs it: the only place where the parts meet.

running()   startup -> serve -> drain -> shutdown, as one context
run()       the same for a process: until a signal, or until a part that must not end does
"""

import asyncio
import functools
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from semver import Version
from starlette.routing import Route
from structlog.typing import FilteringBoundLogger

import turnout
from turnout.admission import Admission, ReceiveBudget
from turnout.app.authorization import POLICY_FAILING, open_authority, protection, with_secrets
from turnout.app.lifespan import SideTasks, drain
from turnout.app.listeners import open_listeners
from turnout.app.read_only import forgets, mounted, open_repository, place_to_write, with_state
from turnout.app.reload import Reloader
from turnout.app.startup import NEW_STORE, prepare_log, prepare_repository, store_is_new
from turnout.config import Address, ModelTable, Retention, Settings, is_loopback, misread_variables
from turnout.errors import Unavailable
from turnout.host import lower_priority, return_freed_memory
from turnout.oip.description import Description
from turnout.oip.extensions.repository import ModelRepository
from turnout.oip.extensions.settings import ServerSettings
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.oip.extensions.statistics import Statistics
from turnout.oip.services import OipServices
from turnout.publishing import Publisher
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import CacheUse
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.upload_manifest import Bounds
from turnout.registry.transfer.uploads import Uploads
from turnout.releases.adoption import Recorder
from turnout.releases.pruner import expire
from turnout.releases.release import Declarer
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.changes.operations import Operations
from turnout.rollout.clock import SYSTEM_CLOCK, Clock
from turnout.rollout.engine.adapters.rollout_store import Presence, StoredRollouts
from turnout.rollout.engine.adapters.serving_world import ServingWorld
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.releases import Releases
from turnout.rollout.engine.unrecorded_rollbacks import DiversionFiles
from turnout.rollout.engine.writer import Reports
from turnout.rollout.false_alarm_meter import FalseAlarmMeters
from turnout.rollout.machine.attempt import Entry, Rollout
from turnout.rollout.preview import Previews
from turnout.rollout.reporting.log import RolloutLog
from turnout.rollout.reporting.metrics import record_rollouts
from turnout.rollout.reporting.webhook import Webhook
from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.routing.request_metadata import PreferenceReader
from turnout.routing.router import PolicyRouter
from turnout.routing.selection.load_selectors import named
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.routing.traffic_shares import record_epochs, record_weights
from turnout.rpc.codec import new_request_id, trailing_metadata
from turnout.rpc.errors import code_name
from turnout.rpc.registry.service import RegistryServicer
from turnout.rpc.server import Services
from turnout.scratch import Scratch
from turnout.serving.data_plane.conversion import ConversionThread
from turnout.serving.data_plane.data_plane import DataPlane
from turnout.serving.data_plane.history_bounds import fold_histories
from turnout.serving.data_plane.replay import Replays
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sandbox.fork_server import start_processes
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sandbox.sandbox import TrialLab
from turnout.serving.sessions import providers
from turnout.serving.sessions.memory import device_memory, pci_addresses
from turnout.serving.sessions.nvml import Nvml
from turnout.serving.versions.availability import Availability
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.follow import follow
from turnout.serving.versions.load_policy import Fallbacks
from turnout.serving.versions.manager import Manager
from turnout.serving.versions.pin import Hold
from turnout.state.release_status import Declared
from turnout.state.store import StateStore
from turnout.telemetry.library_logs import LibraryLogs
from turnout.telemetry.logging import AccessLog, LogForm, Threshold, make_logger
from turnout.telemetry.metrics.gpu import Gpu
from turnout.telemetry.metrics.server import Memory
from turnout.telemetry.metrics.versions import Metrics
from turnout.telemetry.system_stats import Reading
from turnout.telemetry.tracing.setup import tracing
from turnout.threads import Threads
from turnout.tls.certificates import Certificates
from turnout.web.admission import AdmissionGate
from turnout.web.body import BodyReceiver
from turnout.web.console.application import console_routes
from turnout.web.console.pages import Pages
from turnout.web.console.recent import Recent
from turnout.web.console.session import Sessions
from turnout.web.exchange import HttpInference
from turnout.web.guard import Guard
from turnout.web.oip.routes import oip_routes
from turnout.web.predict import predict_routes
from turnout.web.rollouts import rollout_routes
from turnout.web.server import Web
from turnout.workers.member import Member
from turnout.workers.peers import Peers
from turnout.workers.snapshot import encode

_SCRAPE_READ_SECONDS = 1.0
"""What a driver may take to answer a scrape, which then shows what it said last."""

_EXPIRY_SECONDS = 0.5
"""Between two looks for uploads that nobody goes on with, at least."""


_RETENTION_SECONDS = 3600.0
"""Between two looks for what the retention lets go."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs.

    Attributes:
        grpc: Where the data listener listens.
        http: Where the HTTP listener listens.
        control: Where the control listener listens.
        services: What the listeners serve.
        failed: Done when a part that must not end ended; its exception says why.
        admission: Says which requests are taken.
        reloader: Puts changed settings into force.
        without_delay: Set to have the drain begin at once: nobody waits for it but whoever stops the server.
    """

    grpc: Address
    http: Address
    control: Address
    services: Services
    failed: "asyncio.Future[None]"
    admission: Admission
    reloader: Reloader
    without_delay: asyncio.Event


@asynccontextmanager
async def running(
    settings: Settings,
    log: FilteringBoundLogger,
    clock: Clock = SYSTEM_CLOCK,
    threshold: Threshold | None = None,
    form: LogForm | None = None,
    member: Member | None = None,
) -> AsyncIterator[Running]:
    """Runs a server for as long as the context is entered; leaving it drains and stops the server.

    Args:
        settings: Of the server.
        log: Where it is told what happens.
        clock: That rollouts and the events of the state store go by.
        threshold: Of the log, where its level can change.
        form: Of its lines, where that can change.
        member: What this server is as one of several workers; None where it is alone.

    Raises:
        ConfigError: An address cannot be had, or a setting cannot be met here.
        Unavailable: The state store does not answer.
    """
    models = ModelTable(settings.model)
    read, settings = settings, settings.model_copy(update={"model": models})
    async with AsyncExitStack() as stack:
        stack.enter_context(LibraryLogs(log))
        starting = Threads("start")
        stack.callback(starting.shutdown)
        metrics = Metrics()
        certificates = Certificates(settings.tls, metrics.server.tls, log)
        stack.callback(certificates.close)
        await starting.run(certificates.load)
        authority = await starting.run(open_authority, settings, metrics.server.auth, log)
        if authority is not None:
            stack.callback(authority.close)
            await authority.start()
        settings = await starting.run(with_secrets, settings)
        await starting.run(providers.start_runtime)
        scratch = stack.enter_context(Scratch())
        processes = start_processes()
        stack.callback(processes.close)
        settings = with_state(settings, scratch)
        describe = TrialLab(settings.for_model(""), processes).describe
        repository, catalog = await starting.run(open_repository, settings, describe, scratch.disk), Catalog()
        stack.callback(repository.close)
        await starting.run(prepare_repository, repository, settings, log)
        store = await starting.run(StateStore.open, settings.state_url, now=clock.now)
        stack.callback(store.close)
        nvml = await starting.run(Nvml.open, log)
        if nvml is not None:
            stack.callback(nvml.close)

        new_store = not forgets(settings) and await starting.run(store_is_new, repository, store, log)
        await starting.run(prepare_log, repository, store, settings, log)
        mount = mounted(repository, store, models, log, release_all=forgets(settings))
        policies = Policies()

        async def declared() -> Declared:
            return await store.in_thread(store.declared)

        def look_at_store() -> int:
            store.check()
            return store.revision()

        async def revision() -> int:
            return await store.in_thread(look_at_store)

        def held(model: str) -> Mapping[Version, Hold]:
            # A rollout's part of a policy is its own to let go.
            return {**policies.held(model), **rollouts.holds(model)}

        def fallbacks(model: str) -> Fallbacks:
            return policies.fallbacks.get(model, Fallbacks())

        router = PolicyRouter(catalog, policies, serve_yanked=settings.routing.yanked_pins == "warn")
        access = AccessLog(log, settings.log.access_sample_rate)
        tracer = await stack.enter_async_context(tracing(settings.tracing, metrics.server.spans, log))
        conversions = ConversionThread()
        stack.callback(conversions.close)
        availability = Availability(metrics.server, log)
        if new_store:
            availability.note(
                NEW_STORE, lambda: not any(m.declarations.standings for m in catalog.snapshot.models.values())
            )
        if authority is not None:
            availability.note(POLICY_FAILING, lambda: authority.policy_failing)
        manager = Manager(
            repository,
            declared,
            settings,
            named,
            held,
            fallbacks,
            catalog,
            availability,
            metrics,
            log,
            processes,
        )
        inference = DataPlane(
            router, catalog, metrics, access, code_name, conversions, tracer, authority, manager.on_demand
        )
        shadows = Shadows(settings, catalog, metrics, repository.directory, log)
        traffic = Traffic(store, catalog, policies, shadows.observe, log)
        webhook = Webhook(settings.rollout, log, clock)

        def tell(model: str, rollout: Rollout, entry: Entry) -> None:
            if rollout.state.final and entry.kind == str(rollout.state):
                metrics.rollouts.verdicts[model, entry.kind] += 1
                if str(rollout.state) == "rolled_back":
                    metrics.rollouts.rollbacks[model, rollout.cause or "other"] += 1
            webhook.tell(model, rollout, entry)

        async def refresh() -> None:
            try:
                await traffic.refresh()  # first: what a policy needs is loaded, and stays so
                await rollouts.rollbacks.note()
                if mount is not None:
                    await mount.refresh()
            except Exception:  # and no `finally`: what is raised there would take the place of a cancellation
                await manager.refresh()
                raise
            await manager.refresh()

        async def follow_all() -> None:
            if authority is not None:  # first: whatever else cannot be followed, a token that is revoked is
                authority.put_tokens(await store.in_thread(store.tokens, revoked=False))
            await refresh()

        tick = settings.rollout.tick_s
        replays = Replays()
        stack.push_async_callback(replays.close)
        world = ServingWorld(catalog, policies, traffic, shadows, replays, manager)
        journal = DiversionFiles(place_to_write(settings, scratch), settings.state_url, log)
        presence = Presence("")  # named once it listens
        analyses = await starting.run(Analyses, settings.probe, settings.rollout, clock, metrics.rollouts, log)
        stack.push_async_callback(analyses.close)
        stored, reports = StoredRollouts(store, presence), Reports(tell, log)
        rollouts = RolloutEngine(world, stored, journal, clock, tick, analyses, reports)
        stack.push_async_callback(rollouts.close)
        operations = Operations(repository, store)
        releases, rollout_log = Releases(rollouts, operations, world, log), RolloutLog(store, catalog)
        declarer = Declarer(repository, store)
        uploads = _uploads(repository, store, settings, processes)
        stack.callback(uploads.close)
        meters = FalseAlarmMeters(
            lambda model: settings.for_model(model).false_alarm_meter, catalog, policies, world, log
        )
        previews = Previews(catalog, world)
        peers = None if member is None else Peers(member, manager, catalog, refresh, log)
        recent = Recent(catalog, peers)
        explainer = Explainer(router, catalog, policies)
        threshold = threshold or Threshold(settings.log.level)
        shared_memory = SharedMemory(settings.oip, int(settings.limits.max_message_bytes), peers)
        stack.callback(shared_memory.close)
        form = form or LogForm(settings.log.format)
        oip = OipServices(
            Description(router, catalog, lambda: not readiness_off.is_set(), shared_memory=shared_memory.enabled),
            Statistics(router, catalog, peers),
            ModelRepository(router, catalog, peers or manager),
            ServerSettings(threshold, form, tracer, catalog, peers, log),
            shared_memory,
        )
        console: Sequence[Route] = ()
        sessions = Sessions(settings.console.token.get_secret_value(), authority)
        if settings.console.enabled:
            part = "" if peers is None else peers.part
            recorder = metrics.server.auth
            pages = Pages(catalog, policies, shadows, rollouts, rollout_log, explainer, recent, sessions, part)
            console = console_routes(pages, rollouts, recorder, log)
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
            releases=releases,
            rollout_log=rollout_log,
            registry=_registry(repository, uploads, declarer, operations, store, refresh, settings, stack),
            previews=previews,
            analyses=analyses,
            metrics=metrics,
            accepting=lambda: not readiness_off.is_set(),
            conversions=conversions,
            oip=oip,
            log=log,
            availability=availability,
            peers=peers,
            authority=authority,
        )
        readiness_off = asyncio.Event()

        scraping = Threads("scrape", 2)
        stack.callback(scraping.shutdown)
        memory: Reading[Mapping[str, Memory]] = Reading(
            lambda: scraping.run(device_memory, manager.devices, manager.child_bytes), {}
        )
        gpus = Reading[Sequence[Gpu]](lambda: scraping.run(_gpus, nvml, manager.devices), ())

        cache_use = Reading[CacheUse | None](lambda: scraping.run(repository.cache_use), None)

        async def sample() -> None:
            manager.sample()
            if tracer is not None:
                tracer.flush()  # what it traced gives examples of what is counted
            record_weights(catalog, policies, router)
            record_epochs(catalog, policies, metrics.server)
            record_rollouts(rollouts, meters, metrics.rollouts)
            if (use := await cache_use.value(_SCRAPE_READ_SECONDS)) is not None:
                metrics.server.cache_bytes, metrics.server.fetched_bytes = use.bytes_kept, use.bytes_fetched
            metrics.server.memory = await memory.value(_SCRAPE_READ_SECONDS)
            metrics.server.gpus = await gpus.value(_SCRAPE_READ_SECONDS)

        async def scrape(content_type: str) -> AsyncIterator[bytes]:
            await sample()
            return metrics.scrape(content_type)

        async def snapshot(_: bytes = b"") -> bytes:
            await sample()
            return await encode(metrics.snapshot())

        admission = Admission(settings.limits.max_requests)
        budget = ReceiveBudget(int(settings.limits.max_unfinished_bytes))
        metrics.server.admission, metrics.server.budget = admission, budget
        preferences = PreferenceReader(settings.routing)
        bodies = BodyReceiver(int(settings.limits.http_max_body_bytes), budget)
        limits = InputLimits.of(settings.limits)
        runs = HttpInference(inference, preferences, bodies, new_request_id)
        told = scrape if member is None else member.scrape
        guarding = protection(settings, authority, sessions)
        protocol = oip_routes(runs, oip, settings.oip, trailing_metadata, limits)
        endpoints = [*predict_routes(runs, router, limits), *protocol, *rollout_routes(rollout_log)]
        web = Web(told, services.ready, availability, metrics.faults, endpoints, console, guarding)
        if peers is not None and member is not None:
            member.answers("snapshot", snapshot)
            stack.push_async_callback(_leave, member, snapshot)
            if member.start.waits:
                await refresh()
                await peers.wait_to_listen()
        guarded = Guard(web.application(), settings.web.hosts, loopback=is_loopback(settings.http.host))
        gate = AdmissionGate(guarded, admission, log, services.accepting)
        listeners = open_listeners(services, settings, gate, certificates, admission, budget, stack)
        without_delay = asyncio.Event()

        async def reread_files() -> None:
            await certificates.reload()
            if authority is not None:
                await authority.reload()

        reloader = Reloader(read, models, threshold, reread_files, refresh, log)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side_tasks = SideTasks(failed)
        stack.push_async_callback(side_tasks.cancel)

        await follow_all()
        await rollouts.rollbacks.follow()  # before the first request: what was taken back stays so
        await oip.catch_up()
        await listeners.start()
        presence.name = server_name(settings.server_name, listeners.grpc.address, member)
        presence.about = {
            "grpc": str(listeners.grpc.address),
            "control": str(listeners.control.address),
            "worker": None if member is None else member.start.index,
            "release": turnout.__version__,
        }
        if peers is not None and member is not None:
            await member.listening()
            side_tasks.start("readiness", peers.tell_ready())
        fold = functools.partial(fold_histories, catalog)
        beside = (fold, previews.tick, meters.tick, releases.record_diversions)
        side_tasks.start("rollouts", rollouts.run(*beside))
        side_tasks.start("webhook", webhook.run())
        side_tasks.start("retention", _retain(store, settings.retention, log))
        side_tasks.start("tls", certificates.watch())
        if authority is not None:
            side_tasks.start("auth", authority.watch())
        side_tasks.start("uploads", _expire(repository, uploads, settings.transfers.keep_s))
        if console:
            side_tasks.start("recent", recent.run())
        told_of_change, loop = asyncio.Event(), asyncio.get_running_loop()
        store.listen(lambda: _in_loop(loop, told_of_change.set))
        side_tasks.start(
            "follow",
            follow(
                follow_all,
                revision,
                availability,
                repository.root,
                settings.repository,
                log,
                told_of_change,
                remote=repository.remote,
            ),
        )
        stack.push_async_callback(drain, services, settings, admission, listeners, side_tasks, without_delay)
        try:
            yield Running(
                listeners.grpc.address,
                listeners.http.address,
                listeners.control.address,
                services,
                failed,
                admission,
                reloader,
                without_delay,
            )
        finally:
            readiness_off.set()
            catalog.swap(catalog.snapshot)  # wakes who watches the health


def server_name(given: str, address: Address, member: Member | None) -> str:
    """Returns what a server goes by among those that share its state store.

    Args:
        given: By the settings; "" for none.
        address: Where it listens for requests.
        member: What it is as one of several workers; None where it is alone.
    """
    name = given or f"{socket.gethostname()}:{address.port}"
    return name if member is None else f"{name}/{member.start.index}"


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the server has stopped
        loop.call_soon_threadsafe(call)


async def _leave(member: Member, snapshot: Callable[[], Awaitable[bytes]]) -> None:
    await member.leave(await snapshot())


async def run(settings: Settings, read: Callable[[], Settings], member: Member | None = None) -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal ends the process at once. SIGHUP reloads the settings.

    Args:
        settings: Of the server.
        read: Reads them anew; it raises ConfigError if they are wrong.
        member: What it is as one of several workers; it drains when its parent is gone, too.

    Returns:
        The exit code: 0 after a drain, 1 where a part that must not end did.

    Raises:
        ConfigError, Unavailable: As `running`.
    """
    return_freed_memory()
    threshold, form = Threshold(settings.log.level), LogForm(settings.log.format)
    log = make_logger(form, threshold)
    if member is not None:
        log = log.bind(worker=member.start.index)
    for sentence in misread_variables(settings):
        log.warning("tls", reason=sentence)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    interrupted = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal interrupted
        if stopping.is_set():
            os._exit(1)  # asked twice: no drain, no farewell
        interrupted = number is signal.SIGINT
        stop()

    def stop() -> None:
        stopping.set()
        if member is not None:
            member.listen_now.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    hung_up = asyncio.Event() if member is None else member.hung_up  # that may be before there is a server
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    if member is not None:
        member.on_parents_end(stop)
    async with running(settings, log, threshold=threshold, form=form, member=member) as server:
        reloads = loop.create_task(_reload(server.reloader, read, hung_up))
        if member is None:
            log.info("listening", grpc=str(server.grpc), http=str(server.http), control=str(server.control))
        # What lives as long as the process is looked at by no collection from now on: each would stall the loop for it.
        gc.collect()
        gc.freeze()
        signalled = asyncio.ensure_future(stopping.wait())
        ends: list[asyncio.Future[Any]] = [signalled, server.failed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        reloads.cancel()
        failure = server.failed.exception() if server.failed.done() else None
        if failure is not None:
            log.error("a side task died; the server stops", reason=str(failure), exc_info=failure)
        if interrupted or failure is not None:
            server.without_delay.set()
        log.info("draining", seconds=settings.drain.timeout_s)
    log.info("stopped")
    return 0 if failure is None else 1


async def _reload(reloader: Reloader, read: Callable[[], Settings], hung_up: asyncio.Event) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reloader.reload(read)


def _uploads(repository: Repository, store: StateStore, settings: Settings, processes: Processes) -> Uploads:
    transfers, publisher = settings.transfers, Publisher(settings, repository, store, processes)

    def yanked(model: str) -> list[Version]:
        return Recorder(repository, store, "", "").yanked(model)

    bounds = Bounds(int(transfers.max_file_bytes), int(transfers.max_upload_bytes))
    return Uploads(repository, publisher, yanked, bounds, transfers.max_uploads, transfers.keep_s)


def _registry(
    repository: Repository,
    uploads: Uploads,
    declarer: Declarer,
    operations: Operations,
    store: StateStore,
    refresh: Callable[[], Awaitable[None]],
    settings: Settings,
    stack: AsyncExitStack,
) -> RegistryServicer:
    # Threads of their own: hashing and gates take a core for seconds, and live requests come first.
    threads = Threads("registry", settings.transfers.max_uploads, lower_priority)
    stack.callback(threads.shutdown, wait=True, cancel_futures=True)
    return RegistryServicer(
        repository,
        uploads,
        declarer,
        operations,
        lambda model: store.declared().of(model),
        lambda model: Trust.of(settings.for_model(model).signing),
        refresh,
        threads,
        settings.transfers.idle_s,
        settings.transfers.max_fetches,
    )


def _gpus(nvml: Nvml | None, devices: Collection[str]) -> Sequence[Gpu]:
    return () if nvml is None else nvml.read(pci_addresses(devices))


async def _retain(store: StateStore, retention: Retention, log: FilteringBoundLogger) -> None:
    while True:
        await asyncio.sleep(_RETENTION_SECONDS)
        try:
            removed = await store.in_thread(expire, store, retention)
        except Unavailable as error:
            log.warning("what the retention lets go stays for now", reason=error.message)
        else:
            if removed.ticks or removed.events:
                log.info("removed what the retention lets go", ticks=removed.ticks, events=removed.events)


async def _expire(repository: Repository, uploads: Uploads, keep_seconds: float) -> None:
    while True:
        await asyncio.sleep(max(keep_seconds / 4, _EXPIRY_SECONDS))
        await repository.in_thread(uploads.expire)
