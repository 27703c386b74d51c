"""`deploy/compose`: the file is valid, and what it starts fits together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from compose_spec import PyCompose

from gateway import __version__
from gateway.config import load, split_address
from tests.unit.config.support import HOME

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
FOLDER: Final = DEPLOY / "compose"
TEXT: Final = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: Final[dict[str, Any]] = yaml.safe_load(TEXT)["services"]
GATEWAY: Final = load(FOLDER / "gateway.yaml", (), HOME).config


def test_the_file_is_valid() -> None:
    parsed = PyCompose.from_yaml(TEXT)
    assert set(parsed.service_names()) == {
        "gateway",
        "collector",
        "postgresql",
        "prometheus",
        "grafana",
    }


def test_a_file_that_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="restart"):
        PyCompose.from_yaml(TEXT.replace("restart: unless-stopped", "restart: sometimes"))


def test_every_file_that_is_mounted_exists() -> None:
    named = set(yaml.safe_load(TEXT)["volumes"])
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in named or (FOLDER / source).is_file(), source


def test_every_password_is_asked_for_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert asked == set(re.findall(r"^(\w+)=$", (FOLDER / "example.env").read_text(), re.MULTILINE))


def test_the_gateway_is_this_version() -> None:
    assert SERVICES["gateway"]["image"] == f"otlp-gateway:{__version__}"


def test_ports_and_names_agree() -> None:
    ports = {split_address(listener.address)[1] for listener in GATEWAY.listen}
    assert {int(port.split(":")[1]) for port in SERVICES["gateway"]["ports"]} == ports
    metrics = split_address(str(GATEWAY.admin.metrics_address))[1]
    assert f"127.0.0.1:{metrics}/readyz" in str(SERVICES["gateway"]["healthcheck"])
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"][0]
    (target,) = scraped["static_configs"][0]["targets"]
    assert target == f"gateway:{metrics}"
    assert GATEWAY.admin.hosts == ["gateway"]


def test_backends_and_stores_are_services_with_their_ports() -> None:
    collector = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    protocols = collector["receivers"]["otlp"]["protocols"]
    for backend, protocol in (
        (GATEWAY.backends.otlp_grpc, "grpc"),
        (GATEWAY.backends.otlp_http, "http"),
    ):
        assert backend is not None
        port = protocols[protocol]["endpoint"].rpartition(":")[2]
        assert backend.urls == [f"http://collector:{port}"]
    database = SERVICES["postgresql"]["environment"]
    (store,) = GATEWAY.keys.stores
    assert store.url.startswith(
        f"postgresql://{database['POSTGRES_USER']}@postgresql/{database['POSTGRES_DB']}?"
    )


def test_the_container_may_do_no_more_than_it_must() -> None:
    gateway = SERVICES["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    limits = GATEWAY.limits
    grace = float(gateway["stop_grace_period"].removesuffix("s"))
    assert grace > limits.drain_delay + limits.drain_timeout


def test_only_the_gateway_is_reachable_from_other_machines() -> None:
    for name, service in SERVICES.items():
        outside = [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")]
        assert not outside or name == "gateway"
