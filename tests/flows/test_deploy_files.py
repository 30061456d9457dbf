"""The files that run a hub in containers: sealed by default, and without a secret in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
MANIFESTS = sorted((DEPLOYMENTS / "kubernetes").glob("*.yaml"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
SERVICES = sorted(COMPOSE["services"])
KUBERNETES = "1.34"
SECRET_NAMES = ("PASSWORD", "AUTH", "KEY", "STAGING_URL")


def objects() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def pods() -> dict[str, dict[str, Any]]:
    """The pod of every workload, by its name."""
    return {found["metadata"]["name"]: found["spec"]["template"]["spec"] for found in objects() if _has_pod(found)}


def _has_pod(found: dict[str, Any]) -> bool:
    return found["kind"] in ("Deployment", "Job")


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_service_is_sealed(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_compose_service_takes_its_secrets_from_outside(name: str) -> None:
    for variable, value in COMPOSE["services"][name].get("environment", {}).items():
        if any(word in variable for word in SECRET_NAMES):
            assert "${TIDEOVER_" in value


def test_compose_lets_only_workers_reach_systems_and_nobody_but_the_server_prefects_database() -> None:
    members = {net: {n for n in SERVICES if net in COMPOSE["services"][n]["networks"]} for net in COMPOSE["networks"]}
    assert members["systems"] == {"worker"}
    assert members["prefect"] == {"server", "prefect-database"}
    assert all(COMPOSE["networks"][net]["internal"] for net in ("staging", "prefect", "api"))


@pytest.mark.parametrize("name", sorted(pods()))
def test_kubernetes_pod_is_sealed(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", sorted(pods()))
def test_kubernetes_pod_takes_its_secrets_from_secrets(name: str) -> None:
    for container in containers(pods()[name]):
        for variable in container["env"]:
            if any(word in variable["name"] for word in (*SECRET_NAMES, "CONNECTION_URL")):
                assert "secretKeyRef" in variable["valueFrom"]


def test_kubernetes_refuses_all_traffic_that_no_policy_allows() -> None:
    policies = {found["metadata"]["name"]: found["spec"] for found in objects() if found["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    to_systems = [
        spec["podSelector"]["matchLabels"]
        for spec in policies.values()
        for rule in spec.get("egress", [])
        if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"])
    ]
    assert to_systems == [{"app.kubernetes.io/name": "worker"}]


def test_kubernetes_applies_every_manifest() -> None:
    [listed] = [found["resources"] for found in objects() if found["kind"] == "Kustomization"]
    assert sorted([*listed, "kustomization.yaml"]) == [path.name for path in MANIFESTS]


def test_image_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOYMENTS / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]


def test_kubernetes_objects_are_what_its_api_takes() -> None:
    """Against the schemas of Kubernetes itself, unknown fields refused."""
    checked = [found for found in objects() if found["kind"] != "Kustomization"]
    for found in checked:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    assert {"Deployment", "Job", "NetworkPolicy"} <= {found["kind"] for found in checked}
