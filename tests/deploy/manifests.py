"""The Kubernetes manifests as a cluster would get them: rendered, and what tests ask about them.

Owns the call of kustomize and how selectors and network policies are read. Asserts nothing.
"""

import functools
import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.support import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())

Manifest = dict[str, Any]


def _kustomize() -> tuple[int, ...]:
    """The version of kustomize in kubectl; nothing where there is none."""
    if shutil.which("kubectl") is None:
        return ()
    said = subprocess.run(
        ["kubectl", "version", "--client"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Kustomize Version: v(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else ()


needs_kustomize = pytest.mark.skipif(
    _kustomize() < (5, 0), reason="no kubectl with kustomize 5 (Debian 13: apt install kubernetes-client)"
)


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    """The manifests of these kinds."""
    return [each for each in rendered(overlay) if each["kind"] in kinds]


@dataclass(frozen=True)
class Pods:
    """The pods of one workload, or of a runtime of KServe."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        """Its only container."""
        (container,) = self.spec["containers"]
        return dict(container)

    def environment(self, overlay: str) -> dict[str, str]:
        """Its container's variables; one from a Secret is a URL."""
        values: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            if "secretRef" in source:  # of other programs' variables
                continue
            name = source["configMapRef"]["name"]
            (settings,) = (each for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"] == name)
            values |= settings["data"]
        for each in self.container.get("env", ()):
            values[each["name"]] = each.get("value", "redis://web:secret@elsewhere:6379/0")
        return values


def pods(overlay: str) -> list[Pods]:
    """All that an overlay runs."""
    found = []
    for each in of_kind(overlay, "Deployment", "StatefulSet"):
        template = each["spec"]["template"]
        found.append(Pods(each["metadata"]["name"], template["metadata"]["labels"], template["spec"]))
    services = of_kind(overlay, "InferenceService")
    for each in of_kind(overlay, "ServingRuntime"):
        (predictor,) = (
            service["spec"]["predictor"]
            for service in services
            if service["spec"]["predictor"]["model"]["runtime"] == each["metadata"]["name"]
        )
        found.append(Pods(each["metadata"]["name"], each["spec"]["labels"], {**predictor, **each["spec"]}))
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a LabelSelector selects pods with these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", ()):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


@dataclass(frozen=True)
class Place:
    """One end of a connection: a pod of the namespace, of another one, or an address outside."""

    labels: dict[str, str] | None = None
    namespace: str = "batchwire"
    address: str = ""

    def is_in(self, peer: dict[str, Any]) -> bool:
        """Whether a policy's peer includes it."""
        if block := peer.get("ipBlock"):
            if not self.address:
                return False
            address = ipaddress.ip_address(self.address)
            return address in ipaddress.ip_network(block["cidr"]) and not any(
                address in ipaddress.ip_network(each) for each in block.get("except", ())
            )
        if self.address:
            return False
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": self.namespace}):
                return False
        elif self.namespace != "batchwire":
            return False
        return selects(peer.get("podSelector", {}), self.labels or {})


def may_connect(overlay: str, source: Place, target: Place, port: int) -> bool:
    """Whether the network policies let `source` open a connection to `target`."""

    def permits(direction: str, own: Place, other: Place, key: str) -> bool:
        policies = [
            each["spec"]
            for each in of_kind(overlay, "NetworkPolicy")
            if direction in each["spec"]["policyTypes"]
            and own.labels is not None
            and own.namespace == "batchwire"
            and selects(each["spec"]["podSelector"], own.labels)
        ]
        rules = [rule for policy in policies for rule in policy.get(direction.lower(), ())]
        return not policies or any(
            any(each["port"] == port for each in rule["ports"])
            and (key not in rule or any(map(other.is_in, rule[key])))
            for rule in rules
        )

    return permits("Egress", source, target, "to") and permits("Ingress", target, source, "from")


def schema_of(kind: str) -> tuple[str, dict[str, Any]]:
    """The API version and the schema of a kind of KEDA's or KServe's."""
    stored = json.loads((ROOT / "tests/deploy/schemas" / f"{kind.lower()}.json").read_text("utf-8"))
    return stored["apiVersion"], stored["schema"]


def unknown_fields(schema: dict[str, Any], value: object, path: str = "") -> Iterator[str]:
    """Fields that a cluster would drop without a word, as a custom resource's schema does not know them."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for each in value:
            yield from unknown_fields(schema.get("items", {}), each, path)
    elif isinstance(value, dict) and path != ".metadata":
        known = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for key, each in value.items():
            if key not in known and others is None and known:
                yield f"{path}.{key}"
            yield from unknown_fields(known.get(key, others or {}), each, f"{path}.{key}")
