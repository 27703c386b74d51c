from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.config import effective
from gateway.config.addresses import is_overlap, is_reached_by
from gateway.config.values import split_address
from tests.support.certs import Authority, Certificate
from tests.unit.config.support import faults_of, load_text


@pytest.fixture(scope="module", name="authority")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module", name="server")
def _server(authority: Authority) -> Certificate:
    return authority.issue("server", ["localhost"])


@pytest.mark.parametrize(
    "one, other, overlaps",
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "10.0.0.1:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("0.0.0.0:1", "somewhere:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("[::]:1", "0.0.0.0:1", True),
        (":1", "[::1]:1", True),
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::1]:1", True),
        ("localhost:1", "127.0.0.2:1", False),
        ("a:1", "a:1", True),
        ("a:1", "b:1", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_addresses_overlap_where_both_cannot_be_bound(
    one: str, other: str, overlaps: bool
) -> None:
    assert is_overlap(split_address(one), split_address(other)) is overlaps
    assert is_overlap(split_address(other), split_address(one)) is overlaps


@pytest.mark.parametrize(
    "listen, target, reached",
    [
        ("127.0.0.1:1", ("127.0.0.1", 1), True),
        ("127.0.0.1:1", ("localhost", 1), True),
        ("127.0.0.1:1", ("localhost", 2), False),
        ("127.0.0.1:1", ("127.0.0.2", 1), False),
        ("0.0.0.0:1", ("localhost", 1), True),
        ("0.0.0.0:1", ("127.0.0.2", 1), True),
        ("0.0.0.0:1", ("0.0.0.0", 1), True),
        ("0.0.0.0:1", (socket.gethostname().lower(), 1), True),
        ("0.0.0.0:1", ("192.0.2.1", 1), False),
        ("0.0.0.0:1", ("collector", 1), False),
        ("[::]:1", ("127.0.0.1", 1), True),
        ("10.0.0.1:1", ("10.0.0.1", 1), True),
        ("localhost:0", ("localhost", 0), False),
    ],
)
def test_a_backend_is_the_gateway_itself_where_a_connection_would_come_back(
    listen: str, target: tuple[str, int], reached: bool
) -> None:
    assert is_reached_by(split_address(listen), target) is reached


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1", "127.0.0.1:", "h:x", "h:70000", "::1:4317", "[::1:4317", "[zz]:1", "a b:1"],
)
def test_an_address_that_cannot_be_is_refused(tmp_path: Path, address: str) -> None:
    (fault,) = faults_of(tmp_path, f"listen: [{{address: '{address}'}}]")
    assert fault.path == "listen[0].address"


def test_an_ipv6_address_is_kept_in_its_canonical_form(tmp_path: Path) -> None:
    config = load_text(tmp_path, "listen: [{address: '[0:0::1]:1'}]").config
    assert config.listen[0].address == "[::1]:1"


@pytest.mark.parametrize(
    "key", ["admin: {address: 'X'}", "admin: {metrics_address: 'X'}", "listen: [{address: X}]"]
)
def test_no_two_listeners_share_an_address(tmp_path: Path, key: str) -> None:
    others = {
        "admin: {address: 'X'}": "127.0.0.1:4318",
        "admin: {metrics_address: 'X'}": "0.0.0.0:8090",
        "listen: [{address: X}]": "127.0.0.1:8090",
    }
    (fault,) = faults_of(tmp_path, key.replace("X", others[key]))
    assert "overlaps" in fault.message
    assert "choose another port or host" in fault.message


@pytest.mark.parametrize(
    "url, message",
    [
        ("collector:4317", "write http://HOST:PORT"),
        ("grpc://collector:4317", "write http://HOST:PORT"),
        ("HTTP:collector", "write http://HOST:PORT"),
        ("http://", "names no host"),
        ("http://a b:1", "names no host"),
        ("http://h:99999", "a port is a number"),
        ("http://h:0", "a port is a number"),
        ("http://[::1", "no url"),
        ("http://user:word@h:1", "no user or password"),
        ("http://h:1/?x=1", "'?' or '#'"),
        ("http://h:1/#x", "'?' or '#'"),
        ("http://h:1/a/../b", "no plain prefix"),
        ("http://h:1//a", "no plain prefix"),
        ("http://h:1/%2f", "no plain prefix"),
        ("http://127.0.0.1:4317", "the gateway itself (listen[0].address)"),
        ("http://localhost:8090", "the gateway itself (admin.address)"),
    ],
)
def test_a_url_that_cannot_be_a_backend_is_refused(tmp_path: Path, url: str, message: str) -> None:
    (fault,) = faults_of(tmp_path, f"backends: {{otlp_grpc: {{urls: ['{url}']}}}}")
    assert fault.path == "backends.otlp_grpc.urls[0]"
    assert message in fault.message
    assert "word" not in fault.message.replace("password", "")


@pytest.mark.parametrize(
    "body, path, message",
    [
        ("urls: []", "urls", "at least one item"),
        ("urls: ['http://a:1', 'http://a:1/']", "urls[1]", "the same url as backends.x.urls[0]"),
        ("urls: ['http://a:1'], min_connections: 999", "min_connections", "max_connections"),
        ("urls: ['http://a:1'], tls: {}", "tls", "no url of this backend is https://"),
        ("urls: ['http://a:1'], connect_timeout: 0", "connect_timeout", "0 could mean"),
        ("urls: ['http://a:1'], host: 'a b'", "host", "write HOST:PORT"),
        ("urls: ['https://a:1'], tls: {cert_file: /x}", "tls.key_file", "belong together"),
        ("urls: ['https://a:1'], tls: {ca_file: /x}", "tls.ca_file", "/x cannot be read"),
    ],
)
def test_a_backend_that_cannot_work_is_refused(
    tmp_path: Path, body: str, path: str, message: str
) -> None:
    (fault,) = faults_of(tmp_path, f"backends: {{otlp_http: {{{body}}}}}")
    assert fault.path == f"backends.otlp_http.{path}"
    assert message.replace("backends.x", "backends.otlp_http") in fault.message


@pytest.mark.parametrize(
    "store, message",
    [
        ("postgresql://someone:word@host", "names no database"),
        ("postgresql://someone:word@/db", "names no host"),
        ("postgresql+asyncpg://someone:word@host/db", "leave out '+asyncpg'"),
        ("postgresql://someone:word@host/db?password=word", "unknown parameter"),
        ("postgresql://someone:wo?word@host/db", "names no database"),
        ("postgresql://someone@host/db#word", "write it as %23"),
        ("postgresql://[host/db", "no url"),
        ("file://keys.yaml", "the path is not absolute"),
        ("file:///", "the path is not absolute"),
        ("file:///etc/keys.yaml?x", "takes no '?'"),
        ("authority+http://api:7070/x", "set keys.authority.dialect"),
        ("authority+http://api:7070", "the url names no path"),
        ("authority+http://word@api:7070/authorize", "keys.authority.headers"),
        ("authority://api:7070/authorize", "say how it is asked"),
        ("redis://x", "unknown kind of store"),
        ("sqlite:keys.db", "unknown kind of store"),
        ("sqlite://keys.db", "the path is not absolute"),
        ("sqlite:///keys.db", "folder is /"),
        ("sqlite:///:memory:", "folder is /"),
        ("sqlite:///a/b?mode=ro", "takes no '?'"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path, store: str, message: str) -> None:
    (fault,) = faults_of(tmp_path, f"keys: {{stores: ['{store}']}}")
    assert fault.path == "keys.stores[0]"
    assert message in fault.message
    assert "word" not in fault.message


@pytest.mark.parametrize("slashes", ["///", "////"])
def test_a_sqlite_store_is_named_with_three_slashes_or_four(tmp_path: Path, slashes: str) -> None:
    config = load_text(tmp_path, f"keys: {{stores: ['sqlite:{slashes}var/lib/k.db']}}").config
    assert config.keys.stores[0].path == Path("/var/lib/k.db")


def test_a_store_is_shown_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://someone:word@db.example:5433/keys?sslmode=verify-full"
    loaded = load_text(tmp_path, f"keys: {{stores: ['{url}', 'file:///etc/keys']}}")
    assert [str(store) for store in loaded.config.keys.stores] == [
        "postgresql://someone@db.example:5433/keys",
        "file:///etc/keys",
    ]
    assert loaded.config.keys.stores[0].url == url
    assert "word" not in repr(loaded) + str(effective(loaded.config))


@pytest.mark.parametrize(
    "text, path, message",
    [
        ("forward: {key: gateway}", "forward.gateway_key", "name the backend's key here"),
        ("auth: {receiver_keys: [aa, bb, aa]}", "auth.receiver_keys[2]", "the same key as"),
        (
            "auth: {receiver_keys: [aa, {name: receiver-1, key: bb}]}",
            "auth.receiver_keys[1].name",
            "the same name as auth.receiver_keys[0]",
        ),
        ("auth: {schemes: [A, a]}", "auth.schemes[1]", "case does not count"),
        ("admin: {tokens: [aa, aa]}", "admin.tokens[1]", "the same token as admin.tokens[0]"),
        (
            "keys: {stores: ['sqlite:///a/b', 'sqlite:////a/b']}",
            "keys.stores[1]",
            "the same store as keys.stores[0]",
        ),
        (
            "listen: [{address: '127.0.0.1:1', proxy_protocol: true}]",
            "listen[0].proxy_protocol",
            "believes nobody while trusted_networks is empty",
        ),
        (
            "backends: {intake: {urls: ['http://r:1'], max_body: {/stsAgent/intake: 1MiB}}}",
            'backends.intake.max_body["/stsAgent/intake"]',
            "/api/v1/series",
        ),
        (
            "admin: {tokens: [aa, {name: token-1, token: bb}]}",
            "admin.tokens[1].name",
            "the same name as admin.tokens[0]",
        ),
        (
            "admin: {address: '127.0.0.1:1', authorize_address: '127.0.0.1:1'}",
            "admin.authorize_address",
            "admin.address",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, text: str, path: str, message: str
) -> None:
    (fault,) = faults_of(tmp_path, text)
    assert fault.path == path
    assert message in fault.message


def _listen(cert_file: Path, key_file: Path, more: str = "") -> str:
    tls = f"{{cert_file: {cert_file}, key_file: {key_file}{more}}}"
    return f"listen: [{{address: '127.0.0.1:1', tls: {tls}}}]"


def test_a_certificate_with_its_key_is_accepted(
    tmp_path: Path, server: Certificate, authority: Authority
) -> None:
    more = f", client_ca_file: {authority.cert_file}, min_version: 1.3"
    tls = load_text(tmp_path, _listen(server.cert_file, server.key_file, more)).config.listen[0].tls
    assert tls is not None
    assert (tls.cert_file, tls.min_version) == (server.cert_file, "1.3")


def test_relative_files_stand_beside_the_configuration(tmp_path: Path, server: Certificate) -> None:
    (tmp_path / "s.crt").write_bytes(server.cert_file.read_bytes())
    (tmp_path / "s.key").write_bytes(server.key_file.read_bytes())
    config = load_text(tmp_path, _listen(Path("s.crt"), Path("s.key"))).config
    assert config.listen[0].tls is not None
    assert config.listen[0].tls.cert_file == tmp_path / "s.crt"


def test_a_key_of_another_certificate_is_refused(
    tmp_path: Path, server: Certificate, authority: Authority
) -> None:
    other = authority.issue("other", ["localhost"])
    (fault,) = faults_of(tmp_path, _listen(server.cert_file, other.key_file))
    assert fault.path == "listen[0].tls.key_file"
    assert "does not belong to the certificate" in fault.message


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path, server: Certificate) -> None:
    key = serialization.load_pem_private_key(server.key_file.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    (fault,) = faults_of(tmp_path, _listen(server.cert_file, locked))
    assert fault.path == "listen[0].tls.key_file"
    assert "has a passphrase" in fault.message


def test_files_that_are_not_there_are_both_named(tmp_path: Path) -> None:
    found = faults_of(tmp_path, _listen(Path("a.crt"), Path("a.key")))
    assert [fault.path for fault in found] == ["listen[0].tls.cert_file", "listen[0].tls.key_file"]
    assert all("cannot be read (no such file or directory)" in fault.message for fault in found)


def test_files_that_hold_something_else_are_both_named(tmp_path: Path, server: Certificate) -> None:
    found = faults_of(tmp_path, _listen(server.key_file, server.cert_file))
    assert [fault.path for fault in found] == ["listen[0].tls.cert_file", "listen[0].tls.key_file"]
    assert "does not hold a certificate in PEM" in found[0].message
    assert "does not hold a private key in PEM" in found[1].message


def test_a_damaged_certificate_is_refused(tmp_path: Path, server: Certificate) -> None:
    damaged = tmp_path / "damaged.crt"
    first, *_, last = server.cert_file.read_text().splitlines()
    damaged.write_text(f"{first}\nMIIB\n{last}\n")
    (fault,) = faults_of(tmp_path, _listen(damaged, server.key_file))
    assert fault.path == "listen[0].tls.cert_file"


def test_an_authority_that_cannot_be_read_is_refused(tmp_path: Path, server: Certificate) -> None:
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    (fault,) = faults_of(
        tmp_path, _listen(server.cert_file, server.key_file, ", client_ca_file: ca.crt")
    )
    assert fault.path == "listen[0].tls.client_ca_file"
    assert "no certificate that can be read" in fault.message


@pytest.mark.parametrize(
    "text, path, message",
    [
        ("listen: [{address: '0.0.0.0:4317'}]", "listen[0].address", "without TLS"),
        ("listen: [{address: ':4317'}]", "listen[0].address", "without TLS"),
        ("admin: {address: '0.0.0.0:8090'}", "admin.address", "tokens cross the network"),
        (
            "backends: {otlp_grpc: {urls: ['http://a:1']}}",
            "forward.key",
            "cannot know the keys in sqlite:///home/someone/.local/state/otlp-gateway/keys.db",
        ),
        ("forward: {gateway_key: abc}", "forward.gateway_key", "has no effect"),
        (
            (
                "backends: {otlp_grpc: {urls: ['https://a:1'], tls: {insecure_skip_verify: true}}}"
                "\nforward: {key: none}"
            ),
            "backends.otlp_grpc.tls.insecure_skip_verify",
            "anybody can pose",
        ),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(
    tmp_path: Path, text: str, path: str, message: str
) -> None:
    (warning,) = load_text(tmp_path, text).warnings
    assert warning.path == path
    assert message in warning.message
    assert warning.line == (None if path == "forward.key" else 1)


def test_nothing_is_warned_of_by_default(tmp_path: Path) -> None:
    assert load_text(tmp_path, "forward: {key: none}").warnings == ()
    assert load_text(tmp_path, "").warnings == ()
