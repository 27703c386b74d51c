"""Every carrier of a key on the agents' intake, and what becomes of it under each policy."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

import pytest

from gateway import metrics
from gateway.dataplane.core.query_key import without_key
from gateway.model import BackendName, KeyState
from gateway.settings import ForwardSettings, IntakeSettings
from tests.support.exchange import Answer
from tests.support.intake import basic
from tests.support.intake_gateway import Fields, ask, gateway_before
from tests.support.plane import KEY, backend, entry
from tests.support.sink import RawSink

ODD_KEY: Final = "Ä".encode().hex() + "/+&=%;k e y".replace(" ", "_")
"""A receiver key of an operator's own making, with what a query must encode."""
ODD: Final = entry(ODD_KEY, "8")
BOTH: Final = pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])


def _carriers(key: str) -> dict[str, tuple[str, Fields]]:
    """Name → (query, fields)."""
    return {
        "query": (f"?api_key={quote(key, safe='')}", ()),
        "query, encoded name": (f"?api%5Fkey={quote(key, safe='')}", ()),
        "query among others": (f"?a=1&api_key={quote(key, safe='')}&b=2", ()),
        "sts-api-key": ("", (("sts-api-key", key),)),
        "DD-Api-Key": ("", (("DD-Api-Key", key),)),
        "ApiKey": ("", (("Authorization", f"ApiKey {key}"),)),
        "apikey": ("", (("Authorization", f"aPiKeY  {key}"),)),
        "Basic": ("", (("Authorization", basic(key)),)),
        "StackState": ("", (("Authorization", f"StackState {key}"),)),
        "SUSEObservability": ("", (("Authorization", f"SUSEObservability {key}"),)),
    }


CARRIERS: Final = tuple(_carriers("k"))
EACH: Final = pytest.mark.parametrize("carrier", CARRIERS)


@EACH
@BOTH
async def test_each_carrier_brings_a_good_key_through_as_it_came(carrier: str, http2: bool) -> None:
    query, fields = _carriers(ODD_KEY)[carrier]
    async with RawSink() as sink, gateway_before(sink, keys=[ODD]) as gateway:
        answer = await ask(gateway.port, "/intake" + query, fields, http2=http2)
        assert answer.status == 200
        (request,) = sink.requests
        assert request.path == "/stsAgent/intake" + query
        for name, value in fields:
            assert request.values(name) == [value]
        decisions = gateway.counted(metrics.AUTH_DECISIONS)
        assert decisions == {("intake", "intake", "allowed", "keyring"): 1}


@pytest.mark.parametrize(
    "carrier, reason, principal",
    [
        *((carrier, "KEY_UNKNOWN", None) for carrier in CARRIERS),
        ("query", "KEY_EXPIRED", {"expires_at_ms": 1_000}),
        ("query", "KEY_REVOKED", {"state": KeyState.REVOKED}),
        ("query", "KEY_DISABLED", {"state": KeyState.DISABLED}),
        ("query", "SIGNAL_NOT_ALLOWED", {"signals": 1}),
    ],
)
async def test_each_carrier_of_a_bad_key_is_forbidden(
    carrier: str, reason: str, principal: dict[str, Any] | None
) -> None:
    """403, in JSON, whatever the sender's Content-Type; the key is in no answer and no report."""
    query, fields = _carriers(ODD_KEY)[carrier]
    keys = [entry(ODD_KEY, "8", **principal)] if principal is not None else [entry(KEY)]
    async with RawSink() as sink, gateway_before(sink, keys=keys) as gateway:
        fields = (*fields, ("content-type", "application/x-protobuf"))
        answer = await ask(gateway.port, "/receiver/stsAgent/intake" + query, fields)
        assert answer.status == 403
        assert answer.field("content-type") == "application/json"
        said_in_body = json.loads(answer.body)
        assert said_in_body["details"][0]["reason"] == reason
        assert said_in_body["errors"] == [said_in_body["message"]]
        assert not sink.requests
        gateway.collect()
        said = repr(answer) + repr(gateway.refusals) + repr(gateway.counted(metrics.REQUESTS))
        assert ODD_KEY not in said
        assert quote(ODD_KEY, safe="") not in said


