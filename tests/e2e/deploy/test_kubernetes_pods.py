"""What the chart renders is run: its command, environment and probes, and its end under load, with the real server."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import yaml
from semver import Version

from certificates import Authority
from kubernetes_chart import KUBERNETES, render_module
from kubernetes_pod import Document, Pod, running
from onnx_models import save, scaled, slow
from postgres_fixture import PostgresServer
from processes import turnout
from turnout.state.store import StateStore
from turnout_client import Client, PermissionDenied, Tls
from turnout_proto.oip import inference_pb2

pytest_plugins = ["postgres_fixture"]
pytestmark = pytest.mark.slow

POLICY = """
[[grant]]
identities = ["dns:a-client.example.org"]
roles = ["predict"]
models = ["m"]
"""
QUICK = {"drain": {"preStopSeconds": 1, "delaySeconds": 1, "timeoutSeconds": 60}}
X = np.ones((1, 4), np.float32)
BEGUN = 'turnout_inflight_requests{model="waits",version="1.0.0"} 1.0'


@pytest.fixture
def node() -> Iterator[Path]:
    """A folder for the volumes of pods, which their user gets to: pytest's own may be entered by its owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="turnout-node-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def pod_of(values: Document, folder: Path) -> tuple[Document, dict[str, Path]]:
    """Returns the pod's spec, and its volumes on this machine, the configuration written."""
    documents = render_module().documents(yaml.safe_dump(values))
    pod = yaml.safe_load(documents["deployment.yaml"])["spec"]["template"]["spec"]
    volumes = {volume["name"]: folder / volume["name"] for volume in pod["volumes"]}
    for path in volumes.values():
        path.mkdir(parents=True, exist_ok=True)
    for name, text in yaml.safe_load(documents["configmap.yaml"])["data"].items():
        (volumes["config"] / name).write_text(text)
    return pod, volumes


class Load:
    """Asks again and again, from a thread of its own; an error is raised where it ends."""

    def __init__(self, client: Client) -> None:
        self.got: list[float] = []
        self._client = client
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(1, "load")
        self._asking = self._pool.submit(self._ask)

    def end(self) -> None:
        self._end.set()
        self._pool.shutdown()
        self._asking.result()

    def _ask(self) -> None:
        while not self._end.is_set():
            self.got.append(float(self._client.predict("m", {"x": X})["y"][0, 0]))


def wait_until(condition: Callable[[], bool], pod: Pod) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, pod.log.read_text()
        time.sleep(0.01)


def sound(log: str) -> bool:
    return "Traceback" not in log and '"level": "error"' not in log


def test_one_pod_starts_is_probed_and_loses_no_request_at_its_end(publish_model, models, node) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("waits", "1.0.0", slow())
    spec, volumes = pod_of(QUICK | {"insecure": True, "config": "[model.m]\nslo_ms = [12.5]\n"}, node)
    shutil.copytree(models, volumes["models"], dirs_exist_ok=True)
    with running(spec, node, volumes) as pod, Client(pod.address("grpc"), retries=0, timeout=60) as client:
        pod.wait_for("startupProbe")
        pod.wait_for("readinessProbe")
        pod.wait_for("livenessProbe")

        def metrics() -> str:
            return httpx.get(f"http://{pod.address('http')}/metrics").text

        assert 'threshold="0.0125"' in metrics(), "the configuration was not read"
        load = Load(client)
        wait_until(lambda: bool(load.got), pod)
        with ThreadPoolExecutor(1, "last") as pool:
            last = []

            def leave() -> None:
                """The cluster has taken the pod out of its services by then: nobody sends it anything new."""
                answered = len(load.got)
                wait_until(lambda: len(load.got) > answered, pod)  # the preStop action changed nothing
                while not last or last[-1].done():  # one may be over before anybody looked
                    last.append(pool.submit(client.predict, "waits", {"x": X, "n": np.int64(100_000)}))
                    wait_until(lambda: last[-1].done() or BEGUN in metrics(), pod)
                load.end()

            code, left = pod.stop(leave)
        assert last[-1].result()["y"].tolist() == [[100_001.0] * 4]
    assert code == 0, pod.log.read_text()
    assert left > 0
    assert set(load.got) == {2.0}
    assert sound(pod.log.read_text()), pod.log.read_text()


