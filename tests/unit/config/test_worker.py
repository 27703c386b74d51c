from __future__ import annotations

from pathlib import Path

import msgspec

from gateway import settings
from gateway.config import worker_settings
from tests.support.certs import Authority
from tests.unit.config.support import load_text


def test_a_worker_gets_everything_in_bytes_seconds_and_descriptors(tmp_path: Path) -> None:
    server = Authority.create(tmp_path).issue("server", ["localhost"])
    text = f"""\
listen:
  - address: localhost:4317
  - {{address: "0.0.0.0:443", tls: {{cert_file: {server.cert_file}, key_file: {server.key_file}}}}}
backends:
  otlp_grpc:
    urls: ["https://one/pre/fix/", "http://[::1]:99"]
    tls: {{server_name: x}}
    connect_timeout: 250ms
    host: other:1
  otlp_http: {{urls: ["http://two"]}}
forward: {{key: gateway, gateway_key: abc, scheme: Bearer, identity_headers: true,
  sender_address: true, drop_headers: [X-Tenant]}}
auth: {{schemes: [A, B]}}
limits:
  max_body: 1kB
  min_upload_rate: 2kB/s
  per_key: {{requests: 10/s, bytes: 1MiB, concurrent: 3}}
  quota_status: 503
trusted_networks: [10.0.0.0/8]
log: {{level: debug}}
"""
    config = load_text(tmp_path, text).config
    worker = worker_settings(config, 1, 2, [(0, 7), (0, 8), (1, 9)], 5, 100, log_format="console")
    assert (worker.index, worker.workers, worker.counts_fd) == (1, 2, 5)
    assert [(each.fd, each.address) for each in worker.listeners] == [
        (7, "localhost:4317"),
        (8, "localhost:4317"),
        (9, "0.0.0.0:443"),
    ]
    assert worker.listeners[0].tls is None
    assert worker.listeners[2].tls == settings.TlsServerSettings(
        cert_file=str(server.cert_file), key_file=str(server.key_file)
    )
    grpc, http = worker.backends
    assert grpc.targets == (
        settings.Target(host="one", port=443, tls=True, prefix="/pre/fix"),
        settings.Target(host="::1", port=99),
    )
    assert (grpc.tls, grpc.connect_timeout_s, grpc.host) == (
        settings.TlsClientSettings(server_name="x"),
        0.25,
        "other:1",
    )
    assert (http.name, http.targets, http.tls) == (
        "otlp_http",
        (settings.Target(host="two", port=80),),
        None,
    )
    assert worker.forward == settings.ForwardSettings(
        "gateway",
        "abc",
        "Bearer",
        identity_headers=True,
        sender_address=True,
        drop_headers=("X-Tenant",),
    )
    assert worker.schemes == ("A", "B")
    assert worker.limits.max_body_bytes == 1000
    assert worker.limits.max_connections == 100
    assert worker.limits.min_upload_rate == 2000
    assert worker.limits.per_key == settings.PerKeyLimits(
        requests=10.0, bytes=1_048_576.0, concurrent=3, workers=2
    )
    assert worker.limits.quota_status == 503
    assert worker.trusted_networks == ("10.0.0.0/8",)
    assert (worker.log_level, worker.log_format) == ("debug", "console")


def test_a_backend_over_tls_is_verified_although_nothing_is_said_about_it(tmp_path: Path) -> None:
    config = load_text(tmp_path, "backends: {otlp_http: {urls: ['https://a']}}").config
    (backend,) = worker_settings(config, 0, 1, [], 3, 1).backends
    assert backend.tls == settings.TlsClientSettings()


def test_what_a_worker_gets_travels_over_the_channel(tmp_path: Path) -> None:
    config = load_text(tmp_path, "backends: {otlp_http: {urls: ['https://a']}}").config
    worker = worker_settings(config, 0, 1, [(0, 4)], 3, 1)
    encoded = msgspec.msgpack.encode(worker)
    assert msgspec.msgpack.decode(encoded, type=settings.WorkerSettings) == worker
