"""What the methods of the control service have in common."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from turnout.errors import InvalidRequest, TurnoutError
from turnout.rollout.actors import check_person
from turnout.rpc.errors import abort

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_ACTOR = 256
_MAX_REASON = 1024

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")


def refusing(method: Callable[[S, Q, Context], Awaitable[A]]) -> Callable[[S, Q, Context], Awaitable[A]]:
    """Makes a method end its call with the status of the TurnoutError that it raises."""

    @functools.wraps(method)
    async def call(self: S, request: Q, context: Context) -> A:
        try:
            return await method(self, request, context)
        except TurnoutError as error:
            await abort(context, error)

    return call


def check_record(actor: str, reason: str, prefix: str = "") -> None:
    """Checks what goes on the record.

    Raises:
        InvalidRequest: It is too long, or the actor goes by the name of a rollout.
    """
    if len(actor) > _MAX_ACTOR:
        raise InvalidRequest.at(f"{prefix}actor", f"expected at most {_MAX_ACTOR} characters")
    check_person(actor, f"{prefix}actor")
    if len(reason) > _MAX_REASON:
        raise InvalidRequest.at(f"{prefix}reason", f"expected at most {_MAX_REASON} characters")