@pytest.mark.parametrize(
    "query, fields, reason",
    [
        ("", (), "INTAKE_KEY_MISSING"),
        ("?", (), "INTAKE_KEY_MISSING"),
        ("?api_key", (), "INTAKE_KEY_MISSING"),
        ("?api_key=", (), "INTAKE_KEY_MISSING"),
        (f"?API_KEY={KEY}", (), "INTAKE_KEY_MISSING"),
        (f"?xapi_key={KEY}", (), "INTAKE_KEY_MISSING"),
        ("", (("sts-api-key", ""),), "INTAKE_KEY_MISSING"),
        ("", (("authorization", "ApiKey "),), "INTAKE_KEY_MISSING"),
        ("", (("authorization", f"Bearer {KEY}"),), "INTAKE_SCHEME"),
        ("", (("authorization", KEY),), "INTAKE_SCHEME"),
        ("", (("authorization", "Basic !!!"),), "KEY_BASIC"),
        ("", (("authorization", "Basic YWRtaW46aw=="),), "KEY_BASIC"),
        ("", (("authorization", "Basic YXBpa2V5"),), "KEY_BASIC"),
        ("", (("x-api-key", KEY),), "INTAKE_KEY_MISSING"),
        ("?api_key=a%20b", (), "KEY_CHARACTERS"),
        ("?api_key=" + "k" * 513, (), "KEY_TOO_LONG"),
    ],
)
async def test_without_a_readable_key_a_request_is_unauthorized(
    query: str, fields: Fields, reason: str
) -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "/intake" + query, fields)
        assert answer.status == 401
        assert reason.encode() in answer.body
        assert not sink.requests


@EACH
async def test_the_same_key_in_two_carriers_is_fine_and_two_different_ones_are_a_conflict(
    carrier: str,
) -> None:
    query, fields = _carriers(KEY)[carrier]
    async with RawSink() as sink, gateway_before(sink, keys=[entry(KEY), ODD]) as gateway:
        for other, expected in ((KEY, 200), (ODD_KEY, 401)):
            second: Fields = (("dd-api-key", other),)
            if carrier == "DD-Api-Key":
                second = (("sts-api-key", other),)
            answer = await ask(gateway.port, "/intake" + query, (*fields, *second))
            assert answer.status == expected
        assert gateway.count(metrics.AUTH_DECISIONS, "intake", "intake", "key_conflict") == 1


async def test_the_same_key_twice_in_a_query_is_fine_and_two_different_ones_are_a_conflict() -> (
    None
):
    async with RawSink() as sink, gateway_before(sink) as gateway:
        twice = f"/intake?api_key={KEY}&api_key={KEY}"
        assert (await ask(gateway.port, twice, ())).status == 200
        differ = f"/intake?api_key={KEY}&api_key=another"
        assert (await ask(gateway.port, differ, ())).status == 401
        assert gateway.count(metrics.AUTH_DECISIONS, "intake", "intake", "key_conflict") == 1


GATEWAY_KEY: Final = "the-backends-key"


@pytest.mark.parametrize(
    "policy, carrier",
    [*(("gateway", carrier) for carrier in CARRIERS), ("none", "query"), ("none", "sts-api-key")],
)
@BOTH
async def test_a_policy_of_the_gateway_removes_every_carrier(
    carrier: str, policy: str, http2: bool
) -> None:
    query, fields = _carriers(KEY)[carrier]
    forward = ForwardSettings(policy, GATEWAY_KEY, "StackState", identity_headers=True)  # type: ignore[arg-type]  # parametrized
    keys = [entry(KEY, "42", name="a")]
    async with RawSink() as sink, gateway_before(sink, keys=keys, forward=forward) as gateway:
        answer = await ask(
            gateway.port, "/api/v1/series" + query, (*fields, ("x-other", "stays")), http2=http2
        )
        assert answer.status == 200
        (request,) = sink.requests
        rest = "?a=1&b=2" if "among" in carrier else ""
        assert request.path == "/stsAgent/api/v1/series" + rest
        assert request.field("sts-api-key") == (GATEWAY_KEY if policy == "gateway" else None)
        assert request.field("authorization") is None
        assert request.field("dd-api-key") is None
        assert request.field("x-other") == "stays"
        assert request.field("x-gateway-key-id") == "42"
        assert KEY not in repr(request)


