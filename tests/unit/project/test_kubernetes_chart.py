"""The Helm chart, the manifests rendered from it, and the KServe runtime: sound, restricted, and of one piece."""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from debian import needs, program
from kubernetes_chart import CHART, KUBERNETES, Document, only, render_module, rendered, replicas
from turnout.config import Drain, RepositoryUrl

RUNTIME = yaml.safe_load((KUBERNETES / "kserve" / "cluster-serving-runtime.yaml").read_text())
ALL_ON = replicas(
    control={"enabled": True},
    tls={"secret": "tls", "clientCa": "clients", "clientCertificates": "optional"},
    networkPolicy={"operators": [{"podSelector": {"matchLabels": {"role": "operator"}}}]},
)
VALUES = {"defaults": {}, "replicas": replicas(), "all": ALL_ON}

needs_promtool = needs(program("prometheus", "promtool"), "prometheus")
each = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


def pod_of(documents: list[Document]) -> Document:
    pod: Document = only(documents, "Deployment")["spec"]["template"]["spec"]
    return pod


def test_what_is_committed_is_what_the_chart_renders() -> None:
    wanted = render_module().wanted()
    assert {path for path in wanted if not path.exists() or path.read_text() != wanted[path]} == set()
    assert set((KUBERNETES / "manifests").iterdir()) | set((CHART / "rules").iterdir()) == set(wanted)


@each
def test_helm_lints_the_chart(values: Document) -> None:
    report = helm_python.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@each
