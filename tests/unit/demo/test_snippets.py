from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.demo.banner import banner
from gateway.demo.layout import DemoLayout
from gateway.demo.snippets import Snippets, marked
from gateway.otlp import json_codec
from gateway.otlp.services import item_count, service_names

KEY = "iapikey-canary0123456789"
NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture(name="shown")
def _shown(layout: DemoLayout) -> Snippets:
    return Snippets(layout, KEY)


@pytest.fixture(name="later")
def _later(layout: DemoLayout) -> Snippets:
    return Snippets(layout, None)


def _collector(text: str) -> dict[str, Any]:
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def test_the_tls_snippet_is_the_documentations_exporter(
    shown: Snippets, layout: DemoLayout
) -> None:
    config = _collector(shown.collector_tls)
    assert config["extensions"] == {"bearertokenauth": {"scheme": "StackState", "token": KEY}}
    exporter = config["exporters"]["otlp/stackstate"]
    assert exporter["auth"] == {"authenticator": "bearertokenauth"}
    assert exporter["endpoint"] == "127.0.0.1:4443"
    # A Collector reads `$$` as `$`.
    ca_file = exporter["tls"]["ca_file"].replace("$$", "$")
    assert ca_file == str(layout.certificates.ca_file)
    assert config["service"]["extensions"] == ["bearertokenauth"]


def test_the_cleartext_snippet_sends_the_key_as_a_header(shown: Snippets) -> None:
    config = _collector(shown.collector_cleartext)
    exporter = config["exporters"]["otlp/stackstate"]
    assert exporter["headers"] == {"Authorization": f"StackState {KEY}"}
    assert exporter["endpoint"] == "127.0.0.1:4317"
    assert exporter["tls"] == {"insecure": True}
    assert "extensions" not in config


def test_both_snippets_are_whole_and_can_run_side_by_side(shown: Snippets) -> None:
    endpoints = []
    for text in (shown.collector_tls, shown.collector_cleartext):
        config = _collector(text)
        protocols = config["receivers"]["otlp"]["protocols"]
        endpoints += [protocol["endpoint"] for protocol in protocols.values()]
        for pipeline in config["service"]["pipelines"].values():
            assert pipeline == {"receivers": ["otlp"], "exporters": ["otlp/stackstate"]}
        assert set(config["service"]["pipelines"]) == {"traces", "metrics", "logs"}
    assert len(set(endpoints)) == 4


def test_without_the_key_everything_refers_to_the_environment(later: Snippets) -> None:
    tls, cleartext = _collector(later.collector_tls), _collector(later.collector_cleartext)
    assert tls["extensions"]["bearertokenauth"]["token"] == "${env:GATEWAY_KEY}"
    headers = cleartext["exporters"]["otlp/stackstate"]["headers"]
    assert headers == {"Authorization": "StackState ${env:GATEWAY_KEY}"}
    assert '"Authorization: StackState $GATEWAY_KEY"' in later.curl(NOW_NS)
    assert "GATEWAY_KEY" not in later.send


def test_the_agents_environment_has_its_variables(shown: Snippets, later: Snippets) -> None:
    lines = dict(line.split("=", 1) for line in shown.agent.splitlines())
    assert lines["STS_STS_URL"] == "http://127.0.0.1:4318/receiver/stsAgent"
    assert lines["STS_PROCESS_AGENT_URL"] == lines["STS_STS_URL"]
    assert lines["STS_API_KEY"] == KEY
    assert "STS_API_KEY=$GATEWAY_KEY" in later.agent


def test_the_remote_write_block_is_prometheus_own(shown: Snippets, later: Snippets) -> None:
    (block,) = _collector(shown.remote_write)["remote_write"]
    assert block == {
        "url": "http://127.0.0.1:4318/receiver/prometheus/api/v1/write",
        "basic_auth": {"username": "apikey", "password": KEY},
    }
    assert KEY not in later.remote_write


def test_the_curl_line_is_one_command_with_a_valid_body(shown: Snippets) -> None:
    line = shown.curl(NOW_NS)
    assert "\n" not in line
    words = shlex.split(line)
    assert words[0] == "curl"
    assert f"Authorization: StackState {KEY}" in words
    assert "Content-Type: application/json" in words
    assert words[-1] == "http://127.0.0.1:4318/v1/traces"
    body = words[words.index("-d") + 1]
    request = json_codec.decode(ExportTraceServiceRequest, body.encode())
    assert (item_count(request), service_names(request)) == (1, ("curl",))
    span = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert span["endTimeUnixNano"] == str(NOW_NS)


def test_the_send_line_passes_the_key_by_the_environment(
    shown: Snippets, layout: DemoLayout
) -> None:
    assignment, *words = shlex.split(shown.send)
    assert assignment == f"GATEWAY_KEY={KEY}"
    assert words[:2] == ["gateway", "send"]
    assert words[words.index("--ca-file") + 1] == str(layout.certificates.ca_file)
    assert words[words.index("--endpoint") + 1] == "https://127.0.0.1:4443"


def test_the_line_for_another_key_names_this_demos_store(
    later: Snippets, layout: DemoLayout
) -> None:
    words = shlex.split(later.new_key)
    assert words[:3] == ["gateway", "keys", "create"]
    assert words[words.index("--data") + 1] == str(layout.folder)


def test_marks_around_a_snippet_are_comments(shown: Snippets) -> None:
    text = marked("collector-tls.yaml", shown.collector_tls)
    first, *_, last = text.splitlines()
    assert first == "# ----- begin collector-tls.yaml -----"
    assert last == "# ----- end collector-tls.yaml -----"
    assert _collector(text) == _collector(shown.collector_tls)


def test_the_banner_shows_the_key_on_the_first_start(shown: Snippets) -> None:
    text = banner(shown, NOW_NS, is_fancy=False)
    assert f"[SUCCESS] Ingestion API Key generated: {KEY}\n" in text
    assert "shown only once" in text
    assert "http://127.0.0.1:8090" in text
    assert "\x1b" not in text


def test_the_banner_of_a_later_start_says_how_to_go_on(later: Snippets) -> None:
    text = banner(later, NOW_NS, is_fancy=False)
    assert "iapikey-" not in text
    assert "cannot be shown again" in text
    assert "export GATEWAY_KEY=" in text
    assert later.new_key in text


def test_a_terminals_banner_has_emphasis_but_not_within_what_is_pasted(shown: Snippets) -> None:
    text = banner(shown, NOW_NS, is_fancy=True)
    assert f"✅ Ingestion API Key generated: {KEY}" in text
    assert "\x1b[1m" in text
    inside = text[text.index("# ----- begin") : text.index("# ----- end")]
    assert "\x1b" not in inside