@pytest.mark.parametrize(
    "query, expected",
    [
        (b"api_key=k", None),
        (b"api_key", None),
        (b"", b""),
        (b"a=%2f%2F&api_key=k&a=+x", b"a=%2f%2F&a=+x"),
        (b"api_key=k&a", b"a"),
        (b"a&&api_key=k&", b"a&&"),
        (b"api%5fkey=k&%61pi_key=k&b=1", b"b=1"),
        (b"xapi_key=k&api_keys=k&API_KEY=k", b"xapi_key=k&api_keys=k&API_KEY=k"),
        (b"a=api_key=k", b"a=api_key=k"),
        (b"\xff=1&api_key=\xff&%zz=%", b"\xff=1&%zz=%"),
    ],
)
def test_a_query_loses_its_keys_and_keeps_all_else_byte_for_byte(
    query: bytes, expected: bytes | None
) -> None:
    assert without_key(query) == expected


async def test_an_otlp_request_loses_a_key_in_its_query_too() -> None:
    """It is no carrier there, and still nothing that the backend should get."""
    forward = ForwardSettings("none", None, "StackState", identity_headers=False)
    async with RawSink() as sink, gateway_before(sink, forward=forward) as gateway:
        fields = (("sts-api-key", KEY), ("content-type", "application/json"))
        target = f"/stsAgent/otel/v1/logs?x=1&api_key={KEY}"
        assert (await ask(gateway.port, target, fields)).status == 200
        assert sink.requests[0].path == "/v1/logs?x=1"


TOKEN: Final = "ServiceBearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"
FORWARD_TOKENS: Final = IntakeSettings(service_bearer="forward")


async def test_a_kubernetes_token_is_refused_and_the_setting_named() -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "/rbac/scope", (("Authorization", TOKEN),))
        assert answer.status == 401
        assert b"backends.intake.service_bearer" in answer.body
        assert not sink.requests


@BOTH
@pytest.mark.parametrize("policy", ["client", "gateway", "none"])
async def test_a_kubernetes_token_passes_unchecked_where_the_operator_says_so(
    policy: str, http2: bool
) -> None:
    """Never with the gateway's own key: the receiver must judge the token itself."""
    forward = ForwardSettings(policy, GATEWAY_KEY, "StackState", identity_headers=True)  # type: ignore[arg-type]  # parametrized
    async with (
        RawSink(lambda _: Answer(403, body=b"not you")) as sink,
        gateway_before(sink, intake=FORWARD_TOKENS, forward=forward) as gateway,
    ):
        for method, path in (("POST", "/rbac/scope"), ("GET", "/features")):
            body = b"" if method == "GET" else b"{}"
            fields = (("Authorization", TOKEN),)
            answer = await ask(gateway.port, path, fields, body, method=method, http2=http2)
            assert (answer.status, answer.body) == (403, b"not you")
            request = sink.requests[-1]
            assert request.values("authorization") == [TOKEN]
            assert request.field("sts-api-key") is None
            assert request.field("x-gateway-key-id") is None
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED) == 0
        assert gateway.count(metrics.AUTH_DECISIONS) == 0


