from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, load
from gateway.control import derive
from gateway.control.slot import StartError
from gateway.control.sockets import BoundSocket, ListenSockets
from gateway.keys.service import StoreStatus
from gateway.model import digest_of
from tests.support.certs import Authority
from tests.support.process import merge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def config_of(folder: Path, changes: dict[str, Any] | None = None) -> Config:
    file = folder / "gateway.yaml"
    base = {"state_dir": str(folder / "state"), "workers": 3}
    file.write_text(yaml.safe_dump(merge(base, changes or {})))
    return load(file, (), {}).config


async def test_each_worker_gets_its_index_the_sockets_and_its_share(folder: Path) -> None:
    config = config_of(folder, {"limits": {"max_connections": 100, "drain_timeout": "7s"}})
    held = ListenSockets()
    sockets: list[list[BoundSocket]] = await held.bind(["127.0.0.1:0", "127.0.0.1:0"])
    plan = derive.plan_of(config, sockets, "console")
    assert (plan.workers, plan.drain_timeout_s) == (3, 7.0)
    workers = [plan.settings(index, 99) for index in range(3)]
    assert [worker.index for worker in workers] == [0, 1, 2]
    assert {worker.counts_fd for worker in workers} == {99}
    assert {worker.limits.max_connections for worker in workers} == {34}
    assert {worker.log_format for worker in workers} == {"console"}
    fds = [bound.sock.fileno() for [bound] in sockets]
    assert [listener.fd for listener in workers[0].listeners] == fds
    assert [each.address for each in workers[0].listeners] == derive.listen_addresses(config)
    held.close()


def test_backends_are_named_with_their_addresses(folder: Path) -> None:
    config = config_of(
        folder,
        {
            "backends": {
                "otlp_grpc": {"urls": ["http://a:4317", "http://b:4317"], "max_connections": 4},
                "otlp_http": {"urls": ["https://[::1]/prefix"], "max_connections": 5},
            }
        },
    )
    assert derive.backends_of(config) == [
        ("otlp_grpc", ["a:4317", "b:4317"]),
        ("otlp_http", ["[::1]:443"]),
    ]
    assert derive.upstream_connections(config) == 9


def test_backends_are_named_as_workers_call_them(folder: Path) -> None:
    config = config_of(folder, {"backends": {"otlp_http": {"urls": ["http://[::1]:1/x"]}}})
    [backend] = derive.plan_of(config, [], "json").settings(0, 99).backends
    assert derive.backends_of(config) == [
        (backend.name, [target.address for target in backend.targets])
    ]


def test_static_keys_are_hashed(folder: Path) -> None:
    config = config_of(folder, {"auth": {"receiver_keys": [{"name": "eu", "key": "a-key"}]}})
    [static] = derive.static_keys_of(config)
    assert (static.key_id, static.digest) == ("static:eu", digest_of(b"a-key"))


def test_tokens_come_from_the_configuration_where_it_has_some(folder: Path) -> None:
    tokens = derive.tokens_of(config_of(folder, {"admin": {"tokens": ["one", "two"]}}))
    assert tokens.accept("one")
    assert tokens.accept("two")
    assert not (folder / "state").exists()


def test_a_token_is_made_where_none_is_configured(folder: Path) -> None:
    tokens = derive.tokens_of(config_of(folder))
    assert tokens.accept((folder / "state" / "admin-token").read_text().strip())


@pytest.mark.parametrize(
    "changes,note",
    [
        ({"keys": {"stores": ["sqlite:///somewhere/else/keys.db"]}}, "keys.stores"),
        ({"keys": {"tombstones": "1d"}}, "keys.tombstones"),
        ({"admin": {"address": "127.0.0.1:9999"}}, "admin.address"),
        ({"admin": {"metrics_address": "127.0.0.1:9999"}}, "admin.metrics_address"),
    ],
)
def test_what_takes_effect_only_at_the_next_start_is_named(
    folder: Path, changes: dict[str, Any], note: str
) -> None:
    notes = list(derive.needs_restart(config_of(folder), config_of(folder, changes)))
    assert [text.startswith(f"{note} has changed: ") for text in notes] == [True]


def test_what_a_reload_takes_over_is_not_named(folder: Path) -> None:
    changes = {
        "listen": [{"address": "127.0.0.1:1"}],
        "limits": {"max_body": "1MiB"},
        "auth": {"receiver_keys": ["a-key"]},
        "admin": {"tokens": ["a-token"]},
        "workers": 7,
    }
    assert not list(derive.needs_restart(config_of(folder), config_of(folder, changes)))


def test_admin_tls_that_comes_needs_a_restart_and_a_new_certificate_does_not(folder: Path) -> None:
    authority = Authority.create(folder / "ca")
    certificates = [authority.issue(name, ["localhost"]) for name in ("first", "second")]
    plain, *secured = [
        config_of(folder, changes)
        for changes in (
            {},
            *(
                {"admin": {"tls": {"cert_file": str(c.cert_file), "key_file": str(c.key_file)}}}
                for c in certificates
            ),
        )
    ]
    assert len(list(derive.needs_restart(plain, secured[0]))) == 1
    assert not list(derive.needs_restart(*secured))
    assert derive.certificate_files(secured[0]) == [
        (secured[0].admin.address, str(certificates[0].cert_file))
    ]


def test_an_admin_certificate_that_went_away_is_told(folder: Path) -> None:
    certificate = Authority.create(folder / "ca").issue("server", ["localhost"])
    files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    tls = config_of(folder, {"admin": {"tls": files}}).admin.tls
    certificate.cert_file.unlink()
    with pytest.raises(StartError, match=r"admin\.tls: .*server\.crt .* cannot be used any more"):
        derive.tls_files(tls)


def test_without_tls_there_is_nothing_to_read() -> None:
    assert derive.tls_files(None) is None


def test_a_store_is_described_for_people() -> None:
    status = StoreStatus("sqlite", "/keys.db", up=False, last_sync_ms=5, error="disk full")
    status.revision = 7
    assert derive.store_detail(status) == {
        "store": "sqlite",
        "location": "/keys.db",
        "up": False,
        "last_sync_ms": 5,
        "revision": 7,
        "error": "disk full",
        "loaded": False,
        "suspended": False,
    }


@pytest.mark.parametrize("value,expected", [(None, None), (0.0, False), (1.0, True)])
def test_a_backend_is_up_down_or_not_known_yet(value: float | None, expected: bool | None) -> None:
    assert derive.is_up(value) is expected
