"""Methods of the control service for rollouts: commands, status and history."""

import json
from collections.abc import Awaitable, Callable, Mapping

from turnout.errors import InvalidRequest, UnavailableError
from turnout.registry.manifest.names import check_model_name, parse_version
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.operators.releases import Releases
from turnout.rollout.machine import overrides
from turnout.rollout.machine.attempt import Moved, Rollout
from turnout.rollout.plan import Plan
from turnout.rollout.preview import Previews, WorkerTraffic
from turnout.rollout.reporting.log import RolloutLog
from turnout.rollout.reporting.messages import found_message, probe_message, rollout_message, timestamp
from turnout.rpc.control.calls import read_change
from turnout.rpc.control.messages import answers_message
from turnout.state.rollouts import RolloutRecord
from turnout.workers.peers import Peers
from turnout_proto.v1 import rollout_pb2 as pb

_MAX_PLAN = 64 << 10
_MAX_LIMIT = 1000
_EVENTS = 200
_WATCH_SECONDS = 30.0
_TICKS_AT_ONCE = 2000

_COMMANDS: Mapping[pb.RolloutCommand, str] = {
    pb.ROLLOUT_COMMAND_PAUSE: "pause",
    pb.ROLLOUT_COMMAND_RESUME: "resume",
    pb.ROLLOUT_COMMAND_PROMOTE: "promote",
    pb.ROLLOUT_COMMAND_PROMOTE_FULL: "promote-full",
    pb.ROLLOUT_COMMAND_ABORT: "abort",
}


