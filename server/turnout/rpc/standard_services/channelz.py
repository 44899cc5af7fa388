"""`grpc.channelz.v1`, with data from the gRPC core.

The servicer of grpcio-channelz is not used, because it ends a call with INTERNAL and the parser's error message if the
core returns a field that its messages do not define, as the core of gRPC 1.85 does. This servicer ignores such fields.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc._cython import cygrpc  # type: ignore[attr-defined] # what grpcio-channelz itself calls
from grpc_channelz.v1 import channelz_pb2 as pb

from turnout.errors import NotFoundError

MessageT = TypeVar("MessageT", bound=Message)


class ChannelzServicer:
    """Describes channels, servers and sockets."""

    async def GetTopChannels(self, request: Any) -> Any:
        """Lists channels."""
        return _read(pb.GetTopChannelsResponse(), cygrpc.channelz_get_top_channels, request.start_channel_id)

    async def GetServers(self, request: Any) -> Any:
        """Lists servers."""
        return _read(pb.GetServersResponse(), cygrpc.channelz_get_servers, request.start_server_id)

    async def GetServer(self, request: Any) -> Any:
        """Describes one server."""
        return _read(pb.GetServerResponse(), cygrpc.channelz_get_server, request.server_id)

    async def GetServerSockets(self, request: Any) -> Any:
        """Lists the sockets of a server."""
        asked = request.server_id, request.start_socket_id, request.max_results
        return _read(pb.GetServerSocketsResponse(), cygrpc.channelz_get_server_sockets, *asked)

    async def GetChannel(self, request: Any) -> Any:
        """Describes one channel."""
        return _read(pb.GetChannelResponse(), cygrpc.channelz_get_channel, request.channel_id)

    async def GetSubchannel(self, request: Any) -> Any:
        """Describes one subchannel."""
        return _read(pb.GetSubchannelResponse(), cygrpc.channelz_get_subchannel, request.subchannel_id)

    async def GetSocket(self, request: Any) -> Any:
        """Describes one socket."""
        return _read(pb.GetSocketResponse(), cygrpc.channelz_get_socket, request.socket_id)


def _read(message: MessageT, ask: Callable[..., Any], *arguments: int) -> MessageT:
    """Fills `message` with data from the core. Raises NotFoundError if the core does not know the id."""
    try:
        document = ask(*arguments)
    except ValueError:
        raise NotFoundError("channelz knows nothing by that number") from None
    return json_format.Parse(document, message, ignore_unknown_fields=True)
