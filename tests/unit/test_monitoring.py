"""The dashboard, the rules and the runbooks that we ship agree with the catalogue of metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway import metrics
from gateway.outcome import AuthOutcome, Result
from tests.support.promql import (
    DASHBOARD_FILE,
    FROM_SCRAPING,
    PROJECT,
    grouped_by,
    rules,
    selectors,
)
from tools import dashboard

DASHBOARD: Final[dict[str, Any]] = json.loads(DASHBOARD_FILE.read_text())
PANELS: Final[list[dict[str, Any]]] = [
    panel for panel in DASHBOARD["panels"] if panel["type"] != "row"
]
QUERIES: Final = [(panel["title"], each) for panel in PANELS for each in panel["targets"]]
ALERTS: Final = [rule for rule in rules() if "alert" in rule]
EXPRESSIONS: Final = [rule["expr"] for rule in rules()] + [each["expr"] for _, each in QUERIES]
VALUES: Final[dict[str, set[str]]] = {
    "result": {*map(str, Result), *metrics.AUTHORITY_RESULTS, *metrics.JWT_FETCH_RESULTS},
    "outcome": set(map(str, AuthOutcome)),
    "reason": {
        *metrics.CONNECTION_REFUSAL_REASONS,
        *metrics.RESTART_REASONS,
        *metrics.ADMIN_CLOSE_REASONS,
    },
    "store": {"postgresql", "sqlite", "file"},
}
"""The values of labels that expressions match."""


def test_the_dashboard_is_what_its_source_says() -> None:
    assert DASHBOARD_FILE.read_text(encoding="utf-8") == dashboard.text(), (
        "run .venv/bin/python tools/dashboard.py"
    )


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_speaks_of_metrics_and_labels_that_exist(expression: str) -> None:
    labels: set[str] = set()
    for selector in selectors(expression):
        assert selector.metric is not None, f"there is no metric {selector.name}"
        own = {*selector.metric.labels, "le"}
        assert set(selector.matched) <= own | FROM_SCRAPING
        for label in set(selector.matched) - FROM_SCRAPING:
            assert set(re.split(r"\|", selector.matched[label])) <= VALUES[label]
        labels |= own
    if ":" not in expression.partition("{")[0]:  # no recording rule, whose labels are its own
        assert labels
        assert grouped_by(expression) <= labels | FROM_SCRAPING


def test_recorded_names_say_what_they_are_grouped_by() -> None:
    for rule in rules():
        if "record" in rule:
            level, metric, operation = rule["record"].split(":")
            kept = grouped_by(rule["expr"]) - {"namespace", "le"}
            assert set(re.findall("job|protocol|signal|result|backend|store", level)) == kept
            assert metric.startswith("gateway_")
            assert re.fullmatch(r"(rate|ratio_rate|p\d\d_)\d[mh]", operation)


def test_expressions_use_only_records_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for text in EXPRESSIONS for name in re.findall(r"\b\w+:[\w:]+", text)}
    assert used <= recorded


def test_the_dashboard_shows_every_metric() -> None:
    shown = {found.metric for _, each in QUERIES for found in selectors(each["expr"])}
    left_out = {metric.name for metric in metrics.METRICS} - {
        metric.name for metric in shown if metric is not None
    }
    assert left_out == {
        "gateway_intake_agents_total",  # versions of agents: for a table of one's own
        "gateway_key_cache_entries",
        "gateway_key_cache_misses_total",
        "gateway_key_cache_coalesced_total",
        "gateway_authority_duration_seconds",
        "gateway_jwt_key_fetch_duration_seconds",
        "gateway_jwt_tokens",
        "gateway_config_last_reload_timestamp_seconds",
    }


@pytest.mark.parametrize("title, query", QUERIES)
def test_a_legend_uses_labels_that_its_query_keeps(title: str, query: dict[str, Any]) -> None:
    used = set(re.findall(r"\{\{(\w+)\}\}", query["legendFormat"]))
    kept = grouped_by(query["expr"]) or set().union(
        FROM_SCRAPING,
        *(found.metric.labels for found in selectors(query["expr"]) if found.metric is not None),
    )
    assert used <= kept, title


def test_no_panels_overlap_and_none_sticks_out() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= dashboard.WIDTH
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_panel_says_what_it_shows() -> None:
    assert [panel["title"] for panel in PANELS if not panel["description"].endswith(".")] == []


def test_every_alarm_metric_has_an_alert() -> None:
    named = {found.name for rule in ALERTS for found in selectors(rule["expr"])}
    assert {m.name for m in metrics.METRICS if m.help.startswith("ALARM")} <= named


def test_every_alert_says_what_to_do() -> None:
    for rule in ALERTS:
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["description"].endswith(".")


def _headings() -> Iterator[str]:
    text = (PROJECT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    yield from re.findall(r"^## (\w+)$", text, re.MULTILINE)


def test_every_alert_has_its_runbook_and_no_other_has() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert sorted(_headings()) == sorted(names)
    for rule in ALERTS:
        place = f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == place


def test_texts_of_alerts_use_labels_that_they_have() -> None:
    for rule in ALERTS:
        text = " ".join(rule["annotations"].values())
        used = set(re.findall(r"\$labels\.(\w+)", text))
        kept = grouped_by(rule["expr"])
        if ":" in rule["expr"].partition("{")[0]:
            level = re.split(r"\s|\(", rule["expr"].partition(":")[0])[-1]
            kept = set(level.split("_"))
        assert used <= kept, rule["alert"]
