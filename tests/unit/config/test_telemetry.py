"""The settings of the gateway's own telemetry."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import telemetry_checks, worker_settings
from gateway.config.tree import Config
from tests.unit.config.support import load_text, problems_of

COLLECTOR = "telemetry: {endpoint: 'http://collector.example:4317'}"


def _settings(config: Config, workers: int) -> object:
    return worker_settings(config, 0, workers, [], 3, 10).telemetry


def test_off_unless_an_endpoint_is_set(tmp_path: Path) -> None:
    assert _settings(load_text(tmp_path, "{}").config, 1) is None


def test_what_a_second_may_bring_is_divided_among_workers(tmp_path: Path) -> None:
    text = COLLECTOR.replace("}", ", sample_ratio: 5%, max_requests_per_second: 9, logs: false}")
    settings = worker_settings(load_text(tmp_path, text).config, 0, 4, [], 3, 10).telemetry
    assert settings is not None
    assert (settings.sample_ratio, settings.requests_per_second, settings.logs) == (0.05, 3, False)


@pytest.mark.parametrize(
    "members, path, words",
    [
        ("endpoint: 'http://localhost:4318'", "telemetry.endpoint", "the gateway itself"),
        ("endpoint: 'http://127.0.0.1:8090'", "telemetry.endpoint", "the gateway itself"),
        ("endpoint: 'http://c:1/otlp'", "telemetry.endpoint", "has a path"),
        ("endpoint: 'c:4317'", "telemetry.endpoint", "http://HOST:PORT"),
        ("endpoint: 'http://c:1', sample_ratio: 2", "telemetry.sample_ratio", "1"),
        ("endpoint: 'http://c:1', sample_ratio: x%", "telemetry.sample_ratio", "number"),
        ("endpoint: 'http://c:1', protocol: json", "telemetry.protocol", "grpc"),
        ('endpoint: "http://c:1", headers: {a: "b\\nc"}', "telemetry.headers.a", "printable"),
        ("endpoint: 'http://c:1', tls: {}", "telemetry.tls", "https://"),
        ("endpoint: 'https://c:1', tls: {ca_file: no.crt}", "telemetry.tls.ca_file", "no.crt"),
        ("endpoint: 'https://c:1', tls: {key_file: k}", "telemetry.tls.cert_file", "missing"),
    ],
)
def test_what_cannot_work_is_an_error_that_says_why(
    tmp_path: Path, members: str, path: str, words: str
) -> None:
    (problem,) = problems_of(tmp_path, f"telemetry: {{{members}}}")
    assert path in str(problem)
    assert words in str(problem)


def test_without_its_libraries_the_error_says_how_to_add_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = ("opentelemetry.no_such_package",)
    monkeypatch.setattr(telemetry_checks, "_LIBRARIES", libraries)
    (problem,) = problems_of(tmp_path, COLLECTOR)
    assert "pip install 'otlp-gateway[telemetry]'" in str(problem)


@pytest.mark.parametrize(
    "members, words",
    [
        ("endpoint: 'http://c:4318'", "usually that of http/protobuf"),
        ("endpoint: 'http://c:4317', protocol: http/protobuf", "usually that of grpc"),
        ("sample_ratio: 0.5", "has no effect"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path, members: str, words: str) -> None:
    warnings = load_text(tmp_path, f"telemetry: {{{members}}}").warnings
    assert any(words in str(warning) for warning in warnings)


def test_a_header_is_never_shown(tmp_path: Path) -> None:
    text = COLLECTOR.replace("}", ", headers: {Authorization: StackState secret-canary}}")
    config = load_text(tmp_path, text).config
    assert "secret-canary" not in repr(config)
