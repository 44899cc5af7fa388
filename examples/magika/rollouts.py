"""Scenes for demo, tests and benchmarks: a good candidate becomes the baseline, and four bad ones do not."""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from semver import Version

from magika.candidates import CANDIDATES, ORIGINAL, SHORT, session
from magika.features import features_v3
from magika.load import Got, Load, Upload
from magika.process import Server
from magika.samples import REPOSITORY
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore
from turnout_proto.v1 import rollout_pb2, traffic_pb2
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from zoo import fetch

FINAL = ("succeeded", "rolled_back", "superseded", "failed")

ENVIRONMENT: Mapping[str, str] = {
    "TURNOUT_ROLLOUT__TICK_S": "0.5",  # ten times as often as by default, since these plans take seconds, not hours
    "TURNOUT_BATCHING__ENABLED": "false",  # batches do not help magika on a CPU, but a noisy warm-up may not see that
}
"""Settings of a server for the scenes, as environment variables."""

PLAN_FILE = Path(__file__).with_name("plan.toml")
PLAN: Mapping[str, Any] = tomllib.loads(PLAN_FILE.read_text())
"""A plan with short steps; see the comments in the file."""

LATENCY = ("errors", "p90", "stalled")
"""Metrics of rollouts with a slow candidate. Within a minute, too few requests exceed p95 and p99 to use these."""

SHADOWED: Mapping[str, Any] = PLAN | {
    "shadow": {"rate": 1.0, "duration_s": 10.0, "agreement": 0.99, "min_samples": 200}
}
"""The same plan, with a shadow stage first in which each request is copied."""

RATE = 80.0
"""Requests per second. A run of magika takes 5 ms, so that more than one of two cores stays idle."""

BEFORE = 220
"""Number of requests before a rollout starts. Its thresholds need 200 requests to the baseline."""

FILES = 120
_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A rollout of one candidate under load.

    Attributes:
        title: Title of the scene.
        baseline: Version that answers before the rollout.
        candidate: Version that is rolled out.
        plan: Plan of the rollout.
        ends: State in which the rollout must end.
        because: Text that the verdict must contain.
        rate, in_flight, patience: Arguments of the load.
        lasting: Whether the candidate's runs continue after the rollback, and may take longer than a drain.
    """

    title: str
    baseline: str
    candidate: str
    plan: Mapping[str, Any]
    ends: str
    because: str
    rate: float = RATE
    in_flight: int = 8
    patience: float = 10.0
    lasting: bool = False


def _bad(fault: str, title: str, because: str, plan: Mapping[str, Any] = PLAN, **load: Any) -> Scene:
    return Scene(title, ORIGINAL, CANDIDATES[fault].version, plan, "rolled_back", because, **load)


SCENES: Mapping[str, Scene] = {
    "good": Scene("a good candidate", "3.2.0", ORIGINAL, PLAN, "succeeded", f"{ORIGINAL} is the baseline"),
    "slow": _bad("slow", "one made slow", "slower than the baseline's p90", PLAN | {"metrics": LATENCY}),
    "raises": _bad("raises", "one that raises", "errors: "),
    # A lower rate, since copies run only when a core is idle.
    "perturbed": _bad("perturbed", "one with other answers", "copies disagreed", SHADOWED, rate=RATE / 2),
    # Many clients with a long timeout, so that missing answers do not become client errors before they are detected.
    "hangs": _bad(
        "hangs",
        "one that hangs",
        "is worse than",  # late answers count as errors, as stalled, and as slower than any threshold
        PLAN | {"metrics": LATENCY},
        rate=RATE / 2,
        in_flight=200,
        patience=120.0,
        lasting=True,
    ),
}
"""Scenes by name. Each needs a new server, since thresholds are derived from the latest thousands of requests."""


@dataclass(frozen=True, slots=True)
class Harm:
    """The effect of a rollout on clients, from its start to its end.

    Attributes:
        requests: Number of all requests.
        candidates: Number of requests that the candidate answered.
        errors: Number of requests without an answer, by status.
        wrong: Number of answers that differ from those of the good model of that version.
        slow: Number of answers that took longer than `bound`.
        slow_candidates: Number of those that came from the candidate.
        bound: The p99 of the same clients before the rollout, in seconds. Without a rollout, 1 % would be slower.
    """

    requests: int
    candidates: int
    errors: Mapping[str, int]
    wrong: int
    slow: int
    slow_candidates: int
    bound: float

    @classmethod
    def of(cls, got: Sequence[Got], candidate: str, bound: float) -> "Harm":
        """Returns the effect on the clients whose results are `got`."""
        late = [one for one in got if not one.error and one.seconds > bound]
        return cls(
            len(got),
            sum(one.version == candidate for one in got),
            Counter(one.error for one in got if one.error),
            sum(one.wrong for one in got),
            len(late),
            sum(one.version == candidate for one in late),
            bound,
        )

    def __str__(self) -> str:
        failed = sum(self.errors.values())
        kinds = f" ({', '.join(sorted(self.errors))})" if failed else ""
        return (
            f"of {self.requests:,} requests {failed:,} failed{kinds}, {self.wrong:,} had a wrong answer, "
            f"{self.slow:,} took longer than the {self.bound * 1e3:.0f} ms that were the p99 before, "
            f"{self.slow_candidates:,} of them at the candidate"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scene.

    Attributes:
        scene: The scene.
        rollout: Final state of the rollout.
        harm: Effect on clients.
        seconds: Time from the candidate's first request or copy to the end.
    """

    scene: Scene
    rollout: rollout_pb2.Rollout
    harm: Harm
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether the rollout ended in the expected state, for the expected reason."""
        return self.rollout.state == self.scene.ends and self.scene.because in self.rollout.verdict


def publish_all(directory: Path) -> Path:
    """Publishes the models of all scenes in `directory` and releases the real ones. Returns the repository's root."""
    root = directory / "models"
    repository = Repository(root)
    with StateStore.open(Settings(models=root).state_url) as store:
        for version in ("3.2.0", ORIGINAL):
            publish(repository, PublishRequest("magika", Version.parse(version), fetch("magika", version)))
            store.release("magika", Version.parse(version), actor="scenes", reason="a real release")
        for bad in CANDIDATES.values():
            publish(repository, PublishRequest("magika", Version.parse(bad.version), bad.write(directory)))
    return root


