"""What `deploy/` ships fits the gateway: configurations load, ports and times agree."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import __version__
from gateway.config import Config, ConfigError, load, split_address
from gateway.held_signals import HELD
from tests.unit.config.support import HOME, problems_of

PROJECT: Final = Path(__file__).parents[2]
DEPLOY: Final = PROJECT / "deploy"


@pytest.fixture(name="container")
def _container() -> Config:
    return load(DEPLOY / "gateway.yaml", (), HOME).config


@pytest.fixture(name="manifests")
def _manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def _port(address: str | None) -> int:
    assert address is not None
    return split_address(address)[1]


def test_the_image_listens_on_all_addresses_and_shows_metrics(container: Config) -> None:
    addresses = [listener.address for listener in container.listen]
    assert [split_address(address)[0] for address in addresses] == ["", ""]
    assert _port(container.admin.metrics_address) == 9090
    assert container.admin.address.startswith("127.0.0.1:")
    assert container.log.format == "json"


def test_the_images_backends_come_from_the_environment() -> None:
    environ = HOME | {"BACKEND_OTLP_GRPC": "https://x:1"}
    backend = load(DEPLOY / "gateway.yaml", (), environ).config.backends.otlp_grpc
    assert backend is not None
    assert backend.urls == ["https://x:1"]


def test_the_dockerfile_names_the_ports_of_its_configuration(container: Config) -> None:
    text = (PROJECT / "Dockerfile").read_text()
    exposed = re.search(r"^EXPOSE (.*)$", text, re.MULTILINE)
    ports = {_port(listener.address) for listener in container.listen}
    assert exposed is not None
    assert {int(port) for port in exposed[1].split()} == ports | {9090}
    assert "http://127.0.0.1:9090/livez" in text
    assert str(container.state_dir) in text
    assert re.search(r"^USER 10001", text, re.MULTILINE)


def test_the_manifests_configuration_lacks_only_the_certificate(
    manifests: dict[str, Any], tmp_path: Path
) -> None:
    text = manifests["ConfigMap"]["data"]["gateway.yaml"]
    found = problems_of(tmp_path, text)
    assert [problem.path for problem in found] == [
        "listen[2].tls.cert_file",
        "listen[2].tls.key_file",
    ]


def test_kubernetes_waits_until_the_gateway_has_drained(
    manifests: dict[str, Any], container: Config
) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    limits = container.limits
    assert pod["terminationGracePeriodSeconds"] > limits.drain_delay + limits.drain_timeout


def test_probes_ask_where_health_is_answered(manifests: dict[str, Any]) -> None:
    (gateway,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    probes = {
        kind: gateway[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    text = yaml.safe_load(manifests["ConfigMap"]["data"]["gateway.yaml"])
    assert {ports[probe["port"]] for probe in probes.values()} == {
        _port(text["admin"]["metrics_address"])
    }


def test_the_service_leads_to_ports_of_the_container(manifests: dict[str, Any]) -> None:
    (gateway,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    names = {port["name"] for port in gateway["ports"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= names
    assert gateway["image"] == f"otlp-gateway:{__version__}"


def _unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.read(DEPLOY / "systemd" / name)
    return parser


def test_systemd_waits_until_the_gateway_has_drained(container: Config) -> None:
    service = _unit("otlp-gateway.service")["Service"]
    limits = container.limits
    assert float(service["TimeoutStopSec"]) > limits.drain_delay + limits.drain_timeout


def test_systemd_waits_for_start_and_reload_and_watches_control() -> None:
    service = _unit("otlp-gateway.service")["Service"]
    assert service["Type"] == "notify-reload"
    assert service["NotifyAccess"] == "main"
    assert int(service["WatchdogSec"]) > 0


def test_the_image_blocks_the_signals_that_the_gateway_holds() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    blocked = re.search(
        r'^ENTRYPOINT \["env", "--block-signal=([A-Z,]+)", "gateway"\]$', text, re.MULTILINE
    )
    assert blocked is not None
    assert {f"SIG{name}" for name in blocked[1].split(",")} == {each.name for each in HELD}


def test_systemd_allows_the_descriptors_that_the_defaults_need(container: Config) -> None:
    service = _unit("otlp-gateway.service")["Service"]
    assert int(service["LimitNOFILE"]) >= 2 * container.limits.max_connections


def test_systemd_listens_on_addresses_that_a_configuration_can_name() -> None:
    text = (DEPLOY / "systemd/otlp-gateway.socket").read_text()
    addresses = re.findall(r"^ListenStream=(.*)$", text, re.MULTILINE)
    assert [_port(address) for address in addresses] == [4317, 4318]


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    changes = (PROJECT / "CHANGELOG.md").read_text()
    assert re.search(
        rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE
    )
    chart = yaml.safe_load((DEPLOY / "helm/otlp-gateway/Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__}


def test_a_invalid_variable_of_the_image_is_named() -> None:
    with pytest.raises(ConfigError, match=r"forward\.key \(line \d+\): must be client, gateway"):
        load(DEPLOY / "gateway.yaml", (), HOME | {"FORWARD_KEY": "clinet"})
