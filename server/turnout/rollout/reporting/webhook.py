"""Sends rollout events to another service: signed, with retries, and without delaying rollouts."""

import asyncio
import json
import uuid

from structlog.typing import FilteringBoundLogger

from turnout.config import RolloutSettings
from turnout.outbound import Unanswered, ask
from turnout.rollout.analysis.http import signature_header
from turnout.rollout.clock import Clock
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.rollout.machine.status import json_number
from turnout.threads import Threads

_WAITING = 1000
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 5.0


CONTENT_TYPES = {"plain": "application/json", "cloudevents": "application/cloudevents+json; charset=utf-8"}

EVENT_TYPE = "dev.turnout.rollout."
"""Prefix of CloudEvents types, followed by the event's kind."""


class Webhook:
    """Sends events one after another. If the receiver is slow, they are queued, and dropped if the queue is full."""

    def __init__(self, settings: RolloutSettings, log: FilteringBoundLogger, clock: Clock) -> None:
        self._url = settings.webhook_url
        self._secret = settings.webhook_secret.get_secret_value()
        self._format = settings.webhook_format
        self._source = settings.webhook_source
        self._log = log
        self._clock = clock
        self._threads = Threads("webhook")
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)

    def notify(self, model: str, rollout: Rollout, entry: RolloutHistoryEntry) -> None:
        """Queues an event; does nothing if no receiver is configured."""
        if not self._url:
            return
        time = self._clock.now().isoformat()
        body: dict[str, object] = {
            "model": model, "attempt": rollout.attempt, "candidate": str(rollout.candidate),
            "previous": str(rollout.previous), "state": str(rollout.state), "epoch": rollout.epoch,
            "event": entry.kind, "text": entry.text, "actor": entry.actor,
            "e_value": json_number(rollout.evidence.combined), "threshold": json_number(1 / rollout.alpha),
            "time": time,
        }  # fmt: skip
        if self._format == "cloudevents":
            # All tries of an event have the same id, so that a receiver can recognize duplicates.
            body = {
                "specversion": "1.0", "id": str(uuid.uuid4()), "source": self._source, "type": EVENT_TYPE + entry.kind,
                "subject": model, "time": time, "datacontenttype": "application/json", "data": body,
            }  # fmt: skip
        try:
            self._queue.put_nowait(json.dumps(body).encode())
        except asyncio.QueueFull:
            self._log.warning("a webhook was dropped: too many wait", model=model, kind=entry.kind)

    async def run(self) -> None:
        """Sends queued events. Runs until it is cancelled."""
        while True:
            body = await self._queue.get()
            for attempt in range(_TRIES):
                try:
                    status = await self._threads.run(self._post, body)
                    if 200 <= status < 300:
                        break
                    reason = f"HTTP {status}"
                except Unanswered as error:
                    reason = error.kind
                if attempt == _TRIES - 1:
                    self._log.error("a webhook could not be delivered", reason=reason, tries=_TRIES)
                else:
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)

    def _post(self, body: bytes) -> int:
        headers = {"Content-Type": CONTENT_TYPES[self._format], **signature_header(self._secret, body)}
        # The body of the response is not read, so that an accepted event is never sent again because of it.
        return ask("POST", self._url, headers=headers, content=body, timeout_s=_TIMEOUT_SECONDS, most_bytes=0).status
