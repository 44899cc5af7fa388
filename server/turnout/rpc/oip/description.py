"""What clients ask before they send requests, as the service's methods."""

from turnout import __version__
from turnout.errors import DigestMismatch, NotFound, NotLoaded, Unavailable
from turnout.oip.description import EXTENSIONS, SERVER, Description
from turnout_proto.oip import inference_pb2 as pb


class DescriptionMethods:
    """Answers in messages."""

    def __init__(self, description: Description) -> None:
        """Prepares to answer from `description`."""
        self._description = description

    async def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Answers."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Tells whether the server is fit for traffic."""
        return pb.ServerReadyResponse(ready=self._description.ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Tells whether a request for this version would be taken now."""
        try:
            self._description.check_ready(request.name, request.version)
        except (NotFound, NotLoaded, Unavailable, DigestMismatch):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Describes the server."""
        extensions = sorted((*EXTENSIONS, "model_repository"))
        return pb.ServerMetadataResponse(name=SERVER, version=__version__, extensions=extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Describes the inputs and outputs of a version."""
        return self._description.metadata(request.name, request.version)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Describes a version in the form of Triton's model configuration."""
        return pb.ModelConfigResponse(config=self._description.config(request.name, request.version))
