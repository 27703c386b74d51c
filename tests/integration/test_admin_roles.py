"""What a token or a client certificate of the admin API may do, and whom the audit log names."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.support.certs import Authority
from tests.support.polling import until
from tests.support.process import COMMAND, configuration, free_ports, running, running_gateway

KEYS: Final = "/api/security/ingestion/api_keys"
AUDIT: Final = "/api/security/ingestion/audit"
OK, NO_CONTENT, UNAUTHORIZED, FORBIDDEN = 200, 204, 401, 403
TOKENS: Final = [
    {"name": "alice", "token": "token-of-alice"},
    {"name": "bob", "token": "token-of-bob", "role": "key_manager"},
    {"name": "eve", "token": "token-of-eve", "role": "reader"},
]
READING: Final = (("GET", KEYS), ("GET", AUDIT), ("GET", "/-/config"))
CHANGING: Final = (
    ("POST", KEYS),
    ("POST", "/api/security/ingestion/adopt"),
    ("PATCH", f"{KEYS}/1"),
    ("POST", f"{KEYS}/1/rotate"),
    ("DELETE", f"{KEYS}/1"),
)


class Admin:
    """A client of the admin API."""

    def __init__(self, url: str, tls: ssl.SSLContext | bool = True) -> None:
        self.url = url
        self.tls = tls

    async def ask(
        self, method: str, path: str, token: str = "", body: Any = None
    ) -> tuple[int, Any]:
        headers = {"X-API-Token": token} if token else {}
        async with (
            aiohttp.ClientSession() as client,
            client.request(
                method, self.url + path, headers=headers, json=body, ssl=self.tls
            ) as response,
        ):
            text = await response.read()
            return response.status, await response.json() if text else None


async def test_each_role_may_do_what_it_says_and_no_more(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"admin": {"tokens": TOKENS}}) as gateway:
        admin = Admin(gateway.admin_url)
        for method, path in (*READING, *CHANGING, ("POST", "/-/reload"), ("POST", "/-/trace")):
            assert (await admin.ask(method, path))[0] == UNAUTHORIZED
        for token in ("token-of-alice", "token-of-bob", "token-of-eve"):
            for method, path in READING:
                assert (await admin.ask(method, path, token))[0] == OK
        for method, path in CHANGING:
            status, answer = await admin.ask(method, path, "token-of-eve", {"name": "n"})
            assert status == FORBIDDEN
            (error,) = answer["errors"]
            assert error["_type"] == "ForbiddenError"
            assert "'eve' is reader: this needs the role key_manager" in error["message"]
        for token in ("token-of-bob", "token-of-eve"):
            status, answer = await admin.ask("POST", "/-/reload", token)
            assert (status, "administrator" in answer["error"]) == (FORBIDDEN, True)
        assert (await admin.ask("POST", "/-/reload", "token-of-alice"))[0] == OK
        await _check_audit(admin)
        output = gateway.program.output
        assert "a role does not allow this" in output
        assert "token-of" not in output


async def _check_audit(admin: Admin) -> None:
    """Have two tokens change a key: the audit log names both."""
    _, key = await admin.ask("POST", KEYS, "token-of-bob", {"name": "agent"})
    status, _ = await admin.ask("DELETE", f"{KEYS}/{key['id']}", "token-of-alice")
    assert status == NO_CONTENT
    _, changes = await admin.ask("GET", AUDIT, "token-of-eve")
    assert [(each["action"], each["who"]) for each in changes] == [
        ("delete", "alice"),
        ("create", "bob"),
    ]


async def test_a_client_certificate_counts_in_place_of_a_token(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    own = authority.issue("gateway", ["127.0.0.1"])
    (port,) = free_ports(1)
    admin = {
        "address": f"127.0.0.1:{port}",
        "tls": {
            "cert_file": str(own.cert_file),
            "key_file": str(own.key_file),
            "client_ca_file": str(authority.cert_file),
        },
        "tokens": TOKENS,
        "certificates": [
            {"name": "ops team", "san": "*.ops.example.com", "role": "key_manager"},
            {"name": "dashboards", "san": "spiffe://example.com/view/*", "role": "reader"},
        ],
    }

    def client(number: int, name: str) -> Admin:
        certificate = authority.issue(f"client-{number}", [name], is_client=True)
        return Admin(f"https://127.0.0.1:{port}", authority.client_context(certificate))

    ops = client(1, "a.ops.example.com")
    dashboards = client(2, "spiffe://example.com/view/a")
    stranger = client(3, "x.example.com")
    config_file = tmp_path / "gateway.yaml"
    tree = configuration(tmp_path, [*free_ports(2), port], None)
    config_file.write_text(yaml.safe_dump({**tree, "admin": admin}))
    async with running([COMMAND, "serve", "--config", config_file], cwd=tmp_path) as program:
        await until(lambda: '"ready"' in program.output)
        status, key = await ops.ask("POST", KEYS, body={"name": "agent"})
        assert status == OK
        assert (await ops.ask("POST", "/-/reload"))[0] == FORBIDDEN
        assert (await dashboards.ask("GET", KEYS))[0] == OK
        assert (await dashboards.ask("DELETE", f"{KEYS}/{key['id']}"))[0] == FORBIDDEN
        assert (await stranger.ask("GET", KEYS))[0] == UNAUTHORIZED
        assert (await stranger.ask("POST", "/-/reload", "token-of-alice"))[0] == OK
        assert (await ops.ask("POST", KEYS, "token-of-eve", {"name": "n"}))[0] == FORBIDDEN
        assert (await ops.ask("GET", KEYS, "wrong"))[0] == UNAUTHORIZED
        _, (change,) = await dashboards.ask("GET", AUDIT)
        assert change["who"] == "ops team"
