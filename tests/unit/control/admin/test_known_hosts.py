from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError
from gateway.control.admin.known_hosts import KnownHosts
from tests.support.config import config_from


@pytest.mark.parametrize(
    "field",
    [
        "127.0.0.1",
        "127.0.0.1:8090",
        "10.1.2.3:9090",
        "[::1]",
        "[::1]:8090",
        "[fe80::1%25eth0]:8090",
        "localhost",
        "LocalHost:8090",
        "localhost.:8090",
    ],
)
def test_addresses_and_localhost_are_always_known(field: str) -> None:
    assert KnownHosts().are_known([field])


@pytest.mark.parametrize(
    "field",
    [
        "evil.example",
        "evil.example:8090",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil@127.0.0.1",
        "127.0.0.1:8090:evil",
        "127.1",
        "0x7f000001",
        "",
        ":8090",
        "[evil]:8090",
        "*",
    ],
)
def test_other_names_are_not(field: str) -> None:
    assert not KnownHosts().are_known([field])
    assert not KnownHosts(["", "gateway", "*.internal"]).are_known([field])


def test_configured_names_are_known_and_a_star_stands_for_all_below() -> None:
    hosts = KnownHosts(["gateway", "*.telemetry.svc"])
    for field in ("gateway", "Gateway:8090", "gw.telemetry.svc:9090", "a.b.telemetry.svc."):
        assert hosts.are_known([field])
    for field in ("gateway.evil.example", "telemetry.svc", "eviltelemetry.svc"):
        assert not hosts.are_known([field])
    assert KnownHosts(["*"]).are_known(["evil.example"])


def test_every_field_must_be_known_and_none_is_no_browser() -> None:
    assert not KnownHosts().are_known(["localhost", "evil.example"])
    assert KnownHosts().are_known([])


def test_the_names_of_the_addresses_are_known_too(tmp_path: Path) -> None:
    hosts = KnownHosts()
    hosts.use(
        config_from(
            tmp_path,
            {
                "admin": {
                    "address": "gw.internal:8090",
                    "metrics_address": ":9090",
                    "hosts": ["Prometheus-Sees.It.", "*.svc"],
                }
            },
        )
    )
    for field in ("gw.internal:8090", "prometheus-sees.it", "gw.telemetry.svc"):
        assert hosts.are_known([field])
    assert not hosts.are_known([""])


@pytest.mark.parametrize("name", ["gateway:8090", "http://gateway", "*gateway", "a.*.b", ""])
def test_what_is_no_host_name_is_told_with_what_to_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"write a host name without a port"):
        config_from(tmp_path, {"admin": {"hosts": [name]}})
