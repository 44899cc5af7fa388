"""The method of the control service that reports how shadows compare with the baseline."""

from turnout.errors import InvalidRequest
from turnout.routing.shadow.service import Shadows
from turnout.rpc.control.messages import shadow_message
from turnout.rpc.control.pooled import pooled_shadows
from turnout.serving.versions.catalog import Catalog
from turnout.workers.peers import EachWorker, Peers
from turnout_proto.v1 import traffic_pb2 as pb

_MAX_WORST = 100


class ShadowMethods:
    """Reports how shadows compare with the baseline."""

    def __init__(self, catalog: Catalog, shadows: Shadows, peers: Peers | None) -> None:
        self._catalog = catalog
        self._shadows = shadows
        self._everywhere = EachWorker(peers, "shadows", pb.GetShadowReportRequest, self._own)

    async def GetShadowReport(self, request: pb.GetShadowReportRequest) -> pb.GetShadowReportResponse:
        """Returns the reports of a model's shadows."""
        if request.worst > _MAX_WORST:
            raise InvalidRequest.at("worst", f"expected at most {_MAX_WORST}")
        self._catalog.snapshot.model(request.model)
        own, *others = await self._everywhere.ask(request)
        if not others:
            return own
        reports = [report for one in others for report in one.shadows]
        return pb.GetShadowReportResponse(shadows=pooled_shadows(own.shadows, reports, request.worst))

    def _own(self, request: pb.GetShadowReportRequest) -> pb.GetShadowReportResponse:
        shadows = [shadow_message(lane, request.worst) for lane in self._shadows.of(request.model)]
        return pb.GetShadowReportResponse(shadows=shadows)