@pytest.mark.parametrize("path", ["/intake", "/api/v1/series", "/api/v1/connections"])
async def test_a_kubernetes_token_passes_nowhere_else(path: str) -> None:
    async with RawSink() as sink, gateway_before(sink, intake=FORWARD_TOKENS) as gateway:
        assert (await ask(gateway.port, path, (("Authorization", TOKEN),))).status == 401
        assert not sink.requests


@pytest.mark.parametrize(
    "beside, expected",
    [
        ((("sts-api-key", "nobody-knows-it"),), 403),
        ((("sts-api-key", KEY),), 200),
        ((("sts-api-key", "k" * 600),), 401),
    ],
)
async def test_a_key_beside_a_kubernetes_token_is_judged(beside: Fields, expected: int) -> None:
    async with RawSink() as sink, gateway_before(sink, intake=FORWARD_TOKENS) as gateway:
        fields = (("Authorization", TOKEN), *beside)
        assert (await ask(gateway.port, "/rbac/scope", fields)).status == expected
        assert len(sink.requests) == (expected == 200)


@pytest.mark.parametrize(
    "base, http2", [("", False), ("/stsAgent", True), ("/receiver/stsAgent", False)]
)
async def test_validate_is_answered_by_the_gateways_own_verdict(base: str, http2: bool) -> None:
    """Agents want exactly 200 or 403; the receiver is not asked."""
    keys = [entry(KEY, "7"), entry("old", "8", state=KeyState.REVOKED)]
    async with RawSink() as sink, gateway_before(sink, keys=keys, backends=()) as gateway:

        async def status_of(query: str, fields: Fields = ()) -> int:
            target = f"{base}/api/v1/validate{query}"
            return (await ask(gateway.port, target, fields, b"", method="GET", http2=http2)).status

        assert await status_of(f"?api_key={KEY}") == 200
        assert await status_of("", (("sts-api-key", KEY),)) == 200
        assert await status_of("?api_key=nobody-knows-it") == 403
        assert await status_of("?api_key=old") == 403
        assert await status_of("") == 401
        assert not sink.requests
        assert gateway.count(metrics.INTAKE_REQUESTS, "validate", "agent", "accepted") == 2
        assert gateway.count(metrics.INTAKE_REQUESTS, "validate", "agent", "denied") == 3


@BOTH
async def test_validate_says_that_it_cannot_tell(http2: bool) -> None:
    """The agent then assumes that its key is good, and goes on."""
    async with RawSink() as sink, gateway_before(sink, keys=None) as gateway:
        target = f"/api/v1/validate?api_key={KEY}"
        answer = await ask(gateway.port, target, (), b"", method="GET", http2=http2)
        assert (answer.status, answer.field("retry-after")) == (503, "2")


async def test_the_features_are_the_receivers() -> None:
    features = b'{"upgrade-to-multi-metrics":true,"health-states":true}'
    answer_of_receiver = Answer(body=features, fields=(("content-type", "application/json"),))
    async with RawSink(lambda _: answer_of_receiver) as sink, gateway_before(sink) as gateway:
        target = f"/receiver/stsAgent/features?api_key={KEY}"
        answer = await ask(gateway.port, target, (), b"", method="GET")
        assert (answer.status, answer.body) == (200, features)
        assert sink.requests[0].path == f"/stsAgent/features?api_key={KEY}"


async def test_the_api_key_is_in_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither for a refusal, nor for a receiver that cannot be reached."""
    gone = (backend(BackendName.INTAKE, "http://127.0.0.1:1"),)
    async with RawSink() as sink, gateway_before(sink, backends=gone) as gateway:
        for key in (KEY, "nobody-knows-it"):
            await ask(gateway.port, f"/intake?api_key={key}&x=1", ())
            await ask(gateway.port, f"/intake?x=1&api_key={key}", (("sts-api-key", key),))
        gateway.collect()
        said = repr(gateway.refusals) + repr(gateway.counted(metrics.REQUESTS))
    said += "".join(capsys.readouterr())
    assert "key_unknown" in said
    assert KEY not in said
    assert "nobody-knows-it" not in said