class RolloutMethods:
    """Controls rollouts, and reports on them."""

    def __init__(
        self,
        rollouts: RolloutEngine,
        releases: Releases,
        log: RolloutLog,
        previews: Previews,
        analyses: Analyses,
        peers: Peers | None = None,
    ) -> None:
        self._rollouts = rollouts
        self._releases = releases
        self._log = log
        self._previews = previews
        self._analyses = analyses
        self._peers = peers
        if peers is not None:
            peers.answers("rollout plan", self._answer_peer)

    async def PlanRollout(self, request: pb.PlanRolloutRequest) -> pb.PlanRolloutResponse:
        """Returns what a rollout would do, and what it could detect."""
        plan = read_plan(request.plan_json)
        self._analyses.check(plan)
        version = parse_version(request.version)
        check_model_name(request.model)  # before all workers are asked
        replies = {} if self._peers is None else await self._peers.ask("rollout plan", request.model.encode())
        elsewhere = [WorkerTraffic.from_json(json.loads(reply)) for reply in replies.values()]
        asked = {self._rollouts.server, *(worker.server for worker in elsewhere)}
        elsewhere += [
            WorkerTraffic(other.name, other.rates.get(request.model, 0.0))
            for other in self._rollouts.servers
            if other.alive and other.name not in asked
        ]
        preview = await self._previews.of(request.model, version, plan, elsewhere)
        power = [
            pb.RolloutPower(
                step=number, weight=step.weight, soak_seconds=step.soak_s,
                detections=[
                    pb.RolloutDetection(effect=one.effect, seconds=one.seconds, requests=one.requests) for one in seen
                ],
            )
            for number, (step, seen) in enumerate(zip(plan.steps, preview.power, strict=True), start=1)
        ]  # fmt: skip
        return pb.PlanRolloutResponse(
            previous=str(preview.previous or ""), plan_json=json.dumps(plan.to_json()), plan_digest=plan.digest,
            refusals=preview.refusals, requests_per_second=preview.traffic.rate, error_rate=preview.traffic.error_rate,
            power=power, missed=[*preview.missed, *self._analyses.too_late(plan)], confirms=self._analyses.confirms,
            probes=[
                probe_message(name, self._analyses.probes[name])
                for name in dict.fromkeys(name for _, name in plan.probe_fields)
            ],
        )  # fmt: skip

    async def StartRollout(self, request: pb.StartRolloutRequest) -> pb.StartRolloutResponse:
        """Starts a rollout."""
        change, plan = read_change(request.change), read_plan(request.plan_json)
        rollout = await self._rollouts.commands.start(
            request.model, parse_version(request.version), plan, change.actor, change.reason
        )
        return pb.StartRolloutResponse(
            rollout=await self._message(rollout), answers=answers_message(self._rollouts.answers(request.model))
        )

    async def CommandRollout(self, request: pb.CommandRolloutRequest) -> pb.CommandRolloutResponse:
        """Applies an operator's command to a rollout."""
        change = read_change(request.change)
        if request.discard:
            if request.command != pb.ROLLOUT_COMMAND_ABORT:
                raise InvalidRequest.at("discard", "expected with ROLLOUT_COMMAND_ABORT only")
            await self._releases.discard(request.model, request.attempt, change.actor, change.reason)
            _, message = await self._found(request.model, request.attempt)
        elif request.command == pb.ROLLOUT_COMMAND_RETRY:
            _, last = await self._log.latest(request.model)
            rollout = await self._rollouts.commands.retry(last, change.actor, change.reason, change.expected_epoch)
            message = await self._message(rollout)
        else:
            decide = _decision(request, change.actor, change.reason)
            resume = request.command == pb.ROLLOUT_COMMAND_RESUME
            rollout = await self._rollouts.commands.command(
                request.model, decide, change.expected_epoch, attempt=request.attempt, resume=resume
            )
            message = await self._message(rollout)
        return pb.CommandRolloutResponse(
            rollout=message, answers=answers_message(self._rollouts.answers(request.model))
        )

    async def ListRollouts(self, request: pb.ListRolloutsRequest) -> pb.ListRolloutsResponse:
        """Lists active and earlier rollouts."""
        if request.limit > _MAX_LIMIT:
            raise InvalidRequest.at("limit", f"expected at most {_MAX_LIMIT}")
        known = await self._log.history(request.model or None, request.limit or 20)
        return pb.ListRolloutsResponse(rollouts=[found_message(found, record) for record, found in known])

    async def WatchRollout(
        self, request: pb.WatchRolloutRequest, write: Callable[[pb.WatchRolloutResponse], Awaitable[None]]
    ) -> None:
        """Sends a rollout immediately and after each change, until it is final."""
        last = b""
        while True:
            record, message = await self._found(request.model, request.attempt)
            if (text := message.SerializeToString(deterministic=True)) != last:
                last = text
                await write(pb.WatchRolloutResponse(rollout=message))
            if record.final:
                return
            await self._rollouts.wait(_WATCH_SECONDS)

    async def GetRolloutTicks(self, request: pb.GetRolloutTicksRequest) -> pb.GetRolloutTicksResponse:
        """Returns the recorded counts of a rollout's ticks, one page at a time."""
        record, rollout = await self._log.latest(request.model, request.attempt)
        events = await self._log.events(request.model, rollout.attempt, _MAX_LIMIT)
        ticks = await self._log.ticks(request.model, rollout.attempt, request.after, _TICKS_AT_ONCE + 1)
        page = ticks[:_TICKS_AT_ONCE]
        return pb.GetRolloutTicksResponse(
            rollout=rollout_message(rollout, record, events),
            ticks_json=[json.dumps(tick) for _, _, tick in page],
            times=[timestamp(time) for _, time, _ in page],
            last_tick=page[-1][0] if page else request.after,
            more=len(ticks) > len(page),
        )

    async def RollBack(self, request: pb.RollBackRequest) -> pb.RollBackResponse:
        """Rolls a model back to an earlier version."""
        change = read_change(request.change)
        to = parse_version(request.version) if request.version else None
        done = await self._releases.rollback(
            request.model, to, change.actor, change.reason, change.expected_epoch, keep_released=request.keep_released
        )
        return pb.RollBackResponse(
            baseline=str(done.baseline or ""),
            epoch=done.epoch,
            answers=answers_message(self._rollouts.answers(request.model)),
            sentence=done.sentence,
        )

    async def _answer_peer(self, model: bytes) -> bytes:
        return json.dumps(self._previews.measured(model.decode(), self._rollouts.server).to_json()).encode()

    async def _found(self, model: str, attempt: int) -> tuple[RolloutRecord, pb.Rollout]:
        record, found = await self._log.found(model, attempt)
        return record, found_message(found, record, await self._log.events(model, record.attempt, _EVENTS))

    async def _message(self, rollout: Rollout) -> pb.Rollout:
        """Returns a rollout that was just recorded, without its times and events if they cannot be read now."""
        try:
            record = await self._log.record(rollout)
            events = await self._log.events(rollout.model, rollout.attempt, _EVENTS)
        except UnavailableError:
            record, events = None, []
        return rollout_message(rollout, record, events)


def read_plan(text: str) -> Plan:
    """Parses a plan from a request, and adds the metrics that every new rollout includes.

    Raises:
        InvalidRequest: The text is not a valid plan.
    """
    if len(text) > _MAX_PLAN:
        raise InvalidRequest.at("plan_json", f"expected at most {_MAX_PLAN} characters")
    try:
        body = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise InvalidRequest.at("plan_json", "expected JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest.at("plan_json", "expected a JSON object")
    return Plan.from_json(body).complete


def _decision(request: pb.CommandRolloutRequest, actor: str, reason: str) -> Callable[[Rollout], Moved]:
    if request.command == pb.ROLLOUT_COMMAND_SET_WEIGHT:
        if not 0.0001 <= request.weight <= 1:
            raise InvalidRequest.at("weight", "expected 0.0001 to 1")
        return lambda r: overrides.set_weight(r, request.weight, actor, reason)
    if request.command not in _COMMANDS:
        raise InvalidRequest.at("command", "expected one of RolloutCommand")
    return overrides.commands(actor, reason)[_COMMANDS[request.command]]
