"""Senders that their certificates name: real clients, over every protocol and TLS version."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
import msgspec
import pytest
import structlog.testing

from gateway import metrics
from gateway.channel import SenderSeen, Up
from gateway.config.client_identity import identity_settings
from gateway.config.identity_tree import ClientIdentityConfig
from gateway.revocation_lists import read_authorities, read_lists
from gateway.settings import ForwardSettings, TlsServerSettings
from tests.support.certs import Authority, Certificate
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, PROTOBUF, GrpcMessage
from tests.support.plane import KEY, RunningWorker, entry, running_worker, sink_backends
from tests.support.polling import until
from tests.support.sink import RawSink

SPIFFE: Final = "spiffe://example.org/ns/shop/sa/cart"
RULES: Final[list[dict[str, Any]]] = [
    {
        "san": "spiffe://example.org/ns/*/sa/*",
        "name": "$1/$2",
        "owner": "team $1",
        "labels": {"team": "$1"},
        "headers": {"X-Scope-OrgID": "$1"},
        "signals": ["traces", "intake"],
    },
    {"san": "*.agents.example.org", "name": "agent $1"},
]
EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
BARE: Final = (("content-type", PROTOBUF),)
VERSIONS: Final = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
WAIT_S: Final = 20


class Setting:
    """A listener's certificates, and what it makes of its clients'."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.create(folder)
        self._server = self.authority.issue("server", ["localhost", "127.0.0.1"])
        self.cart = self.issue("cart", SPIFFE)

    def issue(self, name: str, *names: str, life: dt.timedelta | None = None) -> Certificate:
        return self.authority.issue(name, names, is_client=True, life=life)

    def tls(self, require: str = "any", rules: object = RULES) -> TlsServerSettings:
        identity = ClientIdentityConfig.model_validate({"require": require, "rules": rules})
        return TlsServerSettings(
            str(self._server.cert_file),
            str(self._server.key_file),
            str(self.authority.cert_file),
            identity=identity_settings(identity, frozenset()),
        )

    def context(self, own: Certificate | None = None) -> ssl.SSLContext:
        return self.authority.client_context(own)

    def revoke(self, gateway: RunningWorker, *certificates: Certificate) -> None:
        """Tell the worker what a real list says, as control does."""
        file = self.authority.revoke(*certificates)
        authorities = read_authorities(self.authority.cert_file.read_bytes())
        ids = read_lists(file.read_bytes(), authorities).ids
        gateway.worker.path.revocations.load(ids, first=True, last=True)


@pytest.fixture(name="setting")
def _setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


async def post(
    gateway: RunningWorker,
    context: ssl.SSLContext,
    path: str = "/v1/traces",
    key: str = "",
    fields: Iterable[tuple[str, str]] = BARE,
) -> Response:
    """Send one request over HTTP/1.1, on a connection of its own."""
    authorization = [("authorization", f"StackState {key}")] if key else []
    return await http1_request(gateway.port, path, (*fields, *authorization), b"{}", tls=context)


def reason_of(response: Response) -> str:
    """Return the reason for a refusal that was asked for as JSON."""
    return str(json.loads(response.body)["details"][0]["reason"])


