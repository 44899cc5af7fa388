"""Creates the components for rollouts and releases: the engine, its inputs and reports, and manual releases."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import turnout
from turnout.app.foundation import Foundation
from turnout.app.read_only import place_to_write
from turnout.app.serving import Serving
from turnout.config import Address
from turnout.releases.release import ReleaseStateWriter
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.changes.operations import Operations
from turnout.rollout.clock import TickSchedule
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.exchange.presence import ServerPresence
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.operators.releases import Releases
from turnout.rollout.engine.unrecorded_rollbacks import DiversionFiles
from turnout.rollout.engine.writer import EventReporter
from turnout.rollout.false_alarm_meter import FalseAlarmMeters
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.rollout.preview import Previews
from turnout.rollout.reporting.log import RolloutLog
from turnout.rollout.reporting.webhook import Webhook
from turnout.serving.data_plane.replay import Replays
from turnout.telemetry.metrics.rollout import RolloutRecorder
from turnout.workers.member import Member


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The components that roll versions out and back.

    Attributes:
        releases: Manual releases, withdrawals and rollbacks.
        operations: Applies releases to the repository and the state store.
        meters: Measure the rate of false alarms by comparing baselines with themselves.
    """

    engine: RolloutEngine
    releases: Releases
    operations: Operations
    release_writer: ReleaseStateWriter
    log: RolloutLog
    analyses: Analyses
    previews: Previews
    meters: FalseAlarmMeters
    webhook: Webhook
    presence: ServerPresence

    def introduce(self, name: str, grpc: Address, control: Address, member: Member | None) -> None:
        """Sets what this server reports about itself to the servers that share its state store."""
        self.presence.name = name
        self.presence.rates = self.previews.rates
        self.presence.about = {
            "grpc": str(grpc),
            "control": str(control),
            "worker": None if member is None else member.start.index,
            "release": turnout.__version__,
        }


async def open_rollouts(base: Foundation, serving: Serving, stack: AsyncExitStack) -> Rollouts:
    """Creates the components for rollouts, which `stack` closes, without starting the engine."""
    settings, log, clock, store, metrics = base.settings, base.log, base.clock, base.store, base.metrics.rollouts
    webhook = Webhook(settings.rollout, log, clock)
    replays = Replays()
    stack.push_async_callback(replays.close)
    local = LocalServing(base.catalog, serving.policies, serving.traffic, serving.shadows, replays, serving.manager)
    journal = DiversionFiles(place_to_write(settings, base.scratch), settings.state_url, log)
    presence = ServerPresence(store)  # named once it listens
    analyses = await base.starting.run(Analyses, settings.probe, settings.rollout, clock, metrics, log)
    stack.push_async_callback(analyses.close)
    reports = EventReporter(_reporter(metrics, webhook), log)
    schedule = TickSchedule(clock, settings.rollout.tick_s)
    engine = RolloutEngine(local, presence, journal, schedule, analyses, reports)
    stack.push_async_callback(engine.close)
    operations = Operations(base.repository, store)
    meters = FalseAlarmMeters(
        lambda model: settings.for_model(model).false_alarm_meter, base.catalog, serving.policies, local, log
    )
    return Rollouts(
        engine, Releases(engine, operations, local, log), operations, ReleaseStateWriter(base.repository, store),
        RolloutLog(store, base.catalog), analyses, Previews(base.catalog, local), meters, webhook, presence,
    )  # fmt: skip


def _reporter(metrics: RolloutRecorder, webhook: Webhook) -> Callable[[str, Rollout, RolloutHistoryEntry], None]:
    """Returns a function that counts each event of a rollout and sends it to the webhook."""

    def report(model: str, rollout: Rollout, entry: RolloutHistoryEntry) -> None:
        if rollout.state.final and entry.kind == str(rollout.state):
            metrics.verdicts[model, entry.kind] += 1
            if str(rollout.state) == "rolled_back":
                metrics.rollbacks[model, rollout.cause or "other"] += 1
        webhook.notify(model, rollout, entry)

    return report
