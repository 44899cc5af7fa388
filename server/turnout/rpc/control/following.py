"""Ensures that a change has taken effect in every worker, not only in the one that answers, when the call returns."""

from turnout.chunks import Serialized
from turnout.rpc.transport.port import Methods, Response, RpcCall, Unary
from turnout.workers.peers import Peers

_READS = ("Get", "List", "Explain", "Plan", "Describe", "Watch", "Fetch")
"""Name prefixes of methods that change nothing."""


def followed(methods: Methods, peers: Peers | None) -> Methods:
    """Wraps the methods that make changes, so that they return after the other workers have applied the change."""
    if peers is None:
        return methods

    def wrapped(method: Unary) -> Unary:
        async def answer(message: Serialized, call: RpcCall) -> Response:
            response = await method.respond(message, call)
            await peers.follow()
            return response

        return Unary(answer)

    return {
        path: wrapped(method)
        if isinstance(method, Unary) and not path.rpartition("/")[2].startswith(_READS)
        else method
        for path, method in methods.items()
    }
