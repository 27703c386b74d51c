"""Control with real workers: in the test's own event loop, and as the installed command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from structlog.testing import capture_logs

from gateway.channel import Refused
from gateway.config import load
from gateway.control.core.errors import ReloadError, StartError
from gateway.control.core.sockets import BindError
from gateway.control.lifecycle.assembly import Options
from gateway.control.lifecycle.control import Control
from gateway.control.workers.worker_handle import WorkerState
from gateway.keys.errors import StoreError
from gateway.keys.store import KeySpec
from tests.support.certs import Authority
from tests.support.listening import until_refused
from tests.support.owners import give_away
from tests.support.polling import until
from tests.support.process import (
    free_ports,
    merge,
)

JSON = {"Content-Type": "application/json"}
UNREACHABLE, UNAUTHORIZED = 503, 401
"""Nothing is behind these gateways: a good key gets as far as the missing backend."""


class Served:
    """A control in this event loop, and its clients."""

    def __init__(
        self, control: Control, file: Path, tree: Mapping[str, Any], refusals: list[Refused]
    ) -> None:
        self.control = control
        self.file = file
        self.tree = tree
        self.refusals = refusals

    @property
    def admin_url(self) -> str:
        return f"http://{self.control.admin_addresses[0]}"

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the file; takes effect with the next reload."""
        self.tree = merge(self.tree, changes)
        self.file.write_text(yaml.safe_dump(self.tree))

    async def send(self, key: str | None = None, address: str | None = None) -> int:
        """Send one request over a connection of its own; return its status."""
        url = f"http://{address or self.control.addresses[0]}/v1/traces"
        fields = JSON | ({"Authorization": f"StackState {key}"} if key else {})
        async with (
            aiohttp.ClientSession() as client,
            client.post(url, data=b"{}", headers=fields) as answer,
        ):
            return answer.status

    async def send_to_all(self, key: str) -> set[int]:
        """Send from many connections, so that every worker gets some."""
        return set(await asyncio.gather(*(self.send(key) for _ in range(16))))

    async def admin(
        self, path: str, method: str = "GET", token: str | None = None
    ) -> tuple[int, Any]:
        fields = {"X-API-Token": token} if token else {}
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, self.admin_url + path, headers=fields) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def metric(self, name: str, **labels: str) -> float:
        """Read one series; 0 where it does not exist."""
        _, text = await self.admin("/metrics")
        return value_of(text, name, labels)

    async def until_metric(self, expected: float, name: str, **labels: str) -> None:
        async with asyncio.timeout(20):
            while await self.metric(name, **labels) != expected:
                await asyncio.sleep(0.05)

    def token(self) -> str:
        return (self.control.config.state_dir / "admin-token").read_text().strip()

    def names_sent_to_workers(self) -> set[str]:
        snapshot = self.control.parts.base.distribution.snapshot()
        return {entry.principal.name for entry in snapshot.entries}

    def pids(self) -> set[int]:
        return {w.pid for w in self.control.parts.base.workers if w.state is WorkerState.READY}