@pytest.mark.parametrize("kubernetes", ["1.30", "1.37"])
def test_kubernetes_takes_what_is_rendered(values: Document, kubernetes: str) -> None:
    custom = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}  # those: e2e/deploy/test_kubernetes_custom_resources.py
    for document in rendered(values):
        if document["apiVersion"] not in custom:
            kubernetes_validate.validate(document, kubernetes, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    deployment = only(rendered(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["sleeps"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_every_value_is_in_the_schema_and_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(defaults, schema)

    def keys(part: Document, prefix: str = "") -> set[str]:
        part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        below = part.get("properties", {})
        return {prefix.removesuffix(".")}.union(*(keys(value, f"{prefix}{key}.") for key, value in below.items()))

    def given(part: object, prefix: str = "") -> set[str]:
        below = part if isinstance(part, dict) else {}
        return {prefix.removesuffix(".")}.union(*(given(value, f"{prefix}{key}.") for key, value in below.items()))

    free = ("resources.requests.", "resources.limits.")
    assert {k for k in given(defaults) if not k.startswith(free)} == keys(schema) - {"global"}


@pytest.mark.parametrize(
    ("values", "terms"),
    [
        ({"replicas": 2}, "set state.secret.name"),
        ({"autoscaling": {"enabled": True}}, "set state.secret.name"),
        ({"replicas": 2, "state": {"secret": {"name": "s"}}}, "ReadWriteMany"),
        ({"tls": {"secret": "a", "clientCertificates": "required"}}, "set tls.clientCa too"),
        ({"tls": {"clientCa": "a", "clientCertificates": "required"}}, "set tls.secret too"),
        ({"tls": {"secret": "a", "clientCa": "b"}}, "set tls.clientCertificates"),
        ({"insecure": False}, "who may call?"),
        ({"insecure": False, "tls": {"secret": "a"}}, "who may call?"),
        ({"auth": {"enabled": True}}, "who may call?"),
        ({"insecure": True, "auth": {"policy": "x"}}, "set auth.enabled too"),
        ({"models": {"url": "s3://bucket/prefix"}}, "set state.secret.name"),
        ({"models": {"url": "s3://key:secret@bucket"}}, "url"),
        ({"replica": 2}, "replica"),
        ({"drain": {"preStopSeconds": 0}}, "preStopSeconds"),
        ({"grpc": {"port": 80}}, "port"),
        ({"models": {"path": "models"}}, "path"),
        ({"autoscaling": {"queueSeconds": "fast"}}, "queueSeconds"),
    ],
)
def test_values_that_cannot_work_are_refused_in_words(values: Document, terms: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(terms)):
        rendered(values)


def test_versions_that_live_elsewhere_need_no_volume_but_a_cache() -> None:
    url = "oci://registry.example.org:5000/team/models"
    values = {"insecure": True, "replicas": 2, "models": {"url": url}, "state": {"secret": {"name": "s"}}}
    documents = rendered(values)
    pod = pod_of(documents)
    assert f"--models={url}" in pod["containers"][0]["args"]
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert environment["TURNOUT_REPOSITORY__CACHE"] == "/models"
    assert environment["TURNOUT_REPOSITORY__CACHE_MAX_BYTES"] == "16GiB"
    assert {"name": "models", "emptyDir": {}} in pod["volumes"]
    assert not [document for document in documents if document["kind"] == "PersistentVolumeClaim"]
    (policy,) = [document for document in documents if document["kind"] == "NetworkPolicy"]
    assert {"port": 443, "protocol": "TCP"} in [port for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert str(RepositoryUrl.parse(url)) == url


@each
def test_the_pod_is_what_the_restricted_standard_asks_for(values: Document) -> None:
    pod = pod_of(rendered(values))
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == _image_user()
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    _is_restricted(pod["containers"])
    assert {kind for volume in pod["volumes"] for kind in volume} <= {
        "name", "configMap", "emptyDir", "persistentVolumeClaim", "secret",
    }  # fmt: skip


def test_the_kserve_runtime_is_what_the_restricted_standard_asks_for() -> None:
    _is_restricted(RUNTIME["spec"]["containers"])


def _is_restricted(containers: list[Document]) -> None:
    for container in containers:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["runAsNonRoot"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not security.get("privileged")


def _image_user() -> int:
    return int(re.findall(r"^USER (\d+)$", (KUBERNETES.parents[1] / "Dockerfile").read_text(), re.MULTILINE)[-1])


@pytest.mark.parametrize("drain", [{}, {"preStopSeconds": 1, "delaySeconds": 0, "timeoutSeconds": 900}], ids=str)
def test_the_grace_period_holds_the_pre_stop_action_and_the_drain(drain: Document) -> None:
    pod = pod_of(rendered({"drain": drain}))
    (container,) = pod["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    delay, timeout = (float(environment[f"TURNOUT_DRAIN__{name}_S"]) for name in ("DELAY", "TIMEOUT"))
    if not drain:
        assert (delay, timeout) == (Drain().delay_s, Drain().timeout_s)
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # Models are unloaded after the drain: not within its bound, and not within nothing.
    assert pod["terminationGracePeriodSeconds"] == before + delay + timeout + 10


@each
def test_all_that_names_something_else_names_what_is_there(values: Document) -> None:
    documents = rendered(values)
    labels = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    pod = pod_of(documents)
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert len({port["containerPort"] for port in container["ports"]}) == len(ports)
    for service in (d for d in documents if d["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for document in (d for d in documents if d["kind"] == kind):
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policy = only(documents, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["serviceAccountName"] == only(documents, "ServiceAccount")["metadata"]["name"]
    if "state" in values:
        assert 5432 in {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert "replicas" not in only(documents, "Deployment")["spec"]  # KEDA's to set
        target = only(documents, "ScaledObject")["spec"]["scaleTargetRef"]["name"]
        assert target == only(documents, "Deployment")["metadata"]["name"]


def test_the_control_listener_is_on_the_loopback_unless_it_is_enabled() -> None:
    (container,) = pod_of(rendered())["containers"]
    assert "--control=127.0.0.1:8003" in container["args"]
    assert "turnout-control" not in {d["metadata"]["name"] for d in rendered()}
    (container,) = pod_of(rendered(ALL_ON))["containers"]
    assert "--control=0.0.0.0:8003" in container["args"]
    # Who is not asked for a token shows a certificate.
    for auth, certificates in ((True, "none"), (False, "required")):
        (container,) = pod_of(rendered(ALL_ON | {"auth": {"enabled": auth}, "insecure": not auth}))["containers"]
        assert {"name": "TURNOUT_TLS__CONTROL__CLIENT_CERTIFICATES", "value": certificates} in container["env"]


def test_what_says_who_may_call_reaches_the_server_and_the_scraper() -> None:
    documents = rendered(
        replicas(
            auth={"enabled": True, "policy": "[[grant]]\n"}, podMonitor={"enabled": True, "token": {"secret": "s"}}
        )
    )
    (container,) = pod_of(documents)["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["TURNOUT_AUTH__ENABLED"] == "true"
    assert environment["TURNOUT_AUTH__POLICY"] == "/etc/turnout/policy.toml"
    assert only(documents, "ConfigMap")["data"]["policy.toml"] == "[[grant]]\n"
    assert "--insecure" not in container["args"]
    (endpoint,) = only(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "s", "key": "token"}}
    (container,) = pod_of(rendered())["containers"]
    assert "--insecure" in container["args"]


def test_a_configuration_that_changes_makes_new_pods_and_arrives_as_it_was_written() -> None:
    text = '[limits]\nmax_message_bytes = "1MiB"   # "quoted"\n\n[model.a]\nslo_ms = [1.5]\n'
    before, after = rendered(), rendered({"config": text})
    assert only(after, "ConfigMap")["data"]["turnout.toml"] == text
    sums = {
        only(d, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for d in (before, after)
    }
    assert len(sums) == 2


@pytest.mark.parametrize("name", ["a", "r" * 53, "turnout-eu-1"])
def test_names_fit_into_labels_whatever_the_release_is_called(name: str) -> None:
    for document in rendered(replicas(), name=name):
        assert len(document["metadata"]["name"]) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])


def test_the_chart_the_images_and_the_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (container,) = RUNTIME["spec"]["containers"]
    assert {chart["version"], chart["appVersion"]} == {version("turnout")}
    assert container["image"] == f"turnout:{version('turnout')}"
    assert pod_of(rendered())["containers"][0]["image"] == container["image"]


def test_the_rules_are_those_of_the_repository() -> None:
    groups = only(rendered(replicas()), "PrometheusRule")["spec"]["groups"]
    wanted = [
        group
        for file in sorted((KUBERNETES.parent / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert groups == wanted
    elsewhere = replicas(prometheusRule={"enabled": True, "runbooks": "https://docs.example.org/runbooks/"})
    urls = {
        rule["annotations"]["runbook_url"]
        for group in only(rendered(elsewhere), "PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert urls
    assert all(url.startswith("https://docs.example.org/runbooks/Turnout") for url in urls)


@needs_promtool
def test_servers_are_added_for_the_time_that_requests_wait(tmp_path: Path) -> None:
    """Prometheus itself evaluates the ScaledObject's query: it looks at its pods alone, and is a number at any time."""
    (trigger,) = only(rendered(replicas()), "ScaledObject")["spec"]["triggers"]
    assert trigger["metricType"] == "Value"
    query, threshold = trigger["metadata"]["query"], trigger["metadata"]["threshold"]
    waits = 'turnout_queue_duration_seconds_bucket{{namespace="{}",pod="{}",role="{}",le="{}"}}'

    def buckets(pod: str, quick: str, role: str = "baseline", namespace: str = "turnout") -> list[Document]:
        counts = {"0.01": quick, "0.1": "0+60x10", "+Inf": "0+60x10"}
        return [{"series": waits.format(namespace, pod, role, le), "values": v} for le, v in counts.items()]

    ours, theirs = "turnout-7d9c-x2x4z", "turnout-staging-7d9c-x2x4z"
    idle = buckets(ours, "0+0x10")[:1]
    cases: dict[str, tuple[list[Document], int]] = {
        "half wait": (buckets(ours, "0+30x10"), 1),
        "nobody waits": (buckets(ours, "0+60x10"), 0),
        "shadows wait": (buckets(ours, "0+60x10") + buckets(ours, "0+0x10", "shadow"), 0),
        "others wait": (buckets(ours, "0+60x10") + buckets(theirs, "0+0x10") + buckets(ours, "0", namespace="b"), 0),
        "nothing was asked": (idle, 0),
        "no pod is there": ([], 0),
    }
    tests = [
        {
            "name": name,
            "interval": "15s",
            "input_series": series,
            "promql_expr_test": [
                {
                    "expr": f"({query}) > bool {threshold}",
                    "eval_time": "2m",
                    "exp_samples": [{"labels": "{}", "value": value}],
                }
            ],
        }
        for name, (series, value) in cases.items()
    ]
    file = tmp_path / "queue.yml"
    file.write_text(yaml.safe_dump({"tests": tests}))
    run = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
