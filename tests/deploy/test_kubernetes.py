"""deploy/kubernetes: what a cluster would refuse, and what it would take and no pod could live with."""

import dataclasses
import functools
import importlib.util
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from settings import Settings
from tests.deploy.manifests import (
    FOLDER,
    OVERLAYS,
    Place,
    Pods,
    may_connect,
    needs_kustomize,
    of_kind,
    pods,
    rendered,
    schema_of,
    selects,
    unknown_fields,
)
from tests.support import ROOT

pytestmark = [needs_kustomize, pytest.mark.parametrize("overlay", OVERLAYS)]

OURS = ("ScaledObject", "ServingRuntime", "InferenceService")
VERSIONS = ("1.30", kubernetes_validate.latest_version())
SETTINGS = {field.name.upper() for field in dataclasses.fields(Settings)}
NOT_OURS = {"TF_FORCE_GPU_ALLOW_GROWTH"}
"""TensorFlow's."""


@pytest.mark.slow
def test_every_manifest_is_what_its_kind_takes(overlay: str) -> None:
    for manifest in rendered(overlay):
        _validate(json.dumps(manifest, sort_keys=True))
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "batchwire"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "batchwire"


@functools.cache  # most are the same in several overlays
def _validate(text: str) -> None:
    manifest = json.loads(text)
    if manifest["kind"] not in OURS:
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    api_version, schema = schema_of(manifest["kind"])
    assert manifest["apiVersion"] == api_version
    jsonschema.Draft202012Validator(schema).validate(
        manifest
    )  # without judging the schema, which takes longer
    assert list(unknown_fields(schema, manifest)) == []


@pytest.mark.slow
def test_a_field_that_no_schema_knows_would_be_found(overlay: str) -> None:
    for manifest in of_kind(overlay, *OURS):
        _, schema = schema_of(manifest["kind"])
        spec = {**manifest["spec"], "minReplicaCounts": 0}
        assert list(unknown_fields(schema, {**manifest, "spec": spec})) == [".spec.minReplicaCounts"]