def value_of(text: str, name: str, labels: Mapping[str, str]) -> float:
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    series = f"{name}{{{inside}}}" if inside else name
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def tree_in(folder: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    base = {
        "listen": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "limits": {"drain_delay": "0s", "drain_timeout": "5s", "max_connections": 1000},
        "state_dir": str(folder / "state"),
        "workers": 2,
    }
    return merge(base, changes or {})


Make = Callable[[Mapping[str, Any]], Served]
Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    controls: list[Control] = []

    def make(changes: Mapping[str, Any]) -> Served:
        file = tmp_path / "gateway.yaml"
        tree = tree_in(tmp_path, changes)
        file.write_text(yaml.safe_dump(tree))
        refusals: list[Refused] = []
        options = Options(on_refusal=refusals.append, bind_patience_s=0)
        controls.append(Control(load(file), options))
        return Served(controls[-1], file, tree, refusals)

    yield make
    for control in controls:
        await control.close()


@pytest.fixture
def serve(make: Make) -> Serve:
    async def serve(changes: Mapping[str, Any] | None = None) -> Served:
        served = make(changes or {})
        await served.control.start()
        return served

    return serve


# Start, health, metrics


async def test_after_the_start_every_worker_accepts_and_readyz_says_so(serve: Serve) -> None:
    served = await serve()
    status, detail = await served.admin("/readyz")
    assert status == 200
    assert detail["workers"] == {"accepting": 2, "wanted": 2}
    assert [store["up"] for store in detail["stores"]] == [True]
    assert (await served.admin("/livez"))[0] == 200
    assert await served.metric("gateway_workers") == 2
    assert await served.send() == UNAUTHORIZED


async def test_requests_of_all_workers_are_summed(serve: Serve) -> None:
    served = await serve()
    await served.send_to_all("no-such-key")
    await served.until_metric(
        16,
        "gateway_requests_total",
        protocol="http",
        signal="traces",
        code="401",
        result="denied",
    )
    assert (
        await served.metric(
            "gateway_auth_decisions_total",
            protocol="http",
            signal="traces",
            outcome="key_unknown",
            source="keyring",
        )
        == 16
    )


async def test_the_metrics_address_serves_no_administration(serve: Serve) -> None:
    served = await serve({"admin": {"metrics_address": "127.0.0.1:0"}})
    [bound] = served.control.metrics_addresses
    async with aiohttp.ClientSession() as client:
        async with client.get(f"http://{bound}/metrics") as answer:
            assert "gateway_build_info" in await answer.text()
        async with client.get(f"http://{bound}/-/config") as answer:
            assert answer.status == 404


async def test_the_admin_address_can_speak_tls(serve: Serve, tmp_path: Path) -> None:
    ca = Authority.create(tmp_path / "ca")
    certificate = ca.issue("server", ["127.0.0.1"])
    files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    served = await serve({"admin": {"tls": files}})
    url = f"https://{served.control.admin_addresses[0]}/metrics"
    async with (
        aiohttp.ClientSession() as client,
        client.get(url, ssl=ca.client_context()) as answer,
    ):
        text = await answer.text()
    labels = {"address": served.control.config.admin.address}
    name = "gateway_tls_certificate_expiry_timestamp_seconds"
    assert value_of(text, name, labels) > 0


# Keys


async def test_a_created_key_works_in_every_worker_when_it_is_confirmed(serve: Serve) -> None:
    served = await serve()
    issued = await served.control.keys.commands.create(KeySpec("agent"))
    assert await served.control.confirmed(served.control.keys.revision)
    assert await served.send_to_all(issued.key.reveal()) == {UNREACHABLE}


async def test_a_deleted_key_is_refused_in_every_worker_when_it_is_confirmed(serve: Serve) -> None:
    served = await serve()
    issued = await served.control.keys.commands.create(KeySpec("agent"))
    await served.control.confirmed(served.control.keys.revision)
    await served.send_to_all(issued.key.reveal())
    await served.control.keys.commands.delete(issued.record.id)
    assert await served.control.confirmed(served.control.keys.revision)
    assert await served.send_to_all(issued.key.reveal()) == {UNAUTHORIZED}
    assert await served.metric("gateway_key_revocation_lag_seconds_count", store="sqlite") >= 2


async def test_a_worker_that_starts_later_knows_all_keys(serve: Serve) -> None:
    served = await serve()
    issued = await served.control.keys.commands.create(KeySpec("agent"))
    victim = next(iter(served.pids()))
    os.kill(victim, signal.SIGKILL)
    await until(lambda: victim not in served.pids() and len(served.pids()) == 2)
    assert await served.send_to_all(issued.key.reveal()) == {UNREACHABLE}


async def test_refusals_are_told_with_the_key_s_id_and_without_the_key(serve: Serve) -> None:
    served = await serve()
    issued = await served.control.keys.commands.create(KeySpec("agent"))
    await served.control.keys.commands.delete(issued.record.id)
    await served.control.confirmed(served.control.keys.revision)
    with capture_logs() as logs:
        await served.send(issued.key.reveal())
        await until(lambda: bool(served.refusals))
    [refused] = served.refusals
    assert (refused.reason, refused.key_id) == ("key_revoked", str(issued.record.id))
    [logged] = [log for log in logs if log["event"] == "refused"]
    assert logged["key_name"] == "agent"
    assert logged["digest"] == issued.key.digest.hex()[:8]
    assert issued.key.reveal() not in str(logs)


async def test_a_key_s_traffic_is_counted_and_remembered(serve: Serve) -> None:
    served = await serve()
    issued = await served.control.keys.commands.create(KeySpec("agent"))
    await served.control.confirmed(served.control.keys.revision)
    await served.send_to_all(issued.key.reveal())
    labels = {"key_id": str(issued.record.id), "key_name": "agent"}
    await served.until_metric(16, "gateway_key_requests_total", **labels, outcome="allowed")
    # What is known of all keys is gathered anew every few seconds, not for each scrape.
    async with asyncio.timeout(20):
        while not await served.metric("gateway_key_last_used_timestamp_seconds", **labels):
            await asyncio.sleep(0.05)
    assert served.control.keys.last_used_ms(str(issued.record.id)) > 0


# Workers' deaths


async def test_sums_survive_the_death_of_a_worker(serve: Serve) -> None:
    served = await serve()
    await served.send_to_all("no-such-key")
    labels = {"protocol": "http", "signal": "traces", "code": "401", "result": "denied"}
    await served.until_metric(16, "gateway_requests_total", **labels)
    for pid in served.pids():
        os.kill(pid, signal.SIGKILL)
    await served.until_metric(2, "gateway_worker_restarts_total", reason="died")
    assert await served.metric("gateway_requests_total", **labels) == 16
    await until(lambda: len(served.pids()) == 2)
    await served.send_to_all("no-such-key")
    await served.until_metric(32, "gateway_requests_total", **labels)


async def test_clients_are_served_while_a_worker_dies(serve: Serve) -> None:
    served = await serve()
    victim = next(iter(served.pids()))
    os.kill(victim, signal.SIGKILL)
    statuses = {await served.send("no-such-key") for _ in range(30)}
    assert statuses == {UNAUTHORIZED}


# Reload


async def test_a_reload_replaces_all_workers_without_one_refused_connection(serve: Serve) -> None:
    served = await serve()
    before = served.pids()
    is_over = asyncio.Event()

    async def keep_sending() -> set[int]:
        statuses = set()
        while not is_over.is_set():
            statuses.add(await served.send("no-such-key"))
        return statuses

    senders = [asyncio.create_task(keep_sending()) for _ in range(4)]
    assert await served.control.reload() == []
    is_over.set()
    assert set().union(*await asyncio.gather(*senders)) == {UNAUTHORIZED}
    assert not before & served.pids()
    assert len(served.pids()) == 2
    assert await served.metric("gateway_worker_restarts_total", reason="reload") == 2


async def test_a_reload_takes_new_addresses_keys_and_numbers_of_workers(serve: Serve) -> None:
    served = await serve()
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    served.configure(
        {
            "listen": [{"address": first}, {"address": second}],
            "auth": {"receiver_keys": [{"name": "new", "key": "a-new-receiver-key"}]},
            "workers": 1,
        }
    )
    [old] = served.control.addresses
    await served.control.reload()
    assert served.control.addresses == [first, second]
    assert await served.send("a-new-receiver-key", second) == UNREACHABLE
    assert len(served.pids()) == 1
    await until_refused(old)


async def test_a_bug_in_a_part_of_control_is_counted_and_clients_are_served(serve: Serve) -> None:
    served = await serve()
    served.control.parts.base.tasks.once("part", fail)
    await served.until_metric(1, "gateway_internal_errors_total", place="control")
    assert await served.send() == UNAUTHORIZED


async def fail() -> None:
    msg = "a bug"
    raise ValueError(msg)


async def test_a_receiver_key_taken_out_is_refused_after_the_reload(serve: Serve) -> None:
    served = await serve({"auth": {"receiver_keys": [{"name": "old", "key": "an-old-key"}]}})
    assert await served.send("an-old-key") == UNREACHABLE
    served.configure({"auth": {"receiver_keys": []}})
    await served.control.reload()
    assert await served.control.confirmed(served.control.keys.revision)
    assert await served.send_to_all("an-old-key") == {UNAUTHORIZED}


FAULTS: dict[str, dict[str, Any]] = {
    "a value that does not parse": {"workers": "many"},
    "an address of nobody": {"listen": [{"address": "192.0.2.1:4317"}]},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_reload_that_cannot_be_carried_out_changes_nothing(
    serve: Serve, fault: str
) -> None:
    served = await serve()
    before, addresses = served.pids(), served.control.addresses
    served.configure(FAULTS[fault])
    with capture_logs() as logs, pytest.raises(ReloadError):
        await served.control.reload()
    assert [log["log_level"] for log in logs] == ["error"]
    assert served.pids() == before
    assert served.control.addresses == addresses
    assert await served.metric("gateway_config_last_reload_successful") == 0
    served.configure({"listen": [{"address": "127.0.0.1:0"}], "workers": 2})
    await served.control.reload()
    assert await served.metric("gateway_config_last_reload_successful") == 1


async def test_what_needs_a_restart_is_said_and_left(serve: Serve, tmp_path: Path) -> None:
    served = await serve()
    served.configure({"keys": {"stores": [f"sqlite://{tmp_path}/other/keys.db"]}})
    notes = await served.control.reload()
    assert notes == ["keys.stores has changed: restart the gateway to apply it"]
    assert not (tmp_path / "other").exists()


async def test_names_reach_workers_when_a_reload_asks_for_identity_headers(serve: Serve) -> None:
    served = await serve()
    await served.control.keys.commands.create(KeySpec("agent"))
    assert {
        entry.principal.name for entry in served.control.parts.base.distribution.snapshot().entries
    } == {""}
    served.configure({"forward": {"identity_headers": True}})
    await served.control.reload()
    assert {
        entry.principal.name for entry in served.control.parts.base.distribution.snapshot().entries
    } == {"agent"}


async def test_reload_and_configuration_need_the_token(serve: Serve) -> None:
    served = await serve()
    before = served.pids()
    assert (await served.admin("/-/reload", "POST"))[0] == UNAUTHORIZED
    assert (await served.admin("/-/reload", "POST", "wrong"))[0] == UNAUTHORIZED
    assert served.pids() == before
    status, answer = await served.admin("/-/reload", "POST", served.token())
    assert (status, answer["status"]) == (200, "reloaded")
    assert not served.pids() & before


async def test_the_effective_configuration_is_shown_without_its_secrets(serve: Serve) -> None:
    secrets = ["canary-receiver-key", "canary-token", "canary-gateway-key"]
    served = await serve(
        {
            "auth": {"receiver_keys": [{"name": "r", "key": secrets[0]}]},
            "admin": {"tokens": [secrets[1]]},
            "forward": {"key": "gateway", "gateway_key": secrets[2]},
        }
    )
    status, config = await served.admin("/-/config", token=secrets[1])
    assert status == 200
    assert config["limits"]["max_connections"] == 1000
    _, metrics = await served.admin("/metrics")
    _, ready = await served.admin("/readyz")
    shown = f"{config} {metrics} {ready} {served.control.config!r}"
    assert not [secret for secret in secrets if secret in shown]


async def test_names_of_the_admin_address_are_replaced_by_a_reload(serve: Serve) -> None:
    served = await serve()
    name = {"Host": "gateway.example:8090"}
    async with aiohttp.ClientSession(headers=name) as client:
        async with client.get(f"{served.admin_url}/livez") as answer:
            assert answer.status == 421
        served.configure({"admin": {"hosts": ["gateway.example"]}})
        await served.control.reload()
        async with client.get(f"{served.admin_url}/livez") as answer:
            assert answer.status == 200


# Failures to start


async def test_an_address_in_use_stops_the_start_and_says_what_to_do(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(BindError, match=f"cannot listen on {address}: Address already in use"):
            await serve({"admin": {"address": address}})


async def test_a_state_folder_of_another_user_stops_the_start(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "state"
    planted.mkdir()
    give_away(planted, monkeypatch)
    with pytest.raises(StartError, match=rf"state_dir: {planted}: it belongs to another user"):
        await serve({"admin": {"tokens": ["token"]}})


async def test_a_damaged_store_stops_the_start(serve: Serve, tmp_path: Path) -> None:
    store = tmp_path / "keys.db"
    store.write_bytes(b"no database at all, but long enough to be one" * 100)
    store.chmod(0o600)
    with pytest.raises(StoreError, match=re.escape(str(store))):
        await serve({"keys": {"stores": [f"sqlite://{store}"]}})


async def test_a_worker_that_cannot_start_stops_the_start(make: Make, tmp_path: Path) -> None:
    certificate = Authority.create(tmp_path / "ca").issue("server", ["127.0.0.1"])
    files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    served = make({"listen": [{"address": "127.0.0.1:0", "tls": files}]})
    certificate.key_file.unlink()
    with pytest.raises(StartError, match="ended with status 3 before it was ready"):
        await served.control.start()
