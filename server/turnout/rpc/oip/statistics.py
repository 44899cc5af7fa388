"""The service's method for the statistics extension."""

from turnout.oip.extensions.statistics import Statistics
from turnout_proto.oip import inference_pb2 as pb


class StatisticsMethods:
    """Returns the statistics of versions."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:  # noqa: N802 - gRPC's
        """Returns the statistics of one version, or of all loaded versions."""
        return await self._statistics.of(request.name, request.version)
