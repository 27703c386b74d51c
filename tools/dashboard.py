"""Write `deploy/dashboard.json`, the Grafana dashboard, from the panels in `dashboard.yaml`.

Usage: ``.venv/bin/python tools/dashboard.py``. A test fails where the file is not what this writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "dashboard.yaml"
TARGET: Final = HERE.parent / "deploy" / "dashboard.json"
WIDTH: Final = 24
"""Columns of Grafana's grid."""
HEIGHT: Final = 8
_SCHEMA: Final = 39
"""Of Grafana 10.3 and newer."""
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_OF: Final = 'job=~"$job", instance=~"$instance"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    `queries` have an `expr`, in which `@` stands for the chosen gateways, and a `legend`. `kind` is
    Grafana's name of the panel, `unit` its name of a unit.
    """

    title: str
    description: str
    queries: list[dict[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    columns: int = 8
    is_stacked: bool = False
    alarm_above: float | None = None
    """From this value on the number is red."""


def rows() -> dict[str, list[Panel]]:
    """Read the panels, row by row."""
    read = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return {title: [Panel(**panel) for panel in panels] for title, panels in read.items()}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "annotations": {"list": []},
        "description": "Traffic, refusals, latency, backends, key stores and workers",
        "editable": True,
        "graphTooltip": 1,
        "id": None,
        "links": [],
        "panels": list(_panels()),
        "refresh": "30s",
        "schemaVersion": _SCHEMA,
        "tags": ["otlp-gateway", "opentelemetry"],
        "templating": {"list": list(_variables())},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": "OTLP gateway",
        "uid": "otlp-gateway",
        "version": 1,
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    of_job = "label_values(gateway_build_info, job)"
    of_instance = 'label_values(gateway_build_info{job=~"$job"}, instance)'
    for name, label, query in (("job", "Job", of_job), ("instance", "Gateway", of_instance)):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
            "sort": 1,
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in rows().items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }
        top += 1
        left, height = 0, HEIGHT // 2 if panels[0].kind == "stat" else HEIGHT
        for panel in panels:
            if left + panel.columns > WIDTH:
                left, top = 0, top + height
            number += 1
            place = {"x": left, "y": top, "w": panel.columns, "h": height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.columns
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.alarm_above is not None:
        steps.append({"color": "red", "value": panel.alarm_above})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
        fill = 30 if panel.is_stacked else 5
        defaults["custom"] = {"fillOpacity": fill, "showPoints": "never", "stacking": stacking}
    if panel.kind == "state-timeline":
        defaults["mappings"] = [
            {
                "type": "value",
                "options": {
                    "0": {"text": "failing", "color": "red"},
                    "1": {"text": "up", "color": "green"},
                },
            }
        ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query["expr"].replace("@", _OF),
                "legendFormat": query.get("legend", "__auto"),
                "instant": panel.kind in {"stat", "bargauge"},
                "range": panel.kind not in {"stat", "bargauge"},
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "stat":
            return {"reduceOptions": last, "colorMode": "value", "graphMode": "none"}
        case "bargauge":
            return {"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic"}
        case "state-timeline":
            return {"mergeValues": True, "showValue": "never", "legend": {"showLegend": True}}
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def text() -> str:
    """Return what the file contains."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file. Returns the exit code."""
    TARGET.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
