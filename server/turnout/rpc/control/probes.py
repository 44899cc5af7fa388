"""Methods of the control service for probes."""

import time

from turnout.errors import VersionNotFound
from turnout.registry.manifest.names import parse_version
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.analysis.prober import ProbeContext
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.reporting.messages import probe_message
from turnout.serving.versions.catalog import Catalog
from turnout_proto.v1 import rollout_pb2 as pb


class ProbeMethods:
    """Lists and tries probes, whose URLs come from the configuration only."""

    def __init__(self, analyses: Analyses, catalog: Catalog, rollouts: RolloutEngine) -> None:
        self._analyses = analyses
        self._catalog = catalog
        self._rollouts = rollouts

    async def ListProbes(self, _: pb.ListProbesRequest) -> pb.ListProbesResponse:
        """Lists the probes that plans can refer to."""
        return pb.ListProbesResponse(probes=[probe_message(*one) for one in self._analyses.probes.items()])

    async def TryProbe(self, request: pb.TryProbeRequest) -> pb.TryProbeResponse:
        """Runs a probe once."""
        version = parse_version(request.version)
        known = self._catalog.snapshot.model(request.model).versions
        if version not in known:
            raise VersionNotFound.of(request.model, request.version, [str(one) for one in known])
        baseline = str(self._rollouts.baseline(request.model) or "")
        began = time.perf_counter()
        found = await self._analyses.measure(request.probe, ProbeContext(request.model, str(version), baseline))
        return pb.TryProbeResponse(
            outcome=found.outcome, value=found.value, detail=found.detail, seconds=time.perf_counter() - began,
            baseline=baseline, asked=probe_message(request.probe, self._analyses.probes[request.probe]),
        )  # fmt: skip