async def refused(
    gateway: RunningWorker, context: ssl.SSLContext, path: str = "/v1/traces", key: str = ""
) -> str:
    response = await post(gateway, context, path, key, (("content-type", JSON),))
    assert response.status in {401, 403}
    return reason_of(response)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_certificate_alone_says_who_sends_over_every_protocol(
    setting: Setting, version: ssl.TLSVersion
) -> None:
    context = setting.context(setting.cart)
    context.minimum_version = context.maximum_version = version
    forward = ForwardSettings("client", None, "StackState", identity_headers=True)
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with running_worker(
            backends=backends, tls=[setting.tls()], forward=forward
        ) as gateway:
            forged = (*BARE, ("x-gateway-key-id", "forged"))
            assert (await post(gateway, context, fields=forged)).status == 200
            async with Http2Client(gateway.port, setting.context(setting.cart)) as client:
                assert (await client.request("/v1/traces", BARE, b"{}")).status == 200
                fields = (("content-type", GRPC), ("te", "trailers"))
                assert (await client.request(EXPORT, fields, MESSAGE)).grpc_status == 0
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"https://localhost:{gateway.port}/v1/traces",
                    data=b"{}",
                    headers={"Content-Type": JSON},
                    ssl=context,
                ) as response,
            ):
                assert response.status == 200
            requests = await sink.wait_for(4)
    for request in requests:
        assert request.field("authorization") is None
        assert request.field("x-gateway-key-id") == "certificate:shop/cart"
        assert request.field("x-gateway-key-name") == "shop/cart"
        assert request.field("x-scope-orgid") == "shop"


async def test_a_grpc_client_and_an_agent_are_known_by_their_certificates(setting: Setting) -> None:
    own = setting.cart
    credentials = grpc.ssl_channel_credentials(
        setting.authority.cert_file.read_bytes(),
        own.key_file.read_bytes(),
        own.cert_file.read_bytes(),
    )
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with running_worker(backends=backends, tls=[setting.tls()]) as gateway:
            async with grpc.aio.secure_channel(f"localhost:{gateway.port}", credentials) as channel:
                call: Any = channel.unary_unary(EXPORT)
                await call(b"\x0a\x00", timeout=WAIT_S)
            context = setting.context(own)
            intake = await post(gateway, context, "/receiver/stsAgent/api/v1/collector")
            assert reason_of(intake) == "NO_BACKEND_INTAKE"  # it was let in
            other = setting.context(setting.issue("eu", "eu-1.agents.example.org"))
            assert (await post(gateway, other, "/v1/logs")).status == 200
            assert await refused(gateway, context, "/v1/logs") == "SIGNAL_NOT_ALLOWED"
            gateway.collect()
    used = {usage.key_id: usage.requests for usage in gateway.usage if usage.outcome == "allowed"}
    assert used == {"certificate:shop/cart": 2, "certificate:agent eu-1": 1}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_session_keeps_the_identity_and_can_be_revoked(
    setting: Setting, version: ssl.TLSVersion
) -> None:
    context = setting.context(setting.cart)
    context.minimum_version = context.maximum_version = version
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with running_worker(backends=backends, tls=[setting.tls()]) as gateway:
            first, session, was_reused = await resume(gateway, context, None)
            assert (first, was_reused) == (200, False)
            again, session, was_reused = await resume(gateway, context, session)
            assert (again, was_reused) == (200, True)
            setting.revoke(gateway, setting.cart)
            last, _, was_reused = await resume(gateway, context, session)
            assert (last, was_reused) == (401, True)


