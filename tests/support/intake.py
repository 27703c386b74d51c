"""The agents as the wire contract describes them: one request of each sender, with its real body.

Bodies are built as the senders build them: zlib streams named "deflate", gzip level 9, the process
agent's 16-byte message header before zstd, snappy blocks without a Content-Encoding, multipart.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import cramjam

from tests.support.plane import KEY

Fields = tuple[tuple[str, str], ...]

TOPOLOGY: Final = json.dumps(
    {
        "collection_timestamp": 1_700_000_000,
        "internalHostname": "node-1",
        "apiKey": "your api key",
        "topologies": [
            {
                "start_snapshot": False,
                "instance": {"type": "agent", "url": "integrations"},
                "components": [{"externalId": f"urn:host:/{n}"} for n in range(20)],
                "relations": [],
            }
        ],
    }
).encode()
SERIES: Final = json.dumps(
    {"series": [{"metric": f"system.load.{n}", "points": [[1_700_000_000, n]]} for n in range(30)]}
).encode()
PROTOBUF: Final = b"\x0a\x10" + bytes(range(16)) * 200


def deflated(data: bytes) -> bytes:
    """Compress as the main forwarder does: a zlib stream (RFC 1950), which it calls deflate."""
    return zlib.compress(data)


def gzipped(data: bytes) -> bytes:
    """Compress as the transactional forwarder does."""
    return gzip.compress(data, 9, mtime=0)


def process_message(data: bytes, kind: int) -> bytes:
    """Frame as the process agent does: version 3, encoding 2 (zstd with protobuf), type, ids, time
    (`MessageHeader` of the agent payload).
    """
    header = struct.pack(">BBBBiq", 3, 2, kind, 0, 0, 1_700_000_000)
    return header + bytes(cramjam.zstd.compress(data))


def snappy_block(data: bytes) -> bytes:
    """Compress as Promtail and Prometheus do: one snappy block."""
    return bytes(cramjam.snappy.compress_raw(data))


def basic(key: str) -> str:
    """Write HTTP Basic with the user `apikey`."""
    return "Basic " + base64.b64encode(f"apikey:{key}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of one sender."""

    name: str
    route: str
    sender: str
    path: str
    """Path and query as the sender writes them, below its base url where it has one."""
    body: bytes
    fields: Fields
    method: str = "POST"
    base: str = "/receiver/stsAgent"
    is_chunked: bool = False

    @property
    def target(self) -> str:
        """The request target."""
        return self.base + self.path

    @property
    def bare(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


_FLARE_MARK: Final = "5e9b3d"
_FLARE: Final = (
    (
        f"--{_FLARE_MARK}\r\n"
        'Content-Disposition: form-data; name="flare_file"; filename="a.zip"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    + b"PK\x03\x04"
    + bytes(4000)
    + f"\r\n--{_FLARE_MARK}--\r\n".encode()
)

AGENT_HEADERS: Final = (
    ("User-Agent", "stackstate-agent/3.51.0"),
    ("sts-agent-version", "3.51.0"),
    ("X-DD-Agent-Attempts", "1"),
    ("X-DD-Agent-Timestamp", "1700000000"),
    ("Allow-Arbitrary-Tag-Value", "true"),
)
_JSON: Final = ("Content-Type", "application/json")
_PROTO: Final = ("Content-Type", "application/x-protobuf")
_KEY: Final = ("sts-api-key", KEY)
_PROCESS: Final = (
    ("sts-hostname", "node-1"),
    ("sts-processagentversion", "2.19.1"),
    ("X-Dd-Hostname", "node-1"),
    ("X-Dd-ContainerCount", "17"),
    ("content-encoding", "x-zip"),
    _KEY,
)
_Q: Final = f"?api_key={KEY}"

SENT: Final = (
    Sent(
        "main forwarder v2, intake", "intake", "agent", "/intake/" + _Q, deflated(TOPOLOGY),
        (*AGENT_HEADERS, _JSON, ("Content-Encoding", "deflate"), _KEY),
    ),
    Sent(
        "main forwarder v3, intake", "intake", "agent", "/intake/", deflated(TOPOLOGY),
        (*AGENT_HEADERS, _JSON, ("Content-Encoding", "deflate"), _KEY),
    ),
    Sent(
        "main forwarder v2, metrics", "series", "agent", "/api/v1/series" + _Q, deflated(SERIES),
        (*AGENT_HEADERS, _JSON, ("Content-Encoding", "deflate"), _KEY),
    ),
    Sent(
        "main forwarder, checks", "checks", "agent", "/api/v1/check_run", deflated(b"[]"),
        (*AGENT_HEADERS, _JSON, ("Content-Encoding", "deflate"), _KEY),
    ),
    Sent(
        "main forwarder, v2 series", "api_v2", "agent", "/api/v2/series", deflated(PROTOBUF),
        (_PROTO, ("DD-Agent-Payload", "5.0.97"), ("Content-Encoding", "deflate"), _KEY),
    ),
    Sent(
        "unbranded agent", "sketches", "agent", "/api/beta/sketches", deflated(PROTOBUF),
        (_PROTO, ("DD-Agent-Version", "7.51.1"), ("DD-Api-Key", KEY)),
    ),
    Sent(
        "transactional forwarder", "intake", "transactional", "/intake" + _Q, gzipped(TOPOLOGY),
        (("User-Agent", "Go-http-client/1.1"), _JSON, ("Content-Encoding", "gzip"), _KEY),
    ),
    Sent(
        "transactional forwarder, identity", "intake", "transactional", "/intake" + _Q, TOPOLOGY,
        (_JSON, _KEY),
    ),
    Sent(
        "features", "features", "agent", "/features" + _Q, b"",
        (("content-type", "application/json"), _KEY), method="GET",
    ),
    Sent(
        "process agent, connections", "connections", "process_agent", "/api/v1/connections",
        process_message(PROTOBUF, 22), _PROCESS,
    ),
    Sent(
        "process agent, processes", "processes", "process_agent", "/api/v1/collector",
        process_message(PROTOBUF, 12), _PROCESS,
    ),
    Sent(
        "RBAC agent, scope", "rbac", "rbac_agent", "/rbac/scope", b'{"scopes":[]}',
        (_JSON, ("Accept", "application/json"), ("Authorization", f"ApiKey {KEY}")),
    ),
    Sent(
        "RBAC agent, instance", "rbac", "rbac_agent", "/rbac/instance", b'{"instances":[]}',
        (_JSON, ("Accept", "application/json"), ("Authorization", f"ApiKey {KEY}")),
    ),
    Sent(
        "Promtail", "logs", "logs_agent", "/logs/k8s", snappy_block(PROTOBUF),
        (_PROTO, ("User-Agent", "promtail/2.9.4"), _KEY),
    ),
    Sent(
        "OpenShift logging", "logs", "openshift_logging", "/logs/openshift/loki/api/v1/push",
        snappy_block(PROTOBUF),
        (_PROTO, ("X-Scope-OrgID", "application"), ("Authorization", basic(KEY))),
    ),
    Sent(
        "trace agent, traces", "traces", "trace_agent", "/api/v0.2/traces", gzipped(PROTOBUF),
        (
            _PROTO, ("Content-Encoding", "gzip"), ("X-Datadog-Reported-Languages", "go|java"),
            ("X-Stackstate-Reported-Languages", "go|java"), _KEY,
        ),
    ),
    Sent(
        "trace agent, stats", "traces", "trace_agent", "/api/v0.2/stats", gzipped(b"\x81\xa1a"),
        (("Content-Type", "application/msgpack"), ("Content-Encoding", "gzip"), _KEY),
    ),
    Sent(
        "Prometheus, header", "remote_write", "prometheus", "/prometheus/api/v1/write",
        snappy_block(PROTOBUF),
        (
            _PROTO, ("Content-Encoding", "snappy"), ("User-Agent", "Prometheus/2.42.0"),
            ("X-Prometheus-Remote-Write-Version", "0.1.0"), _KEY,
        ),
        base="/receiver",
    ),
    Sent(
        "Prometheus, Basic", "remote_write", "prometheus", "/prometheus/api/v1/write",
        snappy_block(PROTOBUF),
        (_PROTO, ("User-Agent", "Prometheus/2.42.0"), ("Authorization", basic(KEY))),
        base="/receiver",
    ),
    Sent(
        "curl, health", "intake", "transactional", "/intake" + _Q, b'{"health":[]}',
        (("User-Agent", "curl/7.88.1"), ("Accept", "*/*"), _JSON),
    ),
    Sent(
        "topology debug", "topology", "support", "/topology/debug", TOPOLOGY, (_JSON, _KEY),
    ),
    Sent(
        "flare", "flare", "support", "/support/flare" + _Q, _FLARE,
        (("Content-Type", f"multipart/form-data; boundary={_FLARE_MARK}"),), is_chunked=True,
    ),
    Sent(
        "flare of a case", "flare", "support", "/support/flare/4711" + _Q, _FLARE,
        (("Content-Type", f"multipart/form-data; boundary={_FLARE_MARK}"),), is_chunked=True,
    ),
    Sent(
        "the platform's collector", "intake", "transactional", "/intake", TOPOLOGY,
        (_JSON, ("sts-time-format", "ms"), _KEY), base="/stsAgent",
    ),
    Sent(
        "events", "events", "agent", "/api/v1/events" + _Q, b'{"title":"a","text":"b"}', (_JSON,),
    ),
)  # fmt: skip
"""One request for each row of the wire contract's table of paths; OTLP below the base urls and the
check of a key have tests of their own.
"""


def http1_bytes(sent: Sent, fields: Fields | None = None, target: str | None = None) -> bytes:
    """Write a request as HTTP/1.1 bytes."""
    fields = sent.fields if fields is None else fields
    lines = [f"{sent.method} {target or sent.target} HTTP/1.1", "Host: gateway.example"]
    lines += [f"{name}: {value}" for name, value in fields]
    body = sent.body
    if sent.is_chunked:
        lines.append("Transfer-Encoding: chunked")
        parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif body or sent.method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
