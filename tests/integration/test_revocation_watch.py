"""Lists of revoked certificates in a whole gateway: watched, kept, told to every worker."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import yaml

from gateway.config import load
from gateway.control.core.errors import ReloadError
from gateway.control.lifecycle.control import Control, open_gateway
from tests.support.certs import Authority, Certificate
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import JSON
from tests.support.polling import until

FIELDS = (("content-type", JSON),)
LET_IN = "NO_BACKEND_OTLP_HTTP"
REVOKED = "CERTIFICATE_REVOKED"


class Watched:
    """A gateway with a list of its client certificates' authority."""

    def __init__(self, control: Control, file: Path, authority: Authority) -> None:
        self.control = control
        self.file = file
        self.authority = authority
        self.own = authority.issue("one", ["one.agents.example.org"], is_client=True)

    @property
    def port(self) -> int:
        return int(self.control.addresses[0].rsplit(":", 1)[1])

    async def reason(self, own: Certificate | None = None) -> str:
        """Send on a new connection; return what the answer says."""
        context = self.authority.client_context(own or self.own)
        answer = await http1_request(self.port, "/v1/traces", FIELDS, b"{}", tls=context)
        return str(json.loads(answer.body)["details"][0]["reason"])

    async def look(self) -> None:
        """Look as often as it takes to use files that do not change any more."""
        await self.control.parts.revocations.look()
        await self.control.parts.revocations.look()

    async def until_reason(self, reason: str) -> None:
        """Wait until the worker has what control has sent it."""
        async with asyncio.timeout(20):
            while await self.reason() != reason:
                await asyncio.sleep(0.02)

    def metric(self, name: str) -> float:
        _, pieces = self.control.parts.counting.exposition.pieces("")
        text = b"".join(pieces).decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))

    @property
    def is_good(self) -> bool:
        return self.metric("gateway_tls_files_last_read_successful ") == 1

    def worker_pid(self) -> int:
        (worker,) = self.control.parts.base.workers
        return worker.pid


@pytest.fixture(name="watched")
async def _watched(tmp_path: Path) -> AsyncIterator[Watched]:
    authority = Authority.create(tmp_path / "ca")
    server = authority.issue("server", ["localhost", "127.0.0.1"])
    file = authority.revoke()
    identity = {
        "rules": [{"san": "*.agents.example.org", "name": "$1", "labels": {"team": "team-$1"}}]
    }
    tls = {
        "cert_file": str(server.cert_file),
        "key_file": str(server.key_file),
        "client_ca_file": str(authority.cert_file),
        "client_crl_files": [str(file)],
        "client_identity": identity,
    }
    tree: dict[str, Any] = {
        "listen": [{"address": "127.0.0.1:0", "tls": tls}],
        "admin": {"address": "127.0.0.1:0"},
        "limits": {"drain_delay": "0s", "drain_timeout": "1s"},
        "metrics": {"tenant_label": "team"},
        "state_dir": str(tmp_path / "state"),
        "workers": 1,
    }
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump(tree))
    async with open_gateway(load(config, (), os.environ)) as control:
        yield Watched(control, file, authority)


async def test_a_new_list_counts_for_open_connections_and_replaces_no_worker(
    watched: Watched,
) -> None:
    pid = watched.worker_pid()
    context = watched.authority.client_context(watched.own)
    async with Http2Client(watched.port, context) as client:
        first = await client.request("/v1/traces", FIELDS, b"{}")
        assert json.loads(first.body)["details"][0]["reason"] == LET_IN
        watched.authority.revoke(watched.own)
        await watched.look()
        await watched.until_reason(REVOKED)
        answer = await client.request("/v1/traces", FIELDS, b"{}")
        assert json.loads(answer.body)["details"][0]["reason"] == REVOKED
    other = watched.authority.issue("two", ["two.agents.example.org"], is_client=True)
    assert await watched.reason(other) == LET_IN
    assert watched.worker_pid() == pid
    watched.authority.revoke()
    await watched.look()
    await watched.until_reason(LET_IN)


async def test_a_list_that_cannot_be_used_changes_nothing_and_is_told(watched: Watched) -> None:
    watched.authority.revoke(watched.own)
    await watched.look()
    await watched.until_reason(REVOKED)
    forged = Authority.create(watched.file.parent / "other").revoke()
    for content in (b"canary", forged.read_bytes(), None):
        with structlog.testing.capture_logs() as logs:
            watched.file.unlink()
            if content is not None:
                watched.file.write_bytes(content)
            await watched.look()
            await watched.look()
        errors = [each for each in logs if each["log_level"] == "error"]
        assert len(errors) == 1, "told once"
        assert "those in use are kept" in errors[0]["event"]
        assert "canary" not in repr(errors)
        assert not watched.is_good
        assert await watched.reason() == REVOKED
    with pytest.raises(ReloadError, match="cannot be read"):
        await watched.control.reload()
    assert await watched.reason() == REVOKED
    watched.authority.revoke()
    await watched.look()
    await watched.until_reason(LET_IN)
    assert watched.is_good


async def test_a_list_that_is_out_of_date_stays_in_use_and_that_is_told_once(
    watched: Watched,
) -> None:
    watched.authority.revoke(watched.own, life=dt.timedelta(minutes=-5))
    with structlog.testing.capture_logs() as logs:
        await watched.look()
        await watched.look()
    (told,) = [each for each in logs if "out of date" in each["event"]]
    assert told["file"] == str(watched.file)
    await watched.until_reason(REVOKED)
    assert watched.is_good
    at_s = watched.metric("gateway_tls_crl_next_update_timestamp_seconds{")
    assert at_s < dt.datetime.now(dt.UTC).timestamp()


async def test_a_new_worker_knows_what_is_revoked_before_it_accepts(watched: Watched) -> None:
    watched.authority.revoke(watched.own)
    await watched.look()
    await watched.until_reason(REVOKED)
    pid = watched.worker_pid()
    os.kill(pid, signal.SIGKILL)
    supervisor = watched.control.parts.base.workers
    await until(lambda: supervisor.accepting() == 1 and watched.worker_pid() != pid)
    assert await watched.reason() == REVOKED
    await watched.control.reload()
    assert await watched.reason() == REVOKED


async def test_names_and_tenants_of_certificates_stand_in_the_metrics(watched: Watched) -> None:
    assert await watched.reason() == LET_IN
    name = 'gateway_tenant_requests_total{outcome="allowed",tenant="team-one"}'
    exposition = watched.control.parts.counting.exposition

    def page() -> str:
        return b"".join(exposition.pieces("")[1]).decode()

    await until(lambda: name in page())
    assert 'key_id="certificate:one",key_name="one",outcome="allowed"' in page()
