from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.config import effective, worker_settings
from gateway.config.addresses import is_overlap, is_reached_by
from gateway.config.values import split_address
from gateway.settings import SamplingSettings
from tests.support.certs import Authority, Certificate
from tests.unit.config.support import load_text, problems_of


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
    (problem,) = problems_of(tmp_path, f"listen: [{{address: '{address}'}}]")
    assert problem.path == "listen[0].address"


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
    (problem,) = problems_of(tmp_path, key.replace("X", others[key]))
    assert "overlaps" in problem.message
    assert "choose another port or host" in problem.message


@pytest.mark.parametrize(
    "url, message",
    [
        ("collector:4317", "write http://HOST:PORT"),
        ("grpc://collector:4317", "write http://HOST:PORT"),
        ("HTTP:collector", "write http://HOST:PORT"),
        ("http://", "has no host"),
        ("http://a b:1", "has no host"),
        ("http://h:99999", "a port is a number"),
        ("http://h:0", "a port is a number"),
        ("http://[::1", "invalid URL"),
        ("http://user:word@h:1", "must not contain a user or password"),
        ("http://h:1/?x=1", "'?' or '#'"),
        ("http://h:1/#x", "'?' or '#'"),
        ("http://h:1/a/../b", "must be a plain prefix"),
        ("http://h:1//a", "must be a plain prefix"),
        ("http://h:1/%2f", "must be a plain prefix"),
        ("http://127.0.0.1:4317", "the gateway itself (listen[0].address)"),
        ("http://localhost:8090", "the gateway itself (admin.address)"),
    ],
)
def test_a_url_that_cannot_be_a_backend_is_refused(tmp_path: Path, url: str, message: str) -> None:
    (problem,) = problems_of(tmp_path, f"backends: {{otlp_grpc: {{urls: ['{url}']}}}}")
    assert problem.path == "backends.otlp_grpc.urls[0]"
    assert message in problem.message
    assert "word" not in problem.message.replace("password", "")


@pytest.mark.parametrize(
    "body, path, message",
    [
        ("urls: []", "urls", "at least one item"),
        ("urls: ['http://a:1', 'http://a:1/']", "urls[1]", "the same url as backends.x.urls[0]"),
        ("urls: ['http://a:1'], min_connections: 999", "min_connections", "max_connections"),
        ("urls: ['http://a:1'], tls: {}", "tls", "no URL of this backend starts with https://"),
        ("urls: ['http://a:1'], connect_timeout: 0", "connect_timeout", "0 could mean"),
        ("urls: ['http://a:1'], host: 'a b'", "host", "write HOST:PORT"),
        (
            "urls: ['https://a:1'], tls: {cert_file: /x}",
            "tls.key_file",
            "set both cert_file and key_file, or neither",
        ),
        ("urls: ['https://a:1'], tls: {ca_file: /x}", "tls.ca_file", "/x cannot be read"),
    ],
)
def test_a_backend_that_cannot_work_is_refused(
    tmp_path: Path, body: str, path: str, message: str
) -> None:
    (problem,) = problems_of(tmp_path, f"backends: {{otlp_http: {{{body}}}}}")
    assert problem.path == f"backends.otlp_http.{path}"
    assert message.replace("backends.x", "backends.otlp_http") in problem.message


