"""Asks a webhook whether a rollout may begin its next step."""

from collections.abc import Mapping
from typing import Any

import orjson

from turnout.config import RolloutSettings
from turnout.errors import UnavailableError
from turnout.rollout.analysis.http import HttpEndpoint, signature_header
from turnout.rollout.analysis.prober import printable
from turnout.rollout.machine.analysis_verdict import ConfirmAnswer
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.confirmation import LONGEST_REASON, Reply, reply_of


class ConfirmWebhook:
    """The confirm webhook. Used only on the event loop."""

    def __init__(self, settings: RolloutSettings) -> None:
        """Reads the certificate authorities of `settings` with a `confirm_url`. Raises the errors of `HttpEndpoint`."""
        self._url = settings.confirm_url
        self._secret = settings.webhook_secret.get_secret_value()
        self._endpoint = HttpEndpoint("rollout.confirm_ca_file", settings.confirm_ca_file, settings.confirm_timeout_s)

    async def ask(self, rollout: Rollout, step: int, time: str) -> ConfirmAnswer:
        """Asks the webhook whether a step, from 0, may begin; the plan's number of steps stands for promotion."""
        body = orjson.dumps(confirm_body(rollout, step, time))
        headers = {"content-type": "application/json", **signature_header(self._secret, body)}
        secrets = [self._secret] if self._secret else []
        try:
            answer = await self._endpoint.ask("POST", self._url, headers, body)
        except UnavailableError as error:
            return ConfirmAnswer(step, Reply.WAITING, printable(error.message, secrets, LONGEST_REASON))
        reply, reason = reply_of(answer.status, _read(answer.body))
        return ConfirmAnswer(step, reply, printable(reason, secrets, LONGEST_REASON))

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()


def confirm_body(rollout: Rollout, step: int, time: str) -> Mapping[str, Any]:
    """Returns the body of the request: what would begin, and the evidence for and against it."""
    steps, evidence = rollout.plan.steps, rollout.evidence
    promotion = step >= len(steps)
    return {
        "event": "confirm", "model": rollout.model, "attempt": rollout.attempt, "candidate": str(rollout.candidate),
        "baseline": str(rollout.previous), "action": "promote" if promotion else "step",
        "step": min(step + 1, len(steps)), "steps": len(steps),
        "weight": 1.0 - rollout.plan.holdback if promotion else steps[step].weight,
        "evidence": {
            "e_value": evidence.combined, "threshold": 1 / rollout.alpha,
            "metrics": {
                m.name: {
                    "canary_requests": a.canary.requests, "canary_bad": a.canary.bad,
                    "baseline_requests": a.baseline.requests, "baseline_bad": a.baseline.bad,
                    "e_value": evidence.of(m.name),
                }
                for m in evidence.metrics for a in (evidence.accumulators[m.name],)
            },
        },
        "probes": {
            name: {"outcome": one.outcome and str(one.outcome), "value": one.value}
            for name, one in rollout.probes.items()
        },
        "actor": rollout.actor, "reason": rollout.reason, "time": time,
    }  # fmt: skip


def _read(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
