"""The schema for editors: it takes what the loader takes, and knows every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml

from gateway.config import ConfigError, load
from gateway.config.schema import SHORT, config_schema, meanings
from tests.unit.config.support import HOME, load_text
from tools import meanings as source

PROJECT: Final = Path(__file__).parents[3]
SCHEMA: Final = config_schema()
VALIDATOR: Final = jsonschema_rs.Draft7Validator(SCHEMA)

SEPARATE: Final = """
listen:
  - {address: "[::]:4317", tls: null, proxy_protocol: "${env:PROXY:-false}"}
  - address: ":4443"
trusted_networks: [10.0.0.0/8]
backends:
  otlp_grpc:
    urls: ["http://a:1", "${env:URL:-http://b:2}"]
    connect_timeout: 250ms
    max_connections: ${env:MOST:-7}
  otlp_http:
  intake:
    urls: [http://c:3]
    no_answer: 503
    hold_timeout: 0
    max_body: {/support/flare: 1GiB, /api/v1/series: "${env:SIZE:-5MiB}"}
auth:
  receiver_keys: [a-key, {key: another}, {name: third, key: "${env:KEY:-third-key}"}]
keys:
  stores: ["file:///etc/keys.yaml", "${env:STORE:-postgresql://a@b/c}"]
  cache: {ttl: 1h30m}
limits:
  max_body: 1024
  max_connections_per_address: 0
  min_upload_rate: 1KiB/s
  quota_status: "503"
  per_key: {requests: 1000/m, bytes: 1MB, concurrent: 5}
  drain_delay: "0"
cors: {allowed_origins: ["*"], max_age: 1d}
admin: {tokens: [a-token, {name: n, token: t}], hosts: ["*.example.com"]}
workers: auto
log: {level: debug}
"""


def _examples() -> dict[str, str]:
    """Collect every configuration that we ship or show as a whole."""
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    found = {
        f"docs {n}": t for n, t in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    }
    for file in (
        PROJECT / "deploy" / "gateway.yaml",
        *sorted((PROJECT / "gateway" / "cli" / "cases").glob("*.yaml")),
    ):
        found[file.stem] = file.read_text(encoding="utf-8")
    return found | {"separate": SEPARATE, "empty": "{}"}


def test_the_schema_is_one() -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMA)


@pytest.mark.parametrize("name", _examples())
def test_a_configuration_that_loads_is_accepted(tmp_path: Path, name: str) -> None:
    text = _examples()[name]
    load_text(tmp_path, text, environ=HOME | {"BACKEND_API_KEY": "a", "RECEIVER_API_KEY": "b"})
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text) or {})] == []


@pytest.mark.parametrize(
    "text",
    [
        "listn: []",
        "listen: [{adress: ':1'}]",
        "listen: [{address: 4317}]",
        "listen: [{tls: {cert_file: a, key_file: b}}]",
        "backends: {otlp_grpc: {}}",
        "backends: {otlp_grpc: {urls: []}}",
        "backends: {intake: {urls: ['http://a:1'], no_answer: 404}}",
        "limits: {max_body: 64Mi}",
        "limits: {max_body: -1}",
        "limits: {idle_timeout: 5}",
        "limits: {idle_timeout: 5 s}",
        "limits: {quota_status: 404}",
        "limits: {per_key: {requests: 5/d}}",
        "limits: {per_key: {concurrent: -1}}",
        "forward: {key: clinet}",
        "forward: {identity_headers: maybe}",
        "keys: {stores: ['mysql://a/b']}",
        "keys: {stores: sqlite:///a/b}",
        "auth: {receiver_keys: [{name: no-key}]}",
        "workers: many",
        "log: {level: loud}",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses(tmp_path: Path, text: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file, (), HOME)


def _leaves(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, inner in schema.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        entry = inner.get("items", {})
        entry = entry["anyOf"][1] if place in SHORT else entry
        found[place] = inner
        found |= _leaves(inner, place) | _leaves(entry, f"{place}[]")
    return found


def test_every_setting_says_what_it_means() -> None:
    silent = [place for place, inner in _leaves(SCHEMA).items() if not inner.get("description")]
    assert silent == []


def test_the_meanings_are_those_of_the_reference_page() -> None:
    assert source.TARGET.read_text(encoding="utf-8") == source.text(), (
        "run .venv/bin/python tools/meanings.py"
    )


def test_every_meaning_is_shown_somewhere() -> None:
    shown = {inner.get("description") for inner in _leaves(SCHEMA).values()}
    assert set(meanings().values()) - shown == set()


def test_defaults_are_written_as_in_the_file() -> None:
    leaves = _leaves(SCHEMA)
    assert leaves["limits.max_body"]["default"] == "64MiB"
    assert leaves["limits.idle_timeout"]["default"] == "620s"
    assert leaves["backends.otlp_grpc.connect_timeout"]["default"] == "2s"
    assert leaves["workers"]["default"] == "auto"


def _enums(schema: object) -> Iterator[list[object]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("enum"), list):
            yield schema["enum"]
        for inner in schema.values():
            yield from _enums(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _enums(inner)


def test_no_choice_stands_there_twice() -> None:
    """Editors refuse the whole schema otherwise."""
    enums = list(_enums(SCHEMA))
    assert enums
    assert all(len(set(map(repr, enum))) == len(enum) for enum in enums)


def test_no_text_has_markdown_in_it() -> None:
    assert [text for text in meanings().values() if re.search(r"`|\]\(|\\\|", text)] == []
