"""Scenes: a good version becomes the baseline under load, and a slower version is rolled back."""

from pathlib import Path

import grpc
import numpy as np

from magika.candidates import CANDIDATES, ORIGINAL
from magika.load import Load
from magika.process import Server, console, publish_by_command, steer, watch
from magika.rollouts import BEFORE, PLAN_FILE, RATE, SCENES, Harm, Scene, load_of
from turnout_client import Client
from turnout_proto.v1 import rollout_pb2
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub


def good(server: Server) -> int:
    """Rolls out 3.3.0 over 3.2.0. Returns the number of claims that did not hold."""
    scene = SCENES["good"]
    steer(server, "traffic", "set", "magika", "--baseline", scene.baseline)
    code, harm, rollout = _rolled_out(server, scene)
    kinds = [event.kind for event in rollout.events]
    through = kinds.count("soaking") == len(scene.plan["steps"]) and kinds[-3:] == [
        "promoting",
        "watching",
        "succeeded",
    ]
    steer(server, "traffic", "show", "magika")
    with Client(server.grpc) as client:
        answering = client.get_version("magika").version
    unmet = (not through, harm.candidates == 0, scene.because not in rollout.verdict)
    return sum((code != 0, harm.errors != {}, harm.wrong > 0, answering != ORIGINAL, *unmet))


def slow(server: Server, models: Path, reports: Path) -> int:
    """Publishes 3.4.0 while 3.3.0 serves, and rolls it out. Returns the number of claims that did not hold."""
    scene, bad = SCENES["slow"], CANDIDATES["slow"]
    console.print(f"{bad.version} is {ORIGINAL} with layers of no use: {bad.fault}")
    model = bad.write(models.parent)
    publish_by_command("publish", "magika", bad.version, str(model), models=models, show=model.name)
    with Client(server.grpc) as client:
        client.wait_ready("magika", bad.version)
    code, harm, rollout = _rolled_out(server, scene)
    steer(server, "rollout", "explain", "magika")
    reports.mkdir(exist_ok=True)
    page = reports / f"rollout-magika-{bad.version}.html"
    steer(server, "rollout", "report", "magika", "--html", str(page))
    with Client(server.grpc) as client:
        answering = client.get_version("magika").version
    unmet = (rollout.state != scene.ends, scene.because not in rollout.verdict, not page.exists())
    return sum((code != 1, harm.errors != {}, harm.wrong > 0, answering != ORIGINAL, *unmet))


def _rolled_out(server: Server, scene: Scene) -> tuple[int, Harm, rollout_pb2.Rollout]:
    """Rolls out a candidate under load, and watches the rollout.

    Returns:
        The exit status of the watcher, the effect on clients, and the final state of the rollout.
    """
    with load_of(server, scene) as load:
        console.print(f"real files come in, at most {RATE:.0f} a second, half of them with a user's key", style="dim")
        bound, first = _before(load)
        plan = str(PLAN_FILE.relative_to(Path.cwd())) if PLAN_FILE.is_relative_to(Path.cwd()) else str(PLAN_FILE)
        metrics = ("--metrics", ",".join(scene.plan["metrics"]))
        arguments = ("--to", scene.candidate, *metrics, "--plan", plan, "--actor", "demo", "--reason", scene.title)
        steer(server, "rollout", "start", "magika", *arguments)
        code = watch(server, "magika")
        seen = load.got[first:]
    harm = Harm.of(seen, scene.candidate, bound)
    console.print(f"[bold]what clients saw:[/] {harm}")
    with grpc.insecure_channel(server.control) as channel:
        asked = rollout_pb2.GetRolloutTicksRequest(model="magika")
        rollout = ControlServiceStub(channel).GetRolloutTicks(asked, timeout=60).rollout
    return code, harm, rollout


def _before(load: Load) -> tuple[float, int]:
    """Waits for the requests that the thresholds need. Returns the clients' p99 in seconds and their number."""
    load.wait(BEFORE)
    return float(np.quantile([one.seconds for one in load.got], 0.99)), len(load.got)
