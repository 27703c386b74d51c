"""The data that `gateway send --protocol intake` sends, and how agents react to the response.

The data is about the same small shop as in `telemetry`, as agents report it: its topology with a
health state, and its metrics. The reactions are those in the wire contract's table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.model import Signal
from gateway.otlp.rpc_status import RpcStatus, parse_status_json
from gateway.sender.response import ExportResponse

_NS_PER_S: Final = 1_000_000_000
_SHOP: Final = ("checkout", "payment", "orders")


@dataclass(frozen=True, slots=True)
class AgentPath:
    """One of the agents' paths; the counterpart of OTLP's `Service`."""

    http_path: str
    item: str
    plural: str
    signal: Signal = Signal.INTAKE

    def count(self, amount: int) -> str:
        """Format an amount with its unit: `1 element`, `3 elements`."""
        return f"{amount} {self.item if amount == 1 else self.plural}"


TOPOLOGY: Final = AgentPath("/intake", "element", "elements of topology and health")
SERIES: Final = AgentPath("/api/v1/series", "metric", "metrics")
AGENT_PATHS: Final = (TOPOLOGY, SERIES)


def sample(path: AgentPath, number: int, started_ns: int) -> tuple[bytes, int]:
    """Build a body; return it and its number of items.

    Args:
        path: the path that it is for.
        number: 1, 2, … of the round.
        started_ns: Unix time in nanoseconds.
    """
    now_s = started_ns // _NS_PER_S
    content, items = _topology(now_s) if path is TOPOLOGY else _series(number, now_s)
    return json.dumps(content).encode(), items


def _topology(now_s: int) -> tuple[object, int]:
    stream = {"urn": "urn:health:gateway:send", "sub_stream_id": "gateway-send"}
    components = [
        {
            "externalId": f"urn:service:/shop:{name}",
            "type": {"name": "service"},
            "data": {"name": name, "labels": ["sender:gateway-send"]},
        }
        for name in _SHOP
    ]
    relations = [
        {
            "externalId": f"urn:service:/shop:{_SHOP[0]}->urn:service:/shop:{name}",
            "type": {"name": "uses_service"},
            "sourceId": components[0]["externalId"],
            "targetId": f"urn:service:/shop:{name}",
            "data": {},
        }
        for name in _SHOP[1:]
    ]
    state = {
        "checkStateId": "gateway-send",
        "name": "Checkout responds",
        "health": "Clear",
        "topologyElementIdentifier": components[0]["externalId"],
    }
    topology = {
        "start_snapshot": False,
        "stop_snapshot": False,
        "instance": {"type": "gateway-send", "url": "shop"},
        "components": components,
        "relations": relations,
        "delete_ids": [],
    }
    health = {
        "consistency_model": "REPEATABLE_SNAPSHOTS",
        "start_snapshot": {"repeat_interval_s": 60},
        "stop_snapshot": {},
        "stream": stream,
        "check_states": [state],
    }
    content = {
        "collection_timestamp": now_s,
        "internalHostname": "gateway-send",
        "topologies": [topology],
        "health": [health],
    }
    return content, len(components) + len(relations) + 1


def _series(number: int, now_s: int) -> tuple[object, int]:
    series = [
        {
            "metric": name,
            "points": [[now_s, value]],
            "type": "gauge",
            "host": "gateway-send",
            "tags": ["service:checkout"],
        }
        for name, value in (("shop.orders", number), ("shop.queue.size", number % 7))
    ]
    return {"series": series}, len(series)


def parse_agent_response(status: int, headers: Mapping[str, str], body: bytes) -> ExportResponse:
    """Parse a receiver's response: only its status counts, and the text of the gateway itself."""
    is_json = headers.get("content-type", "").startswith("application/json")
    found = (parse_status_json(body) if is_json else None) or RpcStatus()
    hint = headers.get("retry-after", "")
    return ExportResponse(
        grpc=None,
        http=status,
        message=found.message,
        reason=found.reason,
        domain=found.domain,
        retry_after_s=float(hint) if hint.isdecimal() else None,
        location=headers.get("location", ""),
        is_agents=True,
    )


def what_agents_do(status: int) -> str:
    """Describe what agents do with their data on a refusal (wire contract, reactions)."""
    if status >= 500 and status != 501:  # noqa: PLR2004 - RFC 9110 §15.6
        return "agents keep the data and retry, except the process agent, which drops it"
    if status == 429:  # noqa: PLR2004 - RFC 6585 §4
        return "agents keep the data and retry, except the process and trace agents"
    if status == 401:  # noqa: PLR2004 - RFC 9110 §15.5.2
        return "the main forwarder retries; other agents drop the data or assume it was accepted"
    return "agents do not retry: they drop the data or assume it was accepted"
