"""The text to paste: two complete Collector configurations, an agent's environment, Prometheus'
remote_write, curl, `gateway send`.

Only the start that created the API key prints it; later the text refers to the environment variable
GATEWAY_KEY.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.demo.layout import DemoLayout
from gateway.demo.ports import HOST
from gateway.intake import REMOTE_WRITE
from gateway.model import Signal
from gateway.otlp import json_codec
from gateway.otlp.services import SERVICE_NAME, SERVICES

KEY_VARIABLE: Final = "GATEWAY_KEY"
SCHEME: Final = "StackState"
TLS_FILE, CLEARTEXT_FILE = "collector-tls.yaml", "collector-cleartext.yaml"

REMOTE_WRITE_FILE, AGENT_FILE = "prometheus.yaml", "agent.env"
_AGENT_BASE: Final = "/receiver/stsAgent"
_AGENT: Final = """\
STS_STS_URL={url}
STS_PROCESS_AGENT_URL={url}
STS_API_KEY={key}
"""
_REMOTE_WRITE: Final = """\
remote_write:
  - url: {url}
    basic_auth:
      username: apikey
      password: {key}
"""

_PIPELINES: Final = """\
service:{extensions}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlp/stackstate]}}
    metrics: {{receivers: [otlp], exporters: [otlp/stackstate]}}
    logs: {{receivers: [otlp], exporters: [otlp/stackstate]}}
  telemetry:
    metrics: {{level: none}}
"""
_RECEIVERS: Final = """\
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "{host}:{grpc}"}}
      http: {{endpoint: "{host}:{http}"}}
"""
_TLS_PARTS: Final = """\
extensions:
  bearertokenauth:
    scheme: {scheme}
    token: {token}
"""
_TLS_EXPORTER: Final = """\
exporters:
  otlp/stackstate:
    auth: {{authenticator: bearertokenauth}}
    endpoint: "{host}:{port}"
    tls: {{ca_file: {ca_file}}}
"""
_CLEARTEXT_EXPORTER: Final = """\
exporters:
  otlp/stackstate:
    headers:
      Authorization: {authorization}
    endpoint: "{host}:{port}"
    tls: {{insecure: true}}
"""


@dataclass(frozen=True, slots=True)
class Snippets:
    """Text to paste for one run. `key` is None if it cannot be shown any more.

    `command` is how to call this program: `gateway`, or its path.
    """

    layout: DemoLayout
    key: str | None
    command: str = "gateway"

    @property
    def collector_tls(self) -> str:
        """Return a Collector configuration over TLS, as in StackState's documentation."""
        return "".join(
            (
                _TLS_PARTS.format(scheme=SCHEME, token=_yaml(self._collector_key)),
                self._receivers(0),
                _TLS_EXPORTER.format(
                    host=HOST,
                    port=self.layout.ports.tls,
                    ca_file=_yaml(_collector_text(str(self.layout.certificates.ca_file))),
                ),
                _PIPELINES.format(extensions="\n  extensions: [bearertokenauth]"),
            )
        )

    @property
    def collector_cleartext(self) -> str:
        """Return a Collector configuration with `headers:`, for connections without TLS.

        `bearertokenauth` does not work there: Go's gRPC sends no token in cleartext.
        """
        return "".join(
            (
                self._receivers(2),
                _CLEARTEXT_EXPORTER.format(
                    host=HOST,
                    port=self.layout.ports.grpc,
                    authorization=_yaml(f"{SCHEME} {self._collector_key}"),
                ),
                _PIPELINES.format(extensions=""),
            )
        )

    @property
    def _collector_key(self) -> str:
        return self.key or f"${{env:{KEY_VARIABLE}}}"

    def _receivers(self, first: int) -> str:
        grpc, http = self.layout.ports.collectors[first : first + 2]
        return _RECEIVERS.format(host=HOST, grpc=grpc, http=http)

    def curl(self, now_ns: int) -> str:
        """Return a curl command that sends one span as JSON.

        Args:
            now_ns: Unix time in nanoseconds, for the span.
        """
        words: Sequence[str] = (
            "curl -i",
            f"-H {self._shell_header()}",
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(json_codec.encode(_one_span(now_ns)).decode())}",
            f"http://{HOST}:{self.layout.ports.http}{SERVICES[Signal.TRACES].http_path}",
        )
        return " ".join(words)

    def _shell_header(self) -> str:
        if self.key is None:
            return f'"Authorization: {SCHEME} ${KEY_VARIABLE}"'
        return shlex.quote(f"Authorization: {SCHEME} {self.key}")

    @property
    def agent(self) -> str:
        """Return the environment of a StackState agent."""
        key = self.key if self.key is not None else f"${KEY_VARIABLE}"
        return _AGENT.format(url=self._http_url(_AGENT_BASE), key=key)

    @property
    def remote_write(self) -> str:
        """Return the `remote_write` block for Prometheus.

        Prometheus does not support variables: without the key, the text contains a placeholder.
        """
        key = self.key if self.key is not None else f"(the key in ${KEY_VARIABLE})"
        return _REMOTE_WRITE.format(url=_yaml(self._http_url(REMOTE_WRITE.path)), key=_yaml(key))

    def _http_url(self, path: str) -> str:
        return f"http://{HOST}:{self.layout.ports.http}{path}"

    @property
    def send(self) -> str:
        """Return a `gateway send` command that sends all signals over TLS."""
        key = f"{KEY_VARIABLE}={shlex.quote(self.key)} " if self.key is not None else ""
        ca_file = shlex.quote(str(self.layout.certificates.ca_file))
        return (
            f"{key}{self.command} send --endpoint https://{HOST}:{self.layout.ports.tls}"
            f" --ca-file {ca_file} --signal all"
        )

    @property
    def new_key(self) -> str:
        """Return the command that creates another key in this demo's store."""
        return (
            f"{self.command} keys create --name NAME --data {shlex.quote(str(self.layout.folder))}"
        )


def marked(name: str, yaml_text: str) -> str:
    """Put a snippet between begin and end lines, which are YAML comments."""
    return f"# ----- begin {name} -----\n{yaml_text}# ----- end {name} -----"


def _yaml(text: str) -> str:
    """Quote a scalar: JSON's strings are YAML's double-quoted ones."""
    return json.dumps(text)


def _collector_text(text: str) -> str:
    """Escape `$`, which a Collector would read as a reference to a variable."""
    return text.replace("$", "$$")


def _one_span(now_ns: int) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key=SERVICE_NAME).value.string_value = "curl"
    resource.scope_spans.add().spans.add(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name="hello from curl",
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=now_ns - 1_000_000,
        end_time_unix_nano=now_ns,
    )
    return request
