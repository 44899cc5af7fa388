"""Runs the probes and the confirm webhook of the rollouts that this server drives, concurrently with ticks.

Every question is a separate task. A tick starts those that are due, takes the answers since the last tick, and waits
for nothing, so an endpoint that hangs delays neither ticks nor rollbacks.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.config import Probe, RolloutSettings
from turnout.errors import FieldViolation, InvalidRequest, NotFoundError
from turnout.rollout.analysis.confirm_webhook import ConfirmWebhook
from turnout.rollout.analysis.prober import ProbeAnswer, ProbeContext, Prober
from turnout.rollout.clock import Clock
from turnout.rollout.machine.analysis_verdict import Analysis, ConfirmAnswer
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.confirmation import Reply
from turnout.rollout.machine.measurements import Measurement, ProbeOutcome
from turnout.rollout.plan import Plan
from turnout.telemetry.metrics.rollout import RolloutRecorder
from turnout.threads import Threads

_UNKNOWN_SECONDS = 30.0
"""Seconds between two measurements that report that a probe in the plan is not configured on this server."""

_MOST_MEASUREMENTS = 100
"""Maximum number of measurements of one rollout that wait for a tick."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the webhook is asked again, doubled each time."""

Key = tuple[str, int]
"""Model and attempt."""


@dataclass(slots=True)
class _Questions:
    """The questions about one rollout.

    Attributes:
        stage: Stage of the rollout in which probes were last asked.
        due: By probe, when it is asked next, by the monotonic clock.
        confirm: Step that the webhook is asked about; None if there is none.
        confirm_due, tries: When the webhook is asked next, and how often it was asked.
        tasks: Running tasks by probe; "" is the webhook.
        measurements, answer: Results that no tick has taken yet.
    """

    stage: int | None = None
    due: dict[str, float] = field(default_factory=dict)
    confirm: int | None = None
    confirm_due: float = 0.0
    tries: int = 0
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    answer: ConfirmAnswer | None = None

    def cancel(self, names: Iterable[str]) -> None:
        for name in tuple(names):
            if (task := self.tasks.pop(name, None)) is not None:
                task.cancel()


