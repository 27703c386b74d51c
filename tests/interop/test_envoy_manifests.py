"""The manifests of docs/envoy.md fit the types of Kubernetes, Istio and Envoy Gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from tests.interop.conftest import Tool
from tests.support.child import start_child
from tests.support.envoy import BLOCKS

MANIFESTS = [block for block in BLOCKS if "apiVersion" in block]
_POLICY = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
_ENVOY_GATEWAY = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "SecurityPolicy"}
_MESH = {"apiVersion": "v1", "kind": "ConfigMap"}


async def _check(tool: Tool, manifests: list[Any]) -> tuple[int, str]:
    child = await start_child(
        str(tool("kubestrict")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate(yaml.safe_dump_all(manifests).encode())
    assert child.returncode is not None
    return child.returncode, output.decode()


async def test_the_manifests_of_the_page_fit(tool: Tool) -> None:
    code, output = await _check(tool, MANIFESTS)
    assert code == 0, output
    assert output.splitlines() == [
        "Service otlp-gateway-authz",
        "ConfigMap istio",
        "AuthorizationPolicy otlp-keys",
        "SecurityPolicy otlp-keys",
    ]


@pytest.mark.parametrize(
    "manifest, complaint",
    [
        ({**_POLICY, "spec": {"providers": {}}}, 'unknown field "providers"'),
        ({**_POLICY, "spec": {"action": "CUSTOMS"}}, "invalid value for enum"),
        ({**_POLICY, "specs": {}}, 'unknown field "specs"'),
        ({**_MESH, "data": {"mesh": "extensionProvider: []"}}, 'unknown field "extensionProvider"'),
        ({**_ENVOY_GATEWAY, "spec": {"extAuth": {"failsOpen": False}}}, "failsOpen"),
    ],
)
async def test_what_does_not_fit_is_noticed(
    tool: Tool, manifest: dict[str, Any], complaint: str
) -> None:
    """The judge is awake."""
    code, output = await _check(tool, [manifest])
    assert code == 1
    assert complaint in output.replace("\u00a0", " ")


def test_all_names_of_the_page_are_those_of_its_service() -> None:
    service, mesh, policy, envoy_gateway = MANIFESTS
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    (port,) = service["spec"]["ports"]
    (provider,) = yaml.safe_load(mesh["data"]["mesh"])["extensionProviders"]
    asked = provider["envoyExtAuthzGrpc"]
    assert asked["service"] == f"{name}.{namespace}.svc.cluster.local"
    assert asked["port"] == port["port"]
    assert policy["spec"]["provider"]["name"] == provider["name"]
    backends = envoy_gateway["spec"]["extAuth"]["grpc"]["backendRefs"]
    assert backends == [{"name": name, "port": port["port"]}]
