"""The control service, put together of its parts."""

from collections.abc import Callable

from turnout.releases.release import ReleaseStateWriter
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.releases import Releases
from turnout.rollout.preview import Previews
from turnout.rollout.reporting.log import RolloutLog
from turnout.routing.active_policies import Policies
from turnout.routing.explain import Explainer
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Traffic
from turnout.rpc.control.activity import ActivityMethods
from turnout.rpc.control.probes import ProbeMethods
from turnout.rpc.control.rollouts import RolloutMethods
from turnout.rpc.control.traffic import TrafficMethods
from turnout.rpc.control.versions import VersionMethods
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.manager import Manager
from turnout.telemetry.metrics.versions import Metrics
from turnout.workers.peers import Peers


class ControlServicer(VersionMethods, TrafficMethods, RolloutMethods, ProbeMethods, ActivityMethods):
    """Changes what is served and where requests go."""

    def __init__(
        self,
        manager: Manager,
        catalog: Catalog,
        declarer: ReleaseStateWriter,
        traffic: Traffic,
        policies: Policies,
        explainer: Explainer,
        shadows: Shadows,
        rollouts: RolloutEngine,
        releases: Releases,
        rollout_log: RolloutLog,
        previews: Previews,
        analyses: Analyses,
        router: Router,
        metrics: Metrics,
        accepting: Callable[[], bool],
        peers: Peers | None,
    ) -> None:
        VersionMethods.__init__(self, peers or manager, manager.refresh, catalog, declarer, releases)
        TrafficMethods.__init__(self, traffic, policies, catalog, explainer, shadows, rollouts.answers, peers)
        RolloutMethods.__init__(self, rollouts, releases, rollout_log, previews, analyses)
        ProbeMethods.__init__(self, analyses, rollouts, catalog)
        ActivityMethods.__init__(self, manager, catalog, policies, router, rollouts, metrics, accepting, peers)