@cache
def uploads() -> Sequence[Upload]:
    """Returns real files with their right answers, which are computed with ONNX Runtime directly.

    One in ten is short enough to make one candidate raise, and some have the beginning that makes one hang.
    """
    contents = [content for content in _contents() if len(content.strip()) >= SHORT]
    chosen = [contents[len(contents) * n // FILES] for n in range(FILES)]
    features = [features_v3(c.strip()[: SHORT // 2] if n % 10 == 9 else c) for n, c in enumerate(chosen)]
    old, new = (session(fetch("magika", version)) for version in ("3.2.0", ORIGINAL))
    best = ([int(s.run(None, {"bytes": f})[0].argmax()) for f in features] for s in (old, new))
    order = np.random.default_rng(0).permutation(FILES)  # files in the same directory are similar
    rows = list(zip(features, *best, strict=True))
    return [Upload(rows[n][0], {"3.2.0": rows[n][1], "": rows[n][2]}) for n in order]


def load_of(server: Server, scene: Scene) -> Load:
    """Returns the load of a scene."""
    # Requests that hang keep all cores busy for as long as the load waits for them.
    grace = 1.0 if scene.lasting else 5.0
    return Load(server.grpc, uploads(), scene.rate, scene.in_flight, scene.patience, grace)


def play(server: Server, scene: Scene) -> Outcome:
    """Rolls out a candidate under load, and waits until the rollout ends.

    Raises:
        TimeoutError: The rollout did not end within four minutes.
    """
    with grpc.insecure_channel(server.control) as channel:
        control = ControlServiceStub(channel)
        policy = traffic_pb2.Policy(baseline=scene.baseline)
        control.SetTraffic(traffic_pb2.SetTrafficRequest(model="magika", policy=policy), timeout=60)
        with load_of(server, scene) as load:
            load.wait(BEFORE)
            before = [one.seconds for one in load.got]
            first = len(load.got)
            plan = json.dumps(dict(scene.plan))
            request = rollout_pb2.StartRolloutRequest(model="magika", version=scene.candidate, plan_json=plan)
            control.StartRollout(request, timeout=30)
            rollout = _ended(control)
        harm = Harm.of(load.got[first:], scene.candidate, float(np.quantile(before, 0.99)))
    return Outcome(scene, rollout, harm, _seconds(rollout))


def _ended(control: ControlServiceStub) -> rollout_pb2.Rollout:
    """Waits for the end of the rollout, and returns its final state."""
    last = rollout_pb2.Rollout()
    try:
        for reported in control.WatchRollout(rollout_pb2.WatchRolloutRequest(model="magika"), timeout=_SECONDS):
            last = reported.rollout
            if last.state in FINAL:
                return last
    except grpc.RpcError as error:
        raise TimeoutError(f"the rollout has not ended: {last}") from error
    raise TimeoutError(f"the server stopped telling of the rollout: {last}")


def _seconds(rollout: rollout_pb2.Rollout) -> float:
    """Returns how long the candidate received requests or copies, in seconds, according to the server's events."""
    began = next((e for e in rollout.events if e.kind in ("ramping", "shadowing")), rollout.events[0])
    spent: float = (rollout.events[-1].time.ToDatetime() - began.time.ToDatetime()).total_seconds()
    return spent


def _contents() -> list[bytes]:
    """Returns real files of this repository."""
    found: list[Path] = []
    for root in ("server", "client", "docs", "protos", "tests", "examples", "deploy", "benchmarks"):
        found += [p for p in sorted((REPOSITORY / root).rglob("*")) if p.is_file() and p.suffix != ".pyc"]
    return [path.read_bytes() for path in found]
