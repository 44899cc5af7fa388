"""Creates the components that answer requests: routing, data plane, shadows, and the manager that loads versions."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from semver import Version

from turnout.app.authorization import POLICY_FAILING
from turnout.app.foundation import Foundation
from turnout.app.startup import NEW_STORE
from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.routing.router import PolicyRouter
from turnout.routing.selection.resolution import named
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.rpc.errors import code_name
from turnout.serving.data_plane.data_plane import DataPlane, RequestTelemetry
from turnout.serving.versions.availability import Availability
from turnout.serving.versions.hold import Hold
from turnout.serving.versions.load_outcomes import LoadTelemetry
from turnout.serving.versions.load_policy import Fallbacks, VersionDemand
from turnout.serving.versions.manager import Manager
from turnout.state.release_status import ReleaseState
from turnout.telemetry.logging import AccessLog
from turnout.telemetry.tracing.setup import tracing
from turnout.telemetry.tracing.tracer import Tracer
from turnout.threads import Threads


@dataclass(frozen=True, slots=True)
class Serving:
    """The components that answer requests.

    Attributes:
        tracer: Tracer of requests; None if tracing is off.
        conversions: Thread that parses large messages.
        availability: Dependencies that are currently unreachable.
    """

    policies: Policies
    router: PolicyRouter
    explainer: Explainer
    tracer: Tracer | None
    conversions: Threads
    inference: DataPlane
    availability: Availability
    manager: Manager
    shadows: Shadows
    traffic: Traffic


async def open_serving(
    base: Foundation,
    policies: Policies,
    pinned_versions: Callable[[str], Mapping[Version, Hold]],
    stack: AsyncExitStack,
) -> Serving:
    """Creates the components that answer requests, without loading any versions. `stack` closes them.

    `pinned_versions` returns the versions of a model that must stay in memory, and the reasons.
    """
    settings, catalog, metrics, log, authority = base.settings, base.catalog, base.metrics, base.log, base.authority

    async def release_state() -> ReleaseState:
        return await base.store.in_thread(base.store.release_state)

    def fallbacks(model: str) -> Fallbacks:
        return policies.fallbacks.get(model, Fallbacks())

    router = PolicyRouter(catalog, policies, serve_yanked=settings.routing.yanked_pins == "warn")
    access = AccessLog(log, settings.log.access_sample_rate)
    tracer = await stack.enter_async_context(tracing(settings.tracing, metrics.server.spans, log))
    # One thread: several would compete for the GIL, which a call into C holds until it returns, and the event loop
    # would wait for each of them. Limits on the contents of a request keep each such call short.
    conversions = Threads("conversion")
    stack.callback(conversions.shutdown)
    availability = Availability(metrics.server, log)
    if base.new_store:
        availability.note(
            NEW_STORE, lambda: not any(m.model_releases.release_statuses for m in catalog.snapshot.models.values())
        )
    if authority is not None:
        availability.note(POLICY_FAILING, lambda: authority.policy_failed)
    demand = VersionDemand(release_state, named, pinned_versions, fallbacks)
    manager = Manager(
        base.repository, settings, demand, catalog, LoadTelemetry(metrics, availability, log), base.processes
    )
    telemetry = RequestTelemetry(metrics, access, code_name, tracer)
    inference = DataPlane(router, catalog, telemetry, conversions, authority, manager.on_demand)
    shadows = Shadows(settings, catalog, metrics, base.repository.directory, log)
    traffic = Traffic(base.store, catalog, manager.finder, policies, shadows.observe, log)
    explainer = Explainer(router, catalog, policies)
    return Serving(policies, router, explainer, tracer, conversions, inference, availability, manager, shadows, traffic)