async def resume(
    gateway: RunningWorker, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[int, ssl.SSLSession | None, bool]:
    """Send a request on a connection that goes on with a TLS session of an earlier one."""

    def talk() -> tuple[int, ssl.SSLSession | None, bool]:
        with (
            socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            connection.sendall(
                b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
            )
            answer = b""
            while more := connection.recv(65_536):
                answer += more
            return int(answer[9:12]), connection.session, bool(connection.session_reused)

    return await asyncio.to_thread(talk)


@pytest.mark.parametrize("path", ["/v1/traces", "/receiver/stsAgent/api/v1/collector"])
async def test_what_a_key_and_a_certificate_decide_together(setting: Setting, path: str) -> None:
    keys = [entry(KEY, "7")]
    known, unknown = setting.context(setting.cart), setting.context(setting.issue("x", "x.example"))
    none = setting.context()
    async with running_worker(keys=keys, tls=[setting.tls("any"), setting.tls("all")]) as gateway:
        allowed = "NO_BACKEND_INTAKE" if "receiver" in path else "NO_BACKEND_OTLP_HTTP"
        cases = {
            # a certificate, a key: either is enough, and a key that came is never ignored
            ("any", known, ""): allowed,
            ("any", known, KEY): allowed,
            ("any", none, KEY): allowed,
            ("any", unknown, KEY): allowed,
            ("any", none, ""): "IDENTITY_MISSING",
            ("any", unknown, ""): "CERTIFICATE_UNKNOWN",
            ("any", known, "wrong"): "KEY_UNKNOWN",
            # both are needed
            ("all", known, KEY): allowed,
            ("all", known, ""): "INTAKE_KEY_MISSING" if "receiver" in path else "KEY_MISSING",
            ("all", known, "wrong"): "KEY_UNKNOWN",
            ("all", none, KEY): "CERTIFICATE_MISSING",
            ("all", none, ""): "CERTIFICATE_MISSING",
            ("all", unknown, KEY): "CERTIFICATE_UNKNOWN",
        }
        for (require, context, key), expected in cases.items():
            port = gateway.ports[0 if require == "any" else 1]
            fields = [("content-type", JSON)]
            fields += [("authorization", f"StackState {key}")] if key else []
            response = await http1_request(port, path, fields, b"{}", tls=context)
            assert reason_of(response) == expected, (require, key)
        gateway.collect()
    counts: dict[str, int] = {}
    for usage in gateway.usage:
        counts[usage.key_id] = counts.get(usage.key_id, 0) + usage.requests
    assert counts == {"certificate:shop/cart": 1, "7": 4}  # the key says who sends, if one came


async def test_a_revoked_certificate_ends_on_open_connections_and_says_so(setting: Setting) -> None:
    async with RawSink() as sink:
        backends = sink_backends(sink)
        keys = [entry(KEY)]
        async with (
            running_worker(keys=keys, backends=backends, tls=[setting.tls()]) as gateway,
            Http2Client(gateway.port, setting.context(setting.cart)) as client,
        ):
            fields = (("content-type", GRPC), ("te", "trailers"))
            assert (await client.request(EXPORT, fields, MESSAGE)).grpc_status == 0
            setting.revoke(gateway, setting.cart)
            answer = await client.request(EXPORT, fields, MESSAGE)
            assert answer.grpc_status == 16
            assert "was revoked" in (answer.grpc_message or "")
            context = setting.context(setting.cart)
            assert await refused(gateway, context) == "CERTIFICATE_REVOKED"
            assert await refused(gateway, context, key=KEY) == "CERTIFICATE_REVOKED"
            setting.revoke(gateway)  # taken out of the list again
            assert (await client.request(EXPORT, fields, MESSAGE)).grpc_status == 0
            gateway.collect()
            (told,) = gateway.refusals
    assert (told.key_id, told.scheme, told.count) == ("certificate:shop/cart", "certificate", 3)
    assert len(told.digest_prefix) == 8


async def test_a_listener_that_only_demands_certificates_refuses_revoked_ones(
    setting: Setting,
) -> None:
    """The key says who sends there, and does not make up for it."""
    plain = msgspec.structs.replace(setting.tls(), identity=None, has_revocation_lists=True)
    context = setting.context(setting.cart)
    async with running_worker(keys=[entry(KEY)], tls=[plain]) as gateway:
        assert await refused(gateway, context) == "KEY_MISSING"
        again = await post(gateway, context, key=KEY, fields=(("content-type", JSON),))
        assert reason_of(again) == "NO_BACKEND_OTLP_HTTP"
        setting.revoke(gateway, setting.cart)
        assert await refused(gateway, context, key=KEY) == "CERTIFICATE_REVOKED"


async def test_a_rules_limits_hold_for_all_certificates_with_one_name(setting: Setting) -> None:
    rule = {**RULES[0], "name": "all of $1", "limits": {"concurrent": 1, "requests": "1/m"}}
    carts = [setting.cart, setting.issue("other", "spiffe://example.org/ns/shop/sa/other")]
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), tls=[setting.tls(rules=[rule])]) as gateway,
    ):
        first, second = [await post(gateway, setting.context(own)) for own in carts]
        assert (first.status, second.status) == (200, 429)


