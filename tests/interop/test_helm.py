"""The Helm chart, judged by Helm, by the types of Kubernetes' APIs and by the gateway."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import ConfigError, load
from tests.support.child import start_child
from tests.support.promql import DASHBOARD_FILE, PROJECT, rules
from tests.support.tools import find_tool

CHART: Final = PROJECT / "deploy" / "helm" / "otlp-gateway"
EXAMPLES: Final = sorted((PROJECT / "deploy" / "helm" / "examples").glob("*.yaml"))
NEWEST: Final = "1.34.0"
"""The version of Kubernetes that the chart is rendered for."""

Manifests = dict[tuple[str, str], dict[str, Any]]


async def run(program: str, *arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
    """Return a program's exit code and what it prints on stdout and stderr."""
    process = await start_child(
        find_tool(program),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def template(*options: str | Path) -> str:
    """Render the chart; fails where Helm does not."""
    fixed = ("--namespace", "telemetry", "--kube-version", NEWEST)
    code, output, errors = await run("helm", "template", "gw", CHART, *fixed, *options)
    assert code == 0, errors
    return output


async def refused(*values: str) -> str:
    """Return why Helm does not render the chart with these values."""
    options = [word for value in values for word in ("--set", value)]
    version = ("--kube-version", NEWEST)
    code, _, errors = await run("helm", "template", "gw", CHART, *version, *options)
    assert code != 0
    return errors


def _by_kind(text: str) -> Manifests:
    documents = [each for each in yaml.safe_load_all(text) if each]
    found = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert len(found) == len(documents)
    return found


def _workload(manifests: Manifests) -> dict[str, Any]:
    (found,) = (
        each for (kind, _), each in manifests.items() if kind in {"Deployment", "StatefulSet"}
    )
    return found


def _config_text(manifests: Manifests) -> str:
    text: str = manifests["ConfigMap", "gw-otlp-gateway"]["data"]["gateway.yaml"]
    return text


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
async def test_helm_finds_nothing_to_complain_about(values: Path) -> None:
    options = ("--strict", "--kube-version", NEWEST, "--values", values)
    code, output, errors = await run("helm", "lint", CHART, *options)
    assert code == 0, output + errors
    assert "0 chart(s) failed" in output


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
async def test_what_is_made_fits_the_types_of_kubernetes(values: Path) -> None:
    text = await template("--values", values)
    code, output, errors = await run("kubestrict", stdin=text)
    assert code == 0, errors
    assert len(output.splitlines()) == len(_by_kind(text))


@pytest.mark.parametrize(
    "manifest, complaint",
    [
        ("{kind: Service, spec: {port: []}}", 'unknown field "spec.port"'),
        ("{kind: Servce}", "no kind"),
        ("{kind: Service, spec: {ports: none}}", "cannot unmarshal"),
    ],
)
async def test_what_does_not_fit_is_noticed(manifest: str, complaint: str) -> None:
    """The judge is awake."""
    text = yaml.safe_dump({"apiVersion": "v1", **yaml.safe_load(manifest)})
    code, _, errors = await run("kubestrict", stdin=text)
    assert code == 1
    assert complaint in errors


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
async def test_the_gateway_loads_its_configuration_once_the_files_are_there(
    values: Path, tmp_path: Path
) -> None:
    manifests = _by_kind(await template("--values", values))
    pod = _workload(manifests)["spec"]["template"]["spec"]
    (gateway,) = pod["containers"]
    mounted = tuple(mount["mountPath"] for mount in gateway["volumeMounts"])
    file = tmp_path / "gateway.yaml"
    file.write_text(_config_text(manifests))
    try:
        load(file, (), {})
    except ConfigError as invalid:
        for problem in invalid.problems:
            named = re.search(r"/etc/otlp-gateway/[\w./-]+", problem.message)
            assert named is not None, problem
            assert named[0].startswith(mounted), problem


async def test_sqlite_has_one_replica_and_a_volume() -> None:
    manifests = _by_kind(await template("--set", "replicas=5"))
    workload = _workload(manifests)
    assert (workload["kind"], workload["spec"]["replicas"]) == ("StatefulSet", 1)
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert workload["spec"]["serviceName"] in {
        name for kind, name in manifests if kind == "Service"
    }
    assert not [name for kind, name in manifests if kind == "PodDisruptionBudget"]


async def test_postgresql_has_replicas_that_are_spread_and_kept() -> None:
    manifests = _by_kind(await template("--values", CHART.parent / "examples" / "postgresql.yaml"))
    workload = _workload(manifests)
    assert (workload["kind"], workload["spec"]["replicas"]) == ("Deployment", 3)
    spec = workload["spec"]["template"]["spec"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    spread = spec["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    budget = manifests["PodDisruptionBudget", "gw-otlp-gateway"]["spec"]
    for selector in (budget["selector"], workload["spec"]["selector"], spread[0]["labelSelector"]):
        assert selector["matchLabels"].items() <= labels.items()
    (password,) = (e for e in spec["containers"][0]["env"] if e["name"] == "PGPASSWORD")
    assert password["valueFrom"]["secretKeyRef"]["name"] == "otlp-gateway-database"


async def test_kubernetes_waits_until_a_pod_has_drained() -> None:
    options = ("--set", "drain.delaySeconds=12", "--set", "drain.timeoutSeconds=50")
    manifests = _by_kind(await template(*options))
    limits = yaml.safe_load(_config_text(manifests))["limits"]
    assert limits == {"drain_delay": "12s", "drain_timeout": "50s"}
    grace = _workload(manifests)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == 12 + 50 + 15


async def test_services_and_probes_lead_to_ports_of_the_container() -> None:
    manifests = _by_kind(await template("--set", "tls.enabled=true"))
    (gateway,) = _workload(manifests)["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    config = yaml.safe_load(_config_text(manifests))
    listening = {int(each["address"].rpartition(":")[2]) for each in config["listen"]}
    assert listening | {9090} == set(ports.values())
    for (kind, _), each in manifests.items():
        if kind == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gateway[probe]["httpGet"]["port"] == "metrics"


async def test_rules_and_dashboard_are_those_that_we_ship() -> None:
    values = CHART.parent / "examples" / "postgresql.yaml"
    manifests = _by_kind(await template("--values", values))
    groups = manifests["PrometheusRule", "gw-otlp-gateway"]["spec"]["groups"]
    made = [rule for group in groups for rule in group["rules"]]
    assert [rule["expr"] for rule in made] == [rule["expr"] for rule in rules()]
    (first, *_) = (rule for rule in made if "alert" in rule)
    assert first["annotations"]["runbook_url"] == (
        "https://wiki.example.com/otlp-gateway/runbooks#gatewayabsent"
    )
    data = manifests["ConfigMap", "gw-otlp-gateway-dashboard"]["data"]["otlp-gateway.json"]
    assert yaml.safe_load(data) == yaml.safe_load(DASHBOARD_FILE.read_text())


async def test_a_change_of_the_configuration_replaces_the_pods() -> None:
    sums = set()
    for level in ("info", "debug"):
        manifests = _by_kind(await template("--set", f"config.log.level={level}"))
        metadata = _workload(manifests)["spec"]["template"]["metadata"]
        sums.add(metadata["annotations"]["checksum/config"])
        assert yaml.safe_load(_config_text(manifests))["log"] == {"format": "json", "level": level}
    assert len(sums) == 2


@pytest.mark.parametrize(
    "value, complaint",
    [
        ("store.kind=mysql", "store"),
        ("replicas=0", "replicas"),
        ("tls.enable=true", "enable"),
        ("image.digest=abc", "digest"),
        ("gatewayApi.enabled=true", "parentRefs"),
        ("ingress.grpc.enabled=true", "ingress.grpc.host"),
        ("store.postgresql.url=mysql://a", "url"),
    ],
)
async def test_values_that_cannot_be_right_are_refused(value: str, complaint: str) -> None:
    assert complaint in await refused(value)


async def test_a_certificate_needs_its_issuer() -> None:
    assert "issuerRef.name" in await refused("tls.enabled=true", "tls.certManager.enabled=true")
