"""The statistics extension as the service's method."""

from turnout.oip.extensions.statistics import Statistics
from turnout_proto.oip import inference_pb2 as pb


class StatisticsMethods:
    """Tells what versions did."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:  # noqa: N802 - gRPC's
        """Tells what a version did, or all that are loaded."""
        return await self._statistics.of(request.name, request.version)