async def test_names_that_cannot_be_read_are_refused_with_a_key_too(setting: Setting) -> None:
    """Nobody can tell whether such a certificate was revoked."""
    odd = setting.authority.issue("odd", is_client=True, raw_names=b"\x30\x04\x82\x02\xff\xfe")
    async with running_worker(keys=[entry(KEY)], tls=[setting.tls()]) as gateway:
        context = setting.context(odd)
        assert await refused(gateway, context) == "CERTIFICATE_MALFORMED"
        assert await refused(gateway, context, key=KEY) == "CERTIFICATE_MALFORMED"


async def test_a_certificate_that_expires_ends_on_open_connections(setting: Setting) -> None:
    short = setting.issue("short", SPIFFE, life=dt.timedelta(seconds=4))
    async with (
        running_worker(tls=[setting.tls()]) as gateway,
        Http2Client(gateway.port, setting.context(short)) as client,
    ):
        fields = (("content-type", JSON),)
        first = await client.request("/v1/traces", fields, b"{}")
        assert reason_of(first) == "NO_BACKEND_OTLP_HTTP"
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await client.request("/v1/traces", fields, b"{}")
                if reason_of(answer) == "CERTIFICATE_EXPIRED":
                    break
                await asyncio.sleep(0.1)


async def test_names_that_no_rule_can_take_have_an_outcome_and_reach_no_log(
    setting: Setting,
) -> None:
    long = f"spiffe://example.org/ns/{'n' * 3000}/sa/a"
    label = f"spiffe://example.org/ns/{'n' * 300}/sa/a"
    cases = {
        "CERTIFICATE_MALFORMED": [long, label],
        "CERTIFICATE_UNKNOWN": [
            "spiffe://example.org/ns/canary%0d/sa/a/b",
            "spiffe://example.org/ns/canary\x1b[2J/sa/a",
            "spiffe://example.org/ns/canary$1/sa/a",
            "a.b.agents.example.org",
            "spiffe://example.org.evil/ns/a/sa/b",
        ],
    }
    with structlog.testing.capture_logs() as logs:
        async with running_worker(tls=[setting.tls()]) as gateway:
            for reason, names in cases.items():
                for place, name in enumerate(names):
                    own = setting.issue(f"odd-{reason}-{place}", name)
                    assert await refused(gateway, setting.context(own)) == reason
            gateway.collect()
    assert "canary" not in repr((logs, gateway.refusals))


async def test_a_certificate_of_another_authority_ends_the_handshake(
    setting: Setting, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other").issue("cart", [SPIFFE], is_client=True)
    expired = setting.authority.issue("old", [SPIFFE], is_client=True, expired=True)
    with structlog.testing.capture_logs() as logs:
        async with running_worker(tls=[setting.tls()]) as gateway:
            for own in (other, expired):
                with pytest.raises((OSError, asyncio.IncompleteReadError, AssertionError)):
                    await post(gateway, setting.context(own))
            refused_at = metrics.CONNECTIONS_REFUSED
            await until(lambda: gateway.counted(refused_at) == {("tls_handshake",): 2})
    details = [event["detail"] for event in logs if "detail" in event]
    assert "CERTIFICATE_VERIFY_FAILED" in details[0]


async def test_control_is_told_once_whom_a_certificate_names(setting: Setting) -> None:
    told: list[Up] = []
    async with running_worker(tls=[setting.tls()]) as gateway:

        def take(message: Up) -> bool:
            told.append(message)
            return True

        gateway.send_to(take)
        for _ in range(3):
            await refused(gateway, setting.context(setting.cart), "/v1/logs")
    assert [each for each in told if isinstance(each, SenderSeen)] == [
        SenderSeen("certificate:shop/cart", "shop/cart", "team shop", {"team": "shop"})
    ]