def test_pods_with_certificates_share_a_store_and_know_each_other_by_name(
    publish_model, models, node, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    publish_model("m", "1.0.0", scaled(2), release=False)
    with StateStore.open(url) as store:
        store.release("m", Version(1), actor="test", reason="")
    values = yaml.safe_load((KUBERNETES / "values" / "replicas.yaml").read_text()) | QUICK
    values["tls"] = {"secret": "turnout-tls", "clientCa": "clients", "clientCertificates": "required"}
    values["auth"] = {"enabled": True, "policy": POLICY}
    authority = Authority.make()
    cert, key = authority.issue("a client", hosts=("a-client.example.org",)).write(node, "client")
    token = node / "token"
    made = turnout(
        "token", "create", "ops", "--role", "admin", "--model", "*", "--state", url, "--models", models, "--json"
    )
    token.write_text(json.loads(made.stdout)["token"])
    secrets = {"turnout-state": {"url": url}}
    names = ("turnout-5d8f9c7b4-aaaaa", "turnout-5d8f9c7b4-bbbbb")
    with ExitStack() as stack:
        pods = []
        for name in names:
            spec, volumes = pod_of(values, node / name)
            volumes["models"] = node / "models"
            served = authority.issue("a server")
            (volumes["tls"] / "tls.crt").write_bytes(served.pem)
            (volumes["tls"] / "tls.key").write_bytes(served.key)
            (volumes["client-ca"] / "ca.crt").write_bytes(authority.pem)
            if not pods:
                shutil.copytree(models, volumes["models"])
            pods.append(stack.enter_context(running(spec, node, volumes, secrets=secrets, name=name)))
        ca = node / "authority.pem"
        ca.write_bytes(authority.pem)
        for pod in pods:
            pod.wait_for("startupProbe")
            pod.wait_for("readinessProbe")
            with Client(pod.address("grpc"), tls=Tls(ca=str(ca), cert=str(cert), key=str(key))) as client:
                assert client.predict("m", {"x": X})["y"].tolist() == [[2.0] * 4]
                with pytest.raises(PermissionDenied):
                    client.models()
        control = f"127.0.0.1:{pods[0].ports[8003]}"

        def known() -> set[str]:
            asked = ("servers", "--server", control, "--tls-ca", ca, "--token-file", token, "--json")
            output = turnout(*asked, check=False)
            return {one["name"] for one in json.loads(output.stdout)["servers"]} if output.returncode == 0 else set()

        wait_until(lambda: known() == set(names), pods[0])
        for pod in pods:
            code, left = pod.stop()
            assert code == 0, pod.log.read_text()
            assert left > 0
            assert sound(pod.log.read_text()), pod.log.read_text()


RUNTIME = KUBERNETES / "kserve" / "cluster-serving-runtime.yaml"
GRACE_OF_KSERVE = 30
"""Seconds that a pod of KServe's mode `Standard` has to end, unless its InferenceService says (`setDefaultPodSpec`)."""


@pytest.fixture
def mounted() -> Iterator[Path]:
    """A folder that nobody but root may write, as KServe mounts what it fetched."""
    folder = Path(tempfile.mkdtemp(prefix="turnout-mounted-"))
    yield folder
    shutil.rmtree(folder)


def exported(folder: Path, publish_model, models: Path) -> None:
    publish_model("magika", "1.2.0", scaled(2))
    turnout("export", "magika@1.2.0", "--to", folder / "magika", "--models", models)


def triton_tree(folder: Path, publish_model, models: Path) -> None:
    (folder / "magika" / "1").mkdir(parents=True)
    save(scaled(2), folder / "magika" / "1" / "model.onnx")
    (folder / "magika" / "config.pbtxt").write_text('name: "magika"\nplatform: "onnxruntime_onnx"\n')


@pytest.mark.parametrize("fetched", [exported, triton_tree])
def test_the_kserve_runtime_serves_what_was_fetched(fetched, publish_model, models, node, mounted) -> None:
    fetched(mounted, publish_model, models)
    for path in (mounted, *mounted.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    spec = yaml.safe_load(RUNTIME.read_text())["spec"]
    (container,) = spec["containers"]
    container["volumeMounts"].append({"name": "fetched", "mountPath": "/mnt/models", "readOnly": True})
    pod_spec = {"containers": [container], "terminationGracePeriodSeconds": GRACE_OF_KSERVE}
    volumes = {"fetched": mounted, "scratch": node / "scratch", "shared-memory": node / "shm"}
    (node / "scratch").mkdir()
    drain = {one["name"]: float(one["value"]) for one in container["env"]}
    assert sum(drain.values()) + 5 <= GRACE_OF_KSERVE, "what is under way ends before the pod is killed"
    assert drain.keys() == {"TURNOUT_DRAIN__DELAY_S", "TURNOUT_DRAIN__TIMEOUT_S"}
    container["env"][0]["value"] = "0"  # of TURNOUT_DRAIN__DELAY_S
    with running(pod_spec, node, volumes) as pod:
        pod.wait_for("startupProbe")
        pod.wait_for("readinessProbe")
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
        answer = httpx.post(f"http://{pod.address('http')}/v2/models/magika/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["data"] == [2.0] * 4, answer.text
        with grpc.insecure_channel(pod.address("grpc")) as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
            answered = ready(inference_pb2.ModelReadyRequest(name="magika").SerializeToString(), timeout=60)
        assert inference_pb2.ModelReadyResponse.FromString(answered).ready
        code, left = pod.stop()
    assert (code, left > 0) == (0, True)
    assert sound(pod.log.read_text()), pod.log.read_text()
