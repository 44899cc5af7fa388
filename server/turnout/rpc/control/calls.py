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

_READS = ("Get", "List", "Explain", "Plan")
"""How methods begin that change nothing."""

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")


def refusing(method: Callable[[S, Q, Context], Awaitable[A]]) -> Callable[[S, Q, Context], Awaitable[A]]:
    """Makes a method end its call with the status of the TurnoutError that it raises.

    Where the method changes something and its object has an attribute `settled`, that is awaited before the answer.
    """
    changes = not method.__name__.startswith(_READS)

    @functools.wraps(method)
    async def call(self: S, request: Q, context: Context) -> A:
        try:
            answer = await method(self, request, context)
            if changes and (settled := getattr(self, "settled", None)) is not None:
                await settled()  # "in force when the call returns" holds for every worker
        except TurnoutError as error:
            await abort(context, error)
        return answer

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
