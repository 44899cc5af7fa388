"""What an operator changes is in force in every worker when the call returns, not only in the one that answered it."""

from collections.abc import Awaitable, Callable

from turnout.rpc.transport.port import Methods, Response, RpcCall, Unary
from turnout.workers.peers import Peers

_READS = ("Get", "List", "Explain", "Plan", "Describe", "Watch", "Fetch")
"""How the methods begin that change nothing."""


def followed(methods: Methods, peers: Peers | None) -> Methods:
    """Returns the methods, each that changes something with the other workers following before it answers."""
    if peers is None:
        return methods
    return {
        path: Unary(_followed(method, peers.follow))
        if isinstance(method, Unary) and not path.rpartition("/")[2].startswith(_READS)
        else method
        for path, method in methods.items()
    }


def _followed(method: Unary, follow: Callable[[], Awaitable[None]]) -> Callable[[bytes, RpcCall], Awaitable[Response]]:
    async def followed_answer(message: bytes, call: RpcCall) -> Response:
        response = await method.respond(message, call)
        await follow()
        return response

    return followed_answer