def test_no_pod_has_a_right_that_it_does_not_need(overlay: str) -> None:
    for each in pods(overlay):
        assert each.spec["automountServiceAccountToken"] is False
        security = each.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["fsGroup"] == (999 if each.name == "redis" else 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        own = each.container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPath" in volume for volume in each.spec["volumes"])


def test_every_container_has_probes_and_bounds(overlay: str) -> None:
    for each in pods(overlay):
        container = each.container
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["timeoutSeconds"] >= 5  # a busy node is no reason to kill
            _probe_reaches_a_port(each, container[probe])
        start = container["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 120
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def _probe_reaches_a_port(each: Pods, probe: dict[str, Any]) -> None:
    ports = {port["containerPort"] for port in each.container["ports"]}
    ports |= {port["name"] for port in each.container["ports"]}
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if kind in probe:
            assert probe[kind]["port"] in ports
    if "exec" in probe:
        numbers = re.findall(r"127\.0\.0\.1:(\d+)", " ".join(probe["exec"]["command"]))
        assert {int(number) for number in numbers} <= ports


def test_readiness_of_web_asks_for_no_model_server(overlay: str) -> None:
    for each in pods(overlay):
        if each.container["image"] == "batchwire/web":
            assert each.environment(overlay)["SCALE_TO_ZERO"] == "on"
            for probe in ("startupProbe", "livenessProbe"):  # nor does life ask for Redis
                assert "grpc" not in each.container[probe]
                assert each.container[probe].get("httpGet", {}).get("path", "/healthz") == "/healthz"


def test_every_selector_selects_and_every_target_is_there(overlay: str) -> None:
    labels = [each.labels for each in pods(overlay)]
    for each in of_kind(overlay, "Deployment", "StatefulSet"):
        assert sum(selects(each["spec"]["selector"], own) for own in labels) == 1
        assert selects(each["spec"]["selector"], each["spec"]["template"]["metadata"]["labels"])
        for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selects(spread["labelSelector"], each["spec"]["template"]["metadata"]["labels"])
    for each in of_kind(overlay, "Service"):
        (target,) = [
            own for own in pods(overlay) if selects({"matchLabels": each["spec"]["selector"]}, own.labels)
        ]
        named = {port["name"]: port["containerPort"] for port in target.container["ports"]}
        assert all(named[port["targetPort"]] == port["port"] for port in each["spec"]["ports"])
    for each in of_kind(overlay, "PodDisruptionBudget"):
        assert sum(selects(each["spec"]["selector"], own) for own in labels) == 1
    for each in of_kind(overlay, "NetworkPolicy"):
        assert any(selects(each["spec"]["podSelector"], own) for own in labels)
    budgets = {each["metadata"]["name"] for each in of_kind(overlay, "PodDisruptionBudget")}
    deployments = {each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "Deployment")}
    assert budgets == set(deployments)
    for each in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        assert (
            "replicas" not in deployments[each["spec"]["scaleTargetRef"]["name"]]
        )  # applied again, it would count


def test_every_variable_is_a_setting_with_a_value_that_it_may_have(overlay: str) -> None:
    for each in pods(overlay):
        if each.name == "redis":
            continue
        environment = each.environment(overlay)
        assert set(environment) - SETTINGS - NOT_OURS == set()
        if environment["REDIS_PASSWORD_FILE"]:
            mounts = {mount["mountPath"] for mount in each.container["volumeMounts"]}
            assert environment["REDIS_PASSWORD_FILE"].rpartition("/")[0] in mounts
        settings = Settings.from_env({**environment, "REDIS_PASSWORD_FILE": ""}).require_redis()
        metrics = [port for port in each.container["ports"] if port["name"] == "metrics"]
        assert all(port["containerPort"] == settings.metrics_port for port in metrics)
        if each.container["command"][0] == "gunicorn":
            assert settings.port in {port["containerPort"] for port in each.container["ports"]}


def test_a_drain_has_the_time_that_it_takes(overlay: str) -> None:
    for each in pods(overlay):
        if each.name == "redis":
            continue
        settings = Settings.from_env({**each.environment(overlay), "REDIS_PASSWORD_FILE": ""})
        stop = (
            each.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        )
        drain_s = int(stop[1]) + settings.request_timeout_s + 4
        if each.name.startswith("batchwire-"):  # KServe's: no shorter than the base's
            drain_s = 19
        assert each.spec["terminationGracePeriodSeconds"] >= drain_s
        is_asked_by_balancers = each.container["image"] == "batchwire/web"
        assert (int(stop[1]) >= 5) is is_asked_by_balancers


def test_every_entry_point_is_in_its_image(overlay: str) -> None:
    files = {"batchwire/web": "web/Dockerfile", "batchwire/redis": "deploy/redis/Dockerfile"}
    for each in pods(overlay):
        image = files.get(each.container["image"], "model_server/Dockerfile")
        built = (ROOT / image).read_text("utf-8")
        command = each.container.get("command", [])
        if command[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(command[2]) is not None
            assert f"COPY {command[2].partition('.')[0]} " in built
        elif command:
            assert f"CMD {json.dumps(command)}" in built


def test_the_memory_is_that_of_docker_compose(overlay: str) -> None:
    compose = yaml.load((ROOT / "docker-compose.yml").read_text("utf-8"), yaml.CSafeLoader)["services"]
    for each in pods(overlay):
        tier = (
            "web" if each.name.startswith("batchwire-") else each.name.removesuffix("-gpu").replace("-", "_")
        )
        (most,) = re.findall(r":-(\d+)g\}$", compose[tier]["mem_limit"])
        assert each.container["resources"]["limits"]["memory"] == f"{most}Gi"


def test_nobody_connects_who_need_not(overlay: str) -> None:
    by_name = {each.name: Place(each.labels) for each in pods(overlay)}
    stranger, elsewhere = Place({"app": "x"}), Place({"app": "x"}, namespace="default")
    web, server = by_name["web"], by_name["model-server"]
    own_redis = "redis" in by_name
    redis = by_name.get("redis", Place(address="10.1.2.3"))
    for name, place in by_name.items():
        if name != "redis":
            assert may_connect(overlay, place, redis, 6379)
            assert may_connect(overlay, place, redis, 26379) is not own_redis  # Sentinels
        assert not may_connect(overlay, place, Place({"k": "v"}, namespace="default"), 443)
        assert not may_connect(overlay, place, Place(address="10.9.9.9"), 443)
        downloads = name.startswith("model-server")
        assert may_connect(overlay, place, Place(address="93.184.216.34"), 443) is downloads
        assert not may_connect(overlay, stranger, place, 5000)  # the namespace denies it the way out
        assert may_connect(overlay, elsewhere, place, 9100) is False
    if own_redis:
        assert not may_connect(overlay, elsewhere, redis, 6379)
        assert not may_connect(overlay, redis, web, 5000)
    assert may_connect(overlay, elsewhere, web, 5000)
    assert may_connect(overlay, Place(address="203.0.113.9"), web, 5000)
    assert may_connect(overlay, elsewhere, by_name["grpc"], 8001)
    assert not may_connect(overlay, elsewhere, server, 5000)
    prometheus = Place({}, namespace="monitoring")
    assert all(may_connect(overlay, prometheus, by_name[name], 9100) for name in ("grpc", "model-server"))


def test_a_pool_is_scaled_by_the_models_that_it_serves(overlay: str) -> None:
    pools = {each.name: each for each in pods(overlay)}
    web = next(each for each in of_kind(overlay, "Service") if each["metadata"]["name"] == "web")
    known = Settings.from_env({**pools["web"].environment(overlay), "REDIS_PASSWORD_FILE": ""}).served
    for each in of_kind(overlay, "ScaledObject"):
        pool = pools[each["spec"]["scaleTargetRef"]["name"]]
        served = Settings.from_env({**pool.environment(overlay), "REDIS_PASSWORD_FILE": ""}).served
        assert set(served) <= set(known)  # else nobody could ask for them from zero
        for trigger in each["spec"]["triggers"]:
            url = urlsplit(trigger["metadata"]["url"])
            assert url.netloc == f"web.{web['metadata']['namespace']}.svc:{web['spec']['ports'][0]['port']}"
            assert url.path == "/scaling"
            assert set(parse_qs(url.query)["models"][0].split(",")) == set(served)


def test_the_page_names_every_overlay_and_every_secret(overlay: str) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    assert f"`{overlay}`" in page
    text = str(rendered(overlay))
    for key in re.findall(r"'(?:key)': '((?:web|model|operator)[\w-]*)'", text):
        assert f"--from-literal={key}=" in page
    assert {path.name for path in (FOLDER / "components").iterdir()} <= set(re.findall(r"[\w-]+", page))