class Analyses:
    """The external checks of rollouts. Used only on the event loop."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        settings: RolloutSettings,
        clock: Clock,
        recorder: RolloutRecorder,
        log: FilteringBoundLogger,
    ) -> None:
        """Creates the probes and the webhook without asking them. Blocking.

        Raises:
            ConfigError: A file with certificate authorities cannot be read.
        """
        self._threads = Threads("probes")
        self._probers = {name: Prober(name, probe, self._threads) for name, probe in sorted(probes.items())}
        self._webhook = ConfirmWebhook(settings) if settings.confirm_url else None
        self._clock = clock
        self._recorder = recorder
        self._log = log
        self._questions: dict[Key, _Questions] = {}
        self._values: dict[Key, dict[tuple[str, str, str], float]] = {}
        recorder.probes = tuple(self._probers)
        recorder.confirms = self.confirms

    @property
    def probes(self) -> Mapping[str, Probe]:
        """The probes that plans may name."""
        return {name: prober.probe for name, prober in self._probers.items()}

    @property
    def confirms(self) -> bool:
        """Whether a webhook confirms steps."""
        return self._webhook is not None

    def violations(self, plan: Plan) -> list[FieldViolation]:
        """Returns the fields of a plan that name unknown probes."""
        return [
            FieldViolation(field, _unknown(name, self._probers))
            for field, name in plan.probe_fields
            if name not in self._probers
        ]

    def too_late(self, plan: Plan) -> Iterator[str]:
        """Yields sentences about probes that are first asked after a step's deadline, which could not be passed."""
        for number, step in enumerate(plan.steps):
            longest = plan.deadline(step)
            for name in plan.probes_of(number):
                delay = self.probes[name].initial_delay_s if name in self._probers else 0.0
                if delay >= longest:
                    yield (
                        f"probe {name} is first asked after {delay:g} s (initial_delay_s), and step {number + 1} waits "
                        f"{longest:g} s at most: it would stand still there"
                    )

    def check(self, plan: Plan) -> None:
        """Raises if a plan names a probe that is not configured.

        Raises:
            InvalidRequest: The plan names an unknown probe.
        """
        if found := self.violations(plan):
            raise InvalidRequest("; ".join(f"{v.field}: {v.description}" for v in found), violations=found)

    async def measure(self, name: str, context: ProbeContext) -> ProbeAnswer:
        """Asks a probe once, on an operator's request. The result does not count for any rollout.

        Raises:
            NotFoundError: The probe does not exist.
        """
        if (prober := self._probers.get(name)) is None:
            raise NotFoundError(_unknown(name, self._probers))
        return await prober.ask(context)

    def take(self, rollout: Rollout) -> Analysis:
        """Returns the answers about a rollout since the last call."""
        asked = self._questions.get((rollout.model, rollout.attempt))
        if asked is None:
            return Analysis(confirms=self.confirms)
        measurements, asked.measurements = asked.measurements, []
        answer, asked.answer = asked.answer, None
        return Analysis(measurements, self.confirms, answer)

    def follow(self, rollouts: Sequence[tuple[Rollout, bool]]) -> None:
        """Starts the measurements that are due, and cancels those that are no longer needed.

        Each rollout that this server drives is given with whether its present state is recorded.
        """
        present = {(rollout.model, rollout.attempt) for rollout, _ in rollouts}
        for key in [key for key in self._questions if key not in present]:
            gone = self._questions.pop(key)
            gone.cancel(gone.tasks)
        self._values = {key: values for key, values in self._values.items() if key in present}
        for rollout, saved in rollouts:
            asked = self._questions.setdefault((rollout.model, rollout.attempt), _Questions())
            self._follow_probes(rollout, asked)
            self._follow_webhook(rollout, asked, saved=saved)
        self._recorder.probe_values = {one: n for values in self._values.values() for one, n in values.items()}

    async def close(self) -> None:
        """Cancels all questions, and closes their connections."""
        tasks = [task for asked in self._questions.values() for task in asked.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for prober in self._probers.values():
            await prober.close()
        if self._webhook is not None:
            await self._webhook.close()
        self._threads.shutdown()

    def _follow_probes(self, rollout: Rollout, asked: _Questions) -> None:
        if asked.stage != rollout.stage:
            asked.stage, asked.due = rollout.stage, {}
            asked.cancel(name for name in asked.tasks if name)
        now = self._clock.monotonic()
        for name in rollout.asked_probes:
            if name in asked.tasks or now < asked.due.get(name, now):
                continue
            prober = self._probers.get(name)
            if prober is None:
                asked.due[name] = now + _UNKNOWN_SECONDS
                missing = ProbeAnswer(
                    ProbeOutcome.INCONCLUSIVE, detail="no probe of this name is configured on this server"
                )
                self._note(asked, name, rollout, missing)
            elif rollout.step_s >= prober.probe.initial_delay_s:
                asked.due[name] = now + prober.probe.interval_s
                self._begin(asked, name, self._measure(asked, prober, rollout))

    def _follow_webhook(self, rollout: Rollout, asked: _Questions, *, saved: bool) -> None:
        wanted = rollout.confirmation
        if wanted is None or wanted.reply is not Reply.WAITING or self._webhook is None:
            asked.confirm = None
            asked.cancel([""])
            return
        if rollout.pauses:
            return  # a question that was asked may still be answered, which is recorded so that it is not repeated
        now = self._clock.monotonic()
        if asked.confirm != wanted.step:
            asked.confirm, asked.confirm_due, asked.tries = wanted.step, now, 0
        if saved and "" not in asked.tasks and asked.answer is None and now >= asked.confirm_due:
            self._begin(asked, "", self._confirm(asked, self._webhook, rollout, wanted.step))

    def _begin(self, asked: _Questions, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"probe {name}" if name else "confirm webhook")
        asked.tasks[name] = task

        def ended(task: asyncio.Task[None]) -> None:
            if asked.tasks.get(name) is task:
                del asked.tasks[name]
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("an external check of a rollout failed", probe=name, exc_info=error)

        task.add_done_callback(ended)

    async def _measure(self, asked: _Questions, prober: Prober, rollout: Rollout) -> None:
        found = await prober.ask(_context(rollout))
        self._note(asked, prober.name, rollout, found)

    async def _confirm(self, asked: _Questions, webhook: ConfirmWebhook, rollout: Rollout, step: int) -> None:
        answer = await webhook.ask(rollout, step, self._clock.now().isoformat())
        self._recorder.confirmations[str(answer.reply)] += 1
        asked.confirm_due = self._clock.monotonic() + min(_FIRST_PAUSE * 2 ** min(asked.tries, 10), _LONGEST_PAUSE)
        asked.tries += 1
        asked.answer = answer

    def _note(self, asked: _Questions, name: str, rollout: Rollout, found: ProbeAnswer) -> None:
        assert rollout.stage is not None
        prober = self._probers.get(name)
        one = Measurement(name, rollout.stage, found.outcome, found.value, found.detail, self._clock.now())
        asked.measurements.append(one if prober is None else replace(one, limits=prober.limits))
        del asked.measurements[:-_MOST_MEASUREMENTS]  # the rollout is not advanced, so no tick takes them
        if prober is None:
            return  # the name comes from a plan, so it must not become a label
        self._recorder.measurements[name, str(found.outcome)] += 1
        if found.number is not None:
            values = self._values.setdefault((rollout.model, rollout.attempt), {})
            values[name, rollout.model, str(rollout.candidate)] = found.number


def _context(rollout: Rollout) -> ProbeContext:
    return ProbeContext(
        rollout.model, str(rollout.candidate), str(rollout.previous), rollout.attempt, rollout.step + 1,
        len(rollout.plan.steps), rollout.canary_weight, str(rollout.state),
    )  # fmt: skip


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name[:64], known, n=1, cutoff=0.6)
    guess = f", did you mean {near[0]}?" if near else ";"
    there_are = f"There are {', '.join(known)}" if known else "no probe is configured"
    return f"there is no probe {name[:64]!r}{guess} {there_are}".replace("; There", "; there")
