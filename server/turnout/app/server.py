"""Assembles and runs a server: the composition root, where all components are connected.

The order is foundation -> serving -> rollouts -> endpoints -> listeners -> side tasks. At the end, the server drains,
and the components are closed in reverse order.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.admission.requests import Admission, ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.app.endpoints import EndpointParts, open_services, open_uploads, open_web
from turnout.app.following import Following
from turnout.app.foundation import Foundation, lay_foundation
from turnout.app.lifespan import SideTasks, drain, expire_uploads, keep_retention
from turnout.app.listeners import open_listeners
from turnout.app.reload import Reloader
from turnout.app.rollouts import open_rollouts
from turnout.app.scraping import Scrapes
from turnout.app.serving import open_serving
from turnout.config import Address, Settings
from turnout.rollout.clock import SYSTEM_CLOCK, Clock
from turnout.routing.active_policies import Policies
from turnout.routing.shadow.service import Shadows
from turnout.rpc.server import Services
from turnout.serving.versions.hold import Hold
from turnout.telemetry.logging import LogForm, Threshold
from turnout.web.console.ended_sessions import EndedSessions
from turnout.web.console.recent import Recent
from turnout.workers.member import Member
from turnout.workers.peers import Peers


@dataclass(frozen=True, slots=True)
class Running:
    """A running server.

    Attributes:
        failed: Future that fails, with the reason, when a background task ends unexpectedly.
        without_delay: Event that makes the drain skip its delay.
    """

    grpc: Address
    http: Address
    control: Address
    parts: EndpointParts
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
    """Runs a server within the context. Leaving the context drains and stops the server.

    The clock is that of rollouts and of events in the state store. Without threshold or form, the log's level or format
    cannot change.

    Raises:
        ConfigError: An address cannot be bound, or a setting is invalid on this machine.
        UnavailableError: The state store does not respond.
    """
    threshold, form = threshold or Threshold(settings.log.level), form or LogForm(settings.log.format)
    readiness_off, without_delay = asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        base = await lay_foundation(settings, log, clock, stack)
        policies = Policies()

        def pinned_versions(model: str) -> Mapping[Version, Hold]:
            # A rollout decides itself when to release the versions that its part of a policy pins.
            return {**policies.pinned_versions(model), **rollouts.engine.holds(model)}

        serving = await open_serving(base, policies, pinned_versions, stack)
        rollouts = await open_rollouts(base, serving, stack)
        following = Following(base, serving, rollouts)
        uploads = open_uploads(base, stack)
        peers = None if member is None else Peers(member, serving.manager, base.catalog, following.refresh, log)
        parts = EndpointParts(
            base, serving, rollouts, uploads, following.refresh, lambda: not readiness_off.is_set(), peers
        )
        limits = base.settings.limits
        unsent = UnsentBudget(int(limits.max_unsent_bytes))
        services = open_services(parts, threshold, form, unsent, stack)
        scrapes, recent = Scrapes(base, serving, rollouts, stack), Recent(base.catalog, peers)
        ended_sessions = EndedSessions(peers)
        admission = Admission(limits.max_requests)
        budget = ReceiveBudget(int(limits.max_unfinished_bytes))
        recorder = base.metrics.server
        recorder.admission, recorder.budget, recorder.unsent = admission, budget, unsent
        web = open_web(parts, services.oip, scrapes, recent, ended_sessions, admission, budget, unsent, stack)
        if peers is not None:
            member = peers.member
            member.answers("snapshot", scrapes.snapshot)
            stack.push_async_callback(_leave, member, scrapes.snapshot)
            await peers.catch_up()
            if member.start.waits:
                await following.refresh()
                await peers.wait_to_listen()
        listeners = open_listeners(services, base.settings, web, base.certificates, admission, budget, stack)
        reloader = _reloader(settings, base, threshold, serving.shadows, following)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side_tasks = SideTasks(failed)
        stack.push_async_callback(side_tasks.cancel)

        await following.follow_all()
        await rollouts.engine.rollbacks.follow()  # before the first request, so that rollbacks stay in force
        await services.oip.catch_up()
        await ended_sessions.catch_up()
        await listeners.start()
        scrapes.follow(listeners)
        addresses = listeners.grpc.address, listeners.http.address, listeners.control.address
        name = server_name(base.settings.server_name, listeners.grpc.address, member)
        rollouts.introduce(name, listeners.grpc.address, listeners.control.address, member)
        if peers is not None:
            await peers.member.listening()
            side_tasks.start("readiness", peers.report_ready())
        beside = (
            base.catalog.fold_histories,
            rollouts.previews.tick,
            rollouts.meters.tick,
            rollouts.releases.record_diversions,
        )
        side_tasks.start("rollouts", rollouts.engine.run(*beside))
        side_tasks.start("webhook", rollouts.webhook.run())
        side_tasks.start("retention", keep_retention(base.store, base.settings.retention, log))
        side_tasks.start("tls", base.certificates.watch())
        if base.authority is not None:
            side_tasks.start("auth", base.authority.watch())
            if base.settings.auth.policy:
                side_tasks.start("policy", base.authority.watch_policy())
        side_tasks.start("uploads", expire_uploads(base.repository, uploads, base.settings.transfers.keep_s))
        if base.settings.console.enabled:
            side_tasks.start("recent", recent.run())
        side_tasks.start("follow", following.run())
        stack.push_async_callback(
            drain,
            serving,
            services.registry_threads,
            base.settings.drain,
            admission,
            listeners,
            side_tasks,
            without_delay,
        )
        try:
            yield Running(*addresses, parts, services, failed, admission, reloader, without_delay)
        finally:
            readiness_off.set()
            base.catalog.swap(base.catalog.snapshot)  # wakes clients that watch the health


def server_name(given: str, address: Address, member: Member | None) -> str:
    """Returns the name of a server, or of one of its workers, among those that share its state store.

    `given` is the name in the settings, or "".
    """
    name = given or f"{socket.gethostname()}:{address.port}"
    return name if member is None else f"{name}/{member.start.index}"


def _reloader(
    read: Settings, base: Foundation, threshold: Threshold, shadows: Shadows, following: Following
) -> Reloader:
    async def reread_files() -> None:
        await base.certificates.reload()
        if base.authority is not None:
            await base.authority.reload()

    async def apply() -> None:
        shadows.configure()
        await following.refresh()

    secret = {"console": base.settings.console, "rollout": base.settings.rollout}
    return Reloader(read.model_copy(update=secret), base.models, threshold, reread_files, apply, base.log)


async def _leave(member: Member, snapshot: Callable[[], Awaitable[bytes]]) -> None:
    await member.leave(await snapshot())
