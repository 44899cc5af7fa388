"""The method of the control service that reads the log of changes."""

import rfc8785

from turnout.errors import InvalidRequest
from turnout.rollout.reporting.messages import timestamp
from turnout.state.event_log.chain import Head
from turnout.state.event_log.events import Event
from turnout.state.store import StateStore
from turnout_proto.v1 import control_pb2 as pb

_MAX_EVENTS = 1000


class EventMethods:
    """Reads the log of changes."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Lists recorded changes."""
        if request.limit > _MAX_EVENTS:
            raise InvalidRequest.at("limit", f"expected at most {_MAX_EVENTS:,}")
        if request.tag and not request.model:
            raise InvalidRequest.at("model", "expected the model of the tag")
        head, events = await self._store.in_thread(self._read, request)
        return pb.ListEventsResponse(
            events=[_message(event) for event in events], revision=head.revision, hash=head.hash
        )

    def _read(self, request: pb.ListEventsRequest) -> tuple[Head, list[Event]]:
        limit = request.limit or 100
        if request.tag:
            return self._store.head(), self._store.tag_history(request.model, request.tag)[:limit]
        return self._store.head(), self._store.events(request.model or None, limit)


def _message(event: Event) -> pb.Event:
    return pb.Event(
        id=event.id,
        time=timestamp(event.time),
        model=event.model,
        kind=event.kind,
        subject=event.subject,
        actor=event.actor,
        reason=event.reason,
        payload_json=rfc8785.dumps(dict(event.payload)).decode(),
        previous=event.previous,
        hash=event.hash,
    )
