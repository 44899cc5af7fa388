"""Custom resources are what their own definitions say: the operators' by TypeScript, KServe's by its Python SDK.

TypeScript refuses a field that a type does not have, which most validators of custom resources let pass.
"""

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import made_once
import node as node_packages
from kubernetes_chart import KUBERNETES, Document, rendered, replicas

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs Node and the SDK

PACKAGES = (
    "@kubernetes-models/argo-rollouts@2.0.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
)
MODULES = {
    "argoproj.io/v1alpha1": "@kubernetes-models/argo-rollouts/argoproj.io/v1alpha1",
    "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
}
KSERVE = "0.21.0"


@pytest.fixture(scope="module")
def node() -> Path:
    return node_packages.environment(*PACKAGES)


def validation_errors(node: Path, documents: list[Document], folder: Path) -> str:
    """Returns what TypeScript says of documents as literals of their types; "" if it takes them."""
    lines = []
    for number, document in enumerate(documents):
        kind = document["kind"]
        lines.append(f'import type {{ I{kind} as T{number} }} from "{MODULES[document["apiVersion"]]}/{kind}";')
        lines.append(f"export const d{number}: T{number} = {json.dumps(document)};")
    (folder / "documents.ts").write_text("\n".join(lines))
    (folder / "node_modules").symlink_to(node / "node_modules")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    command = [node / "bin" / "node", node / "node_modules" / "typescript" / "bin" / "tsc", *options, "documents.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) is (done.stdout == ""), done.stdout + done.stderr
    return done.stdout


def custom_resources() -> list[Document]:
    documents = [document for document in rendered(replicas()) if document["apiVersion"] in MODULES]
    for file in sorted((KUBERNETES.parent / "argo-rollouts").glob("*.yaml")):
        documents += yaml.safe_load_all(file.read_text())
    return documents


def test_the_operators_know_every_field(node: Path, tmp_path: Path) -> None:
    documents = custom_resources()
    kinds = {document["kind"] for document in documents}
    assert kinds == {"AnalysisTemplate", "PodMonitor", "PrometheusRule", "Rollout", "ScaledObject"}
    assert validation_errors(node, documents, tmp_path) == ""


def test_a_field_that_an_operator_does_not_know_would_be_found(node: Path, tmp_path: Path) -> None:
    documents = custom_resources()
    for document in documents:
        document["spec"]["nonsense"] = 1
    found = validation_errors(node, documents, tmp_path)
    assert len(re.findall("'\"nonsense\"' does not exist", found)) == len(documents)


_READ = """
import importlib.util, json, sys, types
# The package itself imports a server, with pandas and a client of Kubernetes: its models need none of it.
found = importlib.util.find_spec("kserve")
package = types.ModuleType("kserve")
package.__path__ = list(found.submodule_search_locations)
sys.modules["kserve"] = package
from kserve import models

def check(value, kind, path):
    if kind.startswith("list["):
        for number, item in enumerate(value):
            check(item, kind[5:-1], f"{path}[{number}]")
    elif kind.startswith("V1") and hasattr(models, kind):
        model = getattr(models, kind)
        named = {json_name: name for name, json_name in model.attribute_map.items()}
        if unknown := value.keys() - named.keys():
            sys.exit(f"{path}: {kind} has no {sorted(unknown)}")
        model(**{named[key]: item for key, item in value.items()})  # raises where something is missing
        for key, item in value.items():
            check(item, model.openapi_types[named[key]], f"{path}.{key}")
    elif kind in ("str", "int", "bool", "float"):
        if type(value).__name__ != kind:
            sys.exit(f"{path}: expected {kind}, got {value!r}")

document = json.load(sys.stdin)
check(document, sys.argv[1], document["kind"])
"""


def read_by_kserve(document: Document, model: str) -> str:
    """Returns what KServe's own model says of a document; "" if it takes it."""
    # 6 MB without what the package needs for all else, and 450 MB with it.
    home = made_once.environment(
        f"kserve-models-{KSERVE}", "--no-deps", f"kserve=={KSERVE}", "six", "urllib3", timeout=300
    )
    command = [home / "bin" / "python", "-c", _READ, model]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, timeout=300)
    return done.stderr


def test_kserve_knows_every_field_of_the_runtime_and_of_the_example() -> None:
    runtime = yaml.safe_load((KUBERNETES / "kserve" / "cluster-serving-runtime.yaml").read_text())
    assert read_by_kserve(runtime, "V1alpha1ClusterServingRuntime") == ""
    service = yaml.safe_load((KUBERNETES / "kserve" / "inference-service.yaml").read_text())
    assert read_by_kserve(service, "V1beta1InferenceService") == ""
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    runtime["spec"]["protocolVersion"] = ["v2"]
    assert "protocolVersion" in read_by_kserve(runtime, "V1alpha1ClusterServingRuntime")


def test_the_runtime_is_what_kserve_expects_of_one() -> None:
    spec = yaml.safe_load((KUBERNETES / "kserve" / "cluster-serving-runtime.yaml").read_text())["spec"]
    assert {"v2", "grpc-v2"} == set(spec["protocolVersions"])
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "grpc": 9000}
    assert "--models=/mnt/models" in container["args"]
    assert f"--http=0.0.0.0:{ports['http']}" in container["args"]
    assert f"--grpc=0.0.0.0:{ports['grpc']}" in container["args"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod}
    kubernetes_validate.validate(document, "1.37", strict=True)