@pytest.mark.parametrize(
    "store, message",
    [
        ("postgresql://someone:word@host", "has no database"),
        ("postgresql://someone:word@/db", "has no host"),
        ("postgresql+asyncpg://someone:word@host/db", "remove '+asyncpg'"),
        ("postgresql://someone:word@host/db?password=word", "unknown parameter"),
        ("postgresql://someone:wo?word@host/db", "has no database"),
        ("postgresql://someone@host/db#word", "write it as %23"),
        ("postgresql://[host/db", "invalid URL"),
        ("postgresql://host:word/db", "invalid port"),
        ("postgresql://a:5432,b:0/db", "invalid port"),
        ("postgresql:///db?host=a&port=5432,word", "invalid port"),
        ("postgresql://host/db?sslmode=word", "valid values are disable, allow, prefer, require"),
        ("postgresql://host/db?sslmode=verify_full", "unknown sslmode"),
        ("postgresql://host/db?sslmode=", "has no value"),
        ("postgresql://host/db?target_session_attrs=word", "valid values are any, primary"),
        ("postgresql://host/db?channel_binding=require", "is not supported"),
        ("postgresql://host/db?channel_binding=word", "valid values are disable, prefer"),
        ("postgresql://host/db?connect_timeout=word", "write whole seconds"),
        ("postgresql://host/db?connect_timeout=0", "write whole seconds"),
        ("postgresql://host/db?sslrootcert=/no/ca.crt", "there is no file /no/ca.crt"),
        ("postgresql://host/db?passfile=/no/pass", "there is no file /no/pass"),
        ("postgresql://host/db?sslcert=ca.crt", "the path is not absolute"),
        ("file://keys.yaml", "the path is not absolute"),
        ("file:///", "the path is not absolute"),
        ("file:///etc/keys.yaml?x", "must not contain '?'"),
        ("authority+http://api:7070/x", "set keys.authority.dialect"),
        ("authority+http://api:7070", "the URL has no path"),
        ("authority+http://word@api:7070/authorize", "keys.authority.headers"),
        ("authority://api:7070/authorize", "the protocol is missing"),
        ("redis://x", "unknown type of store"),
        ("sqlite:keys.db", "unknown type of store"),
        ("sqlite://keys.db", "the path is not absolute"),
        ("sqlite:///keys.db", "must not be directly in /"),
        ("sqlite:///:memory:", "must not be directly in /"),
        ("sqlite:///a/b?mode=ro", "must not contain '?'"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path, store: str, message: str) -> None:
    (problem,) = problems_of(tmp_path, f"keys: {{stores: ['{store}']}}")
    assert problem.path == "keys.stores[0]"
    assert message in problem.message
    assert "word" not in problem.message


@pytest.mark.parametrize("slashes", ["///", "////"])
def test_a_sqlite_store_is_named_with_three_slashes_or_four(tmp_path: Path, slashes: str) -> None:
    config = load_text(tmp_path, f"keys: {{stores: ['sqlite:{slashes}var/lib/k.db']}}").config
    assert config.keys.stores[0].path == Path("/var/lib/k.db")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:5432,b:5433,c/db?target_session_attrs=read-write",
        "postgresql:///db?host=/run/postgresql&port=5432&sslmode=disable",
        "postgresql://h/db?channel_binding=prefer&connect_timeout=3&application_name=eu",
        "postgresql://h/db?options=-c%20search_path%3Dgateway",
        f"postgresql://h/db?sslrootcert={__file__}",
    ],
)
def test_the_parameters_of_libpq_are_valid(tmp_path: Path, url: str) -> None:
    (store,) = load_text(tmp_path, f"keys: {{stores: ['{url}']}}").config.keys.stores
    assert store.url == url


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
        ("forward: {key: gateway}", "forward.gateway_key", "set it to the backend's API key"),
        ("auth: {receiver_keys: [aa, bb, aa]}", "auth.receiver_keys[2]", "the same key as"),
        (
            "auth: {receiver_keys: [aa, {name: receiver-1, key: bb}]}",
            "auth.receiver_keys[1].name",
            "the same name as auth.receiver_keys[0]",
        ),
        ("auth: {schemes: [A, a]}", "auth.schemes[1]", "case-insensitive"),
        ("admin: {tokens: [aa, aa]}", "admin.tokens[1]", "the same token as admin.tokens[0]"),
        (
            "keys: {stores: ['sqlite:///a/b', 'sqlite:////a/b']}",
            "keys.stores[1]",
            "the same store as keys.stores[0]",
        ),
        (
            "listen: [{address: '127.0.0.1:1', proxy_protocol: true}]",
            "listen[0].proxy_protocol",
            "requires trusted_networks, which is empty",
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
    (problem,) = problems_of(tmp_path, text)
    assert problem.path == path
    assert message in problem.message


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
    (problem,) = problems_of(tmp_path, _listen(server.cert_file, other.key_file))
    assert problem.path == "listen[0].tls.key_file"
    assert "does not belong to the certificate" in problem.message


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
    (problem,) = problems_of(tmp_path, _listen(server.cert_file, locked))
    assert problem.path == "listen[0].tls.key_file"
    assert "has a passphrase" in problem.message


def test_files_that_are_not_there_are_both_named(tmp_path: Path) -> None:
    found = problems_of(tmp_path, _listen(Path("a.crt"), Path("a.key")))
    assert [problem.path for problem in found] == [
        "listen[0].tls.cert_file",
        "listen[0].tls.key_file",
    ]
    assert all("cannot be read (no such file or directory)" in problem.message for problem in found)


def test_files_that_hold_something_else_are_both_named(tmp_path: Path, server: Certificate) -> None:
    found = problems_of(tmp_path, _listen(server.key_file, server.cert_file))
    assert [problem.path for problem in found] == [
        "listen[0].tls.cert_file",
        "listen[0].tls.key_file",
    ]
    assert "does not contain a certificate in PEM" in found[0].message
    assert "does not contain a private key in PEM" in found[1].message


def test_a_damaged_certificate_is_refused(tmp_path: Path, server: Certificate) -> None:
    damaged = tmp_path / "damaged.crt"
    first, *_, last = server.cert_file.read_text().splitlines()
    damaged.write_text(f"{first}\nMIIB\n{last}\n")
    (problem,) = problems_of(tmp_path, _listen(damaged, server.key_file))
    assert problem.path == "listen[0].tls.cert_file"


def test_an_authority_that_cannot_be_read_is_refused(tmp_path: Path, server: Certificate) -> None:
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    (problem,) = problems_of(
        tmp_path, _listen(server.cert_file, server.key_file, ", client_ca_file: ca.crt")
    )
    assert problem.path == "listen[0].tls.client_ca_file"
    assert "no readable certificate" in problem.message


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
            "anyone can impersonate",
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


@pytest.mark.parametrize(
    "text, path",
    [
        ("limits: {max_body: 64}", "limits.max_body"),
        (
            "backends: {intake: {urls: ['https://a:1'], max_body: {/support/flare: 9}}}",
            'backends.intake.max_body["/support/flare"]',
        ),
    ],
)
def test_a_body_limit_without_a_unit_is_a_warning(tmp_path: Path, text: str, path: str) -> None:
    found = {warning.path: warning.message for warning in load_text(tmp_path, text).warnings}
    assert "write a unit, such as" in found[path]


@pytest.mark.parametrize(
    "body, path, message",
    [
        ("tenant_label: 'a b'", "tenant_label", "the name of a label cannot be 'a b'"),
        ("tenant_label: ''", "tenant_label", "the name of a label cannot be empty"),
        ("tenant_label: team, max_tenants: 0", "max_tenants", "must be at least 1"),
        ("tenant_label: team, max_tenants: 10001", "max_tenants", "must be at most 10000"),
        ("tenant: team", "tenant", "unknown setting"),
    ],
)
def test_metrics_by_tenant_that_cannot_be_are_refused(
    tmp_path: Path, body: str, path: str, message: str
) -> None:
    (problem,) = problems_of(tmp_path, f"metrics: {{{body}}}")
    assert problem.path == f"metrics.{path}"
    assert message in problem.message


@pytest.mark.parametrize(
    "route, path, message",
    [
        ("label: {team: a}", "", "has no backend"),
        ("otlp_grpc: {urls: ['http://a:1']}", ".label", "is required"),
        ("label: {}, otlp_grpc: {urls: ['http://a:1']}", ".label", "at least one item"),
        ("label: {team: 7}, intake: {urls: ['http://a:1']}", ".label.team", "put it in quotes"),
        ("label: {'-': x}, intake: {urls: ['http://a:1']}", '.label["-"]', "name of a label"),
        ("label: {team: ''}, intake: {urls: ['http://a:1']}", ".label.team", "a label is empty"),
        ("label: {team: a}, otlp_grpc: {urls: []}", ".otlp_grpc.urls", "at least one item"),
        ("label: {team: a}, otlp_grpc: {urls: [x]}", ".otlp_grpc.urls[0]", "http://HOST:PORT"),
        (
            "label: {team: a}, otlp_http: {urls: ['http://127.0.0.1:4318']}",
            ".otlp_http.urls[0]",
            "the gateway itself (listen[1].address)",
        ),
        (
            "label: {team: a}, intake: {urls: ['http://a:1'], path: router}",
            ".intake.path",
            "unknown setting",
        ),
        ("labels: {team: a}, intake: {urls: ['http://a:1']}", ".labels", "did you mean label?"),
    ],
)
def test_a_route_by_label_that_cannot_be_is_refused(
    tmp_path: Path, route: str, path: str, message: str
) -> None:
    problems = problems_of(tmp_path, f"backends: {{routes: [{{{route}}}]}}")
    assert (f"backends.routes[0]{path}", True) in [
        (problem.path, message in problem.message) for problem in problems
    ]


def test_a_route_that_an_earlier_one_hides_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(
        tmp_path,
        "backends: {routes: [{label: {team: a}, intake: {urls: ['http://a:1']}},"
        " {label: {env: x, team: a}, intake: {urls: ['http://b:1']}}]}",
    )
    assert problem.path == "backends.routes[1].label"
    assert "never used" in problem.message
    assert "backends.routes[0]" in problem.message


def test_a_route_without_a_kind_that_others_have_is_warned_of(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        "forward: {key: none}\n"
        "backends: {otlp_grpc: {urls: ['http://a:1']}, otlp_http: {urls: ['http://a:2']},"
        " routes: [{label: {team: a}, otlp_grpc: {urls: ['http://b:1']}}]}",
    )
    (warning,) = loaded.warnings
    assert warning.path == "backends.routes[0]"
    assert "has no otlp_http" in warning.message


@pytest.mark.parametrize(
    "admin, path, message",
    [
        ("tokens: [{token: a-token, role: word}]", "tokens[0].role", "must be reader, key_manager"),
        ("tokens: [{token: t, role: reader, labels: {}}]", "tokens[0].labels", "at least one item"),
        ("tokens: [{token: t, role: reader, labels: }]", "tokens[0].labels", "mapping"),
        ("tokens: [{token: t, labels: {team: a}}]", "tokens[0].role", "key_manager or reader"),
        (
            "tokens: [{token: t, role: reader, labels: {a b: c}}]",
            'tokens[0].labels["a b"]',
            "the name of a label cannot be",
        ),
        (
            "tokens: [{token: t, role: reader, headers: {X-Scope-OrgID: a}}]",
            "tokens[0].headers",
            "requires labels",
        ),
        (
            "tokens: [{token: t, role: reader, labels: {team: a}, headers: {Host: a}}]",
            "tokens[0].headers",
            "cannot be set by a key",
        ),
        ("certificates: [{name: a, san: a.b, role: reader}]", "certificates", "client_ca_file"),
        ("certificates: [{name: a, role: reader}]", "certificates[0].san", "is required"),
        ("certificates: [{name: a, san: a.b}]", "certificates[0].role", "is required"),
        ("certificates: [{name: a, san: '*', role: reader}]", "certificates[0].san", "such as"),
        ("certificates: [{name: a, san: 'a b', role: reader}]", "certificates[0].san", "such as"),
        ("certificates: [{name: a, san: 'CN=a', role: reader}]", "certificates[0].san", "such as"),
    ],
)
def test_a_wrong_role_or_certificate_is_refused(
    tmp_path: Path, admin: str, path: str, message: str
) -> None:
    found = problems_of(tmp_path, f"admin: {{{admin}}}")
    assert [problem.path for problem in found] == [f"admin.{path}"]
    assert message in found[0].message


def test_callers_of_the_admin_api_have_names_of_their_own(
    tmp_path: Path, server: Certificate, authority: Authority
) -> None:
    tls = f"cert_file: {server.cert_file}, key_file: {server.key_file}"
    text = f"""
admin:
  tls: {{{tls}, client_ca_file: {authority.cert_file}}}
  tokens: [{{name: one, token: a-token}}]
  certificates:
    - {{name: one, san: a.example, role: reader}}
    - {{name: two, san: b.example, role: reader}}
    - {{name: two, san: b.example, role: administrator}}
"""
    found = problems_of(tmp_path, text)
    assert {problem.path for problem in found} == {
        "admin.certificates[0].name",
        "admin.certificates[2].name",
        "admin.certificates[2]",
    }


CENTER = "gateway+grpcs://central.example:9443"


@pytest.mark.parametrize(
    "text, path, message",
    [
        ("keys: {stores: ['gateway+grpcs://central']}", "keys.stores[0]", "HOST:PORT"),
        ("keys: {stores: ['gateway+grpcs://:9443']}", "keys.stores[0]", "HOST:PORT"),
        ("keys: {stores: ['gateway+grpcs://c:0']}", "keys.stores[0]", "HOST:PORT"),
        ("keys: {stores: ['gateway+grpcs://c:1/p']}", "keys.stores[0]", "HOST:PORT"),
        ("keys: {stores: ['gateway+grpcs://u@c:1']}", "keys.stores[0]", "keys.feed.token"),
        ("keys: {stores: ['gateway+https://c:1']}", "keys.stores[0]", "gateway+grpcs://HOST:PORT"),
        ("keys: {stores: ['gateway://c:1']}", "keys.stores[0]", "gateway+grpcs://HOST:PORT"),
        (
            "keys: {stores: ['gateway+grpc://c:1'], feed: {tls: {}}}",
            "keys.stores[0]",
            "use gateway+grpcs://",
        ),
        (
            f"keys: {{stores: ['{CENTER}'], feed: {{tls: {{insecure_skip_verify: true}}}}}}",
            "keys.feed.tls.insecure_skip_verify",
            "set ca_file",
        ),
        (
            "admin: {address: '127.0.0.1:1', grpc_address: '127.0.0.1:1'}",
            "admin.grpc_address",
            "overlaps",
        ),
    ],
)
def test_mistakes_in_following_a_gateway_are_explained(
    tmp_path: Path, text: str, path: str, message: str
) -> None:
    problems = [each for each in problems_of(tmp_path, text) if each.path == path]
    assert any(message in each.message for each in problems)


@pytest.mark.parametrize(
    "text, path",
    [
        ("keys: {stores: ['gateway+grpc://central.example:1']}", "keys.stores[0]"),
        ("keys: {feed: {token: abc}}", "keys.feed"),
        ("admin: {grpc_address: ':9443'}", "admin.grpc_address"),
    ],
)
def test_what_is_doubtful_in_following_a_gateway_is_warned_of(
    tmp_path: Path, text: str, path: str
) -> None:
    assert path in [each.path for each in load_text(tmp_path, text).warnings]


def test_a_gateway_on_this_host_may_be_followed_in_cleartext(tmp_path: Path) -> None:
    text = "keys: {stores: ['gateway+grpc://127.0.0.1:9443'], feed: {token: abc}}"
    assert not [each for each in load_text(tmp_path, text).warnings if each.path.startswith("keys")]


@pytest.mark.parametrize(
    "more, is_warned",
    [
        ("", True),
        ("keys: {stores: ['postgresql://db/keys']}", False),
        ("keys: {stores: ['gateway+grpc://127.0.0.1:9443']}", False),
        ("admin: {grpc_address: '127.0.0.1:9443'}", False),
    ],
)
def test_limits_of_a_fleet_without_a_shared_store_are_warned_of(
    tmp_path: Path, more: str, is_warned: bool
) -> None:
    loaded = load_text(tmp_path, f"limits: {{scope: fleet}}\n{more}\n")
    assert ("limits.scope" in [each.path for each in loaded.warnings]) is is_warned


def test_workers_share_the_samples(tmp_path: Path) -> None:
    config = load_text(tmp_path, "usage: {sample: true, samples: 20/s}").config

    assert worker_settings(config, 0, 4, [], -1, 1).sampling == SamplingSettings(5.0, 0.25, 4)
    off = load_text(tmp_path, "usage: {samples: 20/s}").config
    assert worker_settings(off, 0, 4, [], -1, 1).sampling is None


@pytest.mark.parametrize("text", ["days: 0", "days: 4000", "samples: 0", "samples: 101/s"])
def test_usage_is_kept_and_sampled_within_bounds(tmp_path: Path, text: str) -> None:
    (problem,) = problems_of(tmp_path, f"usage: {{{text}}}")

    assert problem.path == f"usage.{text.partition(':')[0]}"
