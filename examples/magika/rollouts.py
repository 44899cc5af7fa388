"""Scenes: a good candidate becomes the baseline, and four bad ones do not. One story for demo, tests and benchmarks."""

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
    "TURNOUT_ROLLOUT__TICK_S": "0.5",  # looks ten times as often as by default: these plans take seconds, not hours
    "TURNOUT_BATCHING__ENABLED": "false",  # magika gains nothing by batches on a CPU, and a noisy warm-up may think so
}
"""Of a server that plays scenes."""

PLAN_FILE = Path(__file__).with_name("plan.toml")
PLAN: Mapping[str, Any] = tomllib.loads(PLAN_FILE.read_text())
"""Compressed in time; the file says how."""

LATENCY = ("errors", "p90", "stalled")
"""Metrics of rollouts whose candidate is slow: too few requests pass p95 and p99 within a minute."""

SHADOWED: Mapping[str, Any] = PLAN | {
    "shadow": {"rate": 1.0, "duration_s": 10.0, "agreement": 0.99, "min_samples": 200}
}
"""The same after a stage in which each request is copied."""

RATE = 80.0
"""Requests a second: magika runs 5 ms, so that two cores have more than one to spare."""

BEFORE = 220
"""Requests before a rollout begins: its thresholds take 200 of the baseline's."""

FILES = 120
_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A rollout of one candidate under load.

    Attributes:
        title: What happens, in words.
        baseline: Version that answers before.
        candidate: Version that is to take its place.
        plan: Of the rollout.
        ends: State that it has to end in.
        because: What the verdict has to name.
        rate, in_flight, patience: Of the load.
        lasting: Its runs go on after it was rolled back, and may outlive a drain.
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
    # Copies run when nobody else wants a core.
    "perturbed": _bad("perturbed", "one with other answers", "copies disagreed", SHADOWED, rate=RATE / 2),
    # Many clients that wait long: those that give up would be errors, and what is to be seen is that no answer comes.
    "hangs": _bad(
        "hangs",
        "one that hangs",
        "is worse than",  # its answers come too late, which is an error, a stall and slower than any threshold
        PLAN | {"metrics": LATENCY},
        rate=RATE / 2,
        in_flight=200,
        patience=120.0,
        lasting=True,
    ),
}
"""By name. Each wants a server of its own: thresholds come from the latest thousands of requests, whoever sent them."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What clients saw from the start of a rollout to its end.

    Attributes:
        requests: All of them.
        candidates: Answered by the candidate.
        errors: Not answered, by status.
        wrong: Answered otherwise than the good model of that version answers.
        slow: Answered later than `bound`.
        slow_candidates: By the candidate, of those.
        bound: Seconds: the p99 that the same clients saw before the rollout, so that 1 % would be slow without one.
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
        """Counts."""
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
    """What became of a scene.

    Attributes:
        scene: That was played.
        rollout: At its end.
        harm: What clients saw.
        seconds: From the candidate's first request or copy to the end.
    """

    scene: Scene
    rollout: rollout_pb2.Rollout
    harm: Harm
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether it ended as the scene has to end, and for that reason."""
        return self.rollout.state == self.scene.ends and self.scene.because in self.rollout.verdict


def publish_all(directory: Path) -> Path:
    """Publishes the models of all scenes below `directory`, the real ones released; returns the repository's root."""
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
    """Returns real files with their right answers, as ONNX Runtime gives them when it is asked directly.

    One in ten is short enough for the candidate that raises; some begin as the one that hangs wants it.
    """
    contents = [content for content in _contents() if len(content.strip()) >= SHORT]
    chosen = [contents[len(contents) * n // FILES] for n in range(FILES)]
    features = [features_v3(c.strip()[: SHORT // 2] if n % 10 == 9 else c) for n, c in enumerate(chosen)]
    old, new = (session(fetch("magika", version)) for version in ("3.2.0", ORIGINAL))
    best = ([int(s.run(None, {"bytes": f})[0].argmax()) for f in features] for s in (old, new))
    order = np.random.default_rng(0).permutation(FILES)  # neighbours in a directory are much alike
    rows = list(zip(features, *best, strict=True))
    return [Upload(rows[n][0], {"3.2.0": rows[n][1], "": rows[n][2]}) for n in order]


def load_of(server: Server, scene: Scene) -> Load:
    """Returns the load that a scene is played under."""
    # What hangs keeps every core busy for as long as it is waited for.
    grace = 1.0 if scene.lasting else 5.0
    return Load(server.grpc, uploads(), scene.rate, scene.in_flight, scene.patience, grace)


def play(server: Server, scene: Scene) -> Outcome:
    """Rolls a candidate out under load until the rollout ends.

    Raises:
        TimeoutError: It did not within four minutes.
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
    """Follows the rollout to its end."""
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
    """Returns how long the candidate got requests or copies, by the server's own events."""
    began = next((e for e in rollout.events if e.kind in ("ramping", "shadowing")), rollout.events[0])
    spent: float = (rollout.events[-1].time.ToDatetime() - began.time.ToDatetime()).total_seconds()
    return spent


def _contents() -> list[bytes]:
    """Returns real files of this repository."""
    found: list[Path] = []
    for root in ("server", "client", "docs", "protos", "tests", "examples", "deploy", "benchmarks"):
        found += [p for p in sorted((REPOSITORY / root).rglob("*")) if p.is_file() and p.suffix != ".pyc"]
    return [path.read_bytes() for path in found]
