"""`grpc.channelz.v1`, with data from the gRPC core.

The servicer of grpcio-channelz is not used, because it ends a call with INTERNAL and the parser's error message if the
core returns a field that its messages do not define, as the core of gRPC 1.85 does. This servicer ignores such fields.
"""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc._cython import cygrpc  # type: ignore[attr-defined] # what grpcio-channelz itself calls
from grpc_channelz.v1 import channelz_pb2 as pb

from turnout.errors import NotFoundError


def channelz_servicer() -> object:
    """Returns the object that implements the service: it describes channels, servers and sockets."""
    sockets = ("server_id", "start_socket_id", "max_results")
    return SimpleNamespace(
        GetTopChannels=_method(pb.GetTopChannelsResponse, cygrpc.channelz_get_top_channels, "start_channel_id"),
        GetServers=_method(pb.GetServersResponse, cygrpc.channelz_get_servers, "start_server_id"),
        GetServer=_method(pb.GetServerResponse, cygrpc.channelz_get_server, "server_id"),
        GetServerSockets=_method(pb.GetServerSocketsResponse, cygrpc.channelz_get_server_sockets, *sockets),
        GetChannel=_method(pb.GetChannelResponse, cygrpc.channelz_get_channel, "channel_id"),
        GetSubchannel=_method(pb.GetSubchannelResponse, cygrpc.channelz_get_subchannel, "subchannel_id"),
        GetSocket=_method(pb.GetSocketResponse, cygrpc.channelz_get_socket, "socket_id"),
    )


def _method(
    response: Callable[[], Message], ask: Callable[..., Any], *fields: str
) -> Callable[[Any], Awaitable[Message]]:
    """Returns a method whose response has what the core says about the values of these fields of a request."""

    async def answer(request: Any) -> Message:
        try:
            document = ask(*(getattr(request, field) for field in fields))
        except ValueError:
            raise NotFoundError("channelz knows nothing by that number") from None
        return json_format.Parse(document, response(), ignore_unknown_fields=True)

    return answer
