from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway.model import Signal
from gateway.sender.target import (
    Endpoint,
    Plan,
    PlanError,
    SendProtocol,
    Tls,
    check_key,
    parse_endpoint,
)
from tests.support.certs import Authority

GRPC, HTTP = SendProtocol.GRPC, SendProtocol.HTTP
CANARY = "iapikey-canary"


@pytest.mark.parametrize(
    "text, protocol, endpoint",
    [
        ("http://127.0.0.1:4317", GRPC, Endpoint(is_tls=False, host="127.0.0.1", port=4317)),
        ("https://host/", GRPC, Endpoint(is_tls=True, host="host", port=443)),
        ("http://host", HTTP, Endpoint(is_tls=False, host="host", port=80)),
        ("http://[::1]:1", HTTP, Endpoint(is_tls=False, host="::1", port=1)),
        (
            "https://h:8443/stsAgent/otel/",
            HTTP,
            Endpoint(is_tls=True, host="h", port=8443, prefix="/stsAgent/otel"),
        ),
    ],
)
def test_a_base_url_is_taken_apart(text: str, protocol: SendProtocol, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, protocol) == endpoint
    assert parse_endpoint(endpoint.url, protocol) == endpoint


@pytest.mark.parametrize(
    "text, protocol, advice",
    [
        ("localhost:4317", GRPC, "write http://localhost:4317"),
        ("grpc://localhost:4317", GRPC, "not a URL like"),
        ("http://", GRPC, "not a URL like"),
        ("http://host:port", HTTP, "not a URL"),
        ("http://host:70000", HTTP, "not a URL"),
        ("http://[::1", HTTP, "not a URL"),
        ("http://host/prefix", GRPC, "gRPC has no path"),
        ("http://host:4318/v1/traces", HTTP, "remove '/v1/traces'"),
        ("http://host:4318/x/v1development/profiles/", HTTP, "remove '/v1development/profiles'"),
        (f"http://user:{CANARY}@host", HTTP, "--key-file"),
        (f"http://host/?api_key={CANARY}", HTTP, "--key-file"),
        ("http://host/#a", HTTP, "fragment"),
    ],
)
def test_what_is_no_base_url_is_told_with_what_to_write(
    text: str, protocol: SendProtocol, advice: str
) -> None:
    with pytest.raises(PlanError) as caught:
        parse_endpoint(text, protocol)
    assert advice in str(caught.value)
    assert CANARY not in str(caught.value)


def test_white_space_around_a_key_is_dropped() -> None:
    assert check_key(" abc\r\n", "--key-file k") == "abc"


@pytest.mark.parametrize(
    "key, problem",
    [
        ("", "contains no API key"),
        (" \n", "contains no API key"),
        (f"StackState {CANARY}", "visible ASCII"),
        (f"{CANARY}\r\nx: y", "visible ASCII"),
        (f"{CANARY}\x7f", "visible ASCII"),
        (f"{CANARY}ü", "visible ASCII"),
        (CANARY * 40, "at most 512"),
    ],
)
def test_what_cannot_be_a_key_is_told_without_showing_it(key: str, problem: str) -> None:
    with pytest.raises(PlanError, match="GATEWAY_KEY") as caught:
        check_key(key, "GATEWAY_KEY")
    assert problem in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_plan_does_not_show_its_key() -> None:
    endpoint = parse_endpoint("http://host", GRPC)
    plan = Plan(endpoint, GRPC, (Signal.TRACES,), key=CANARY)
    assert CANARY not in repr(plan)
    assert plan.authorization == f"StackState {CANARY}"
    assert Plan(endpoint, GRPC, (Signal.TRACES,)).authorization is None


def test_a_ca_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--ca-file .*none\.crt: no such file"):
        Tls(tmp_path / "none.crt").context("h2")


def test_a_ca_file_without_a_certificate_is_told(tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text("no certificate")
    with pytest.raises(PlanError, match="no certificate in PEM form"):
        Tls(file).context("h2")


def test_verification_is_on_unless_it_is_skipped() -> None:
    assert Tls().context("h2").verify_mode is ssl.CERT_REQUIRED
    assert Tls().context("h2").check_hostname
    assert Tls(insecure_skip_verify=True).context("h2").verify_mode is ssl.CERT_NONE


def test_a_client_certificate_that_cannot_be_used_is_an_error_that_names_its_options(
    tmp_path: Path,
) -> None:
    authority = Authority.create(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    assert Tls(cert_file=one.cert_file, key_file=one.key_file).context("h2") is not None
    with pytest.raises(PlanError, match=r"--client-cert-file .*none\.crt: no such file"):
        Tls(cert_file=tmp_path / "none.crt").context("h2")
    for key_file in (other.key_file, one.cert_file):
        with pytest.raises(PlanError, match="its own PEM key without a passphrase"):
            Tls(cert_file=one.cert_file, key_file=key_file).context("h2")
