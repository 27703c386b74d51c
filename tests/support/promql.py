"""What an expression of PromQL says about metrics, as far as tests need it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from gateway import metrics

PROJECT: Final = Path(__file__).parents[2]
ALERTS_FILE: Final = PROJECT / "deploy" / "alerts.yaml"
DASHBOARD_FILE: Final = PROJECT / "deploy" / "dashboard.json"

_SELECTOR: Final = re.compile(r"\b(gateway_[a-z0-9_]+)\b(\{[^{}]*\})?")
_GROUPING: Final = re.compile(r"\b(?:by|without)\s*\(([^()]*)\)")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|=|!=)\s*"([^"]*)"')
FROM_SCRAPING: Final = frozenset({"job", "instance", "namespace"})
"""Labels that Prometheus and its operator add."""


class Selector(NamedTuple):
    """A metric's name as it is scraped, with its matchers as they are written."""

    name: str
    matchers: str

    @property
    def matched(self) -> dict[str, str]:
        """Each label that is matched, with its text."""
        return {label: text for label, _, text in _MATCHER.findall(self.matchers)}

    @property
    def metric(self) -> metrics.Metric | None:
        """The metric of the catalogue, None if there is none."""
        if found := metrics.BY_NAME.get(self.name):
            return found
        family = re.sub(r"_(bucket|sum|count)$", "", self.name)
        found = metrics.BY_NAME.get(family)
        return found if found is not None and found.kind is metrics.Kind.HISTOGRAM else None


def rules() -> list[dict[str, Any]]:
    """Read all rules that the project ships."""
    read = yaml.safe_load(ALERTS_FILE.read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def without_records(text: str) -> str:
    """Take out what a recording rule records: its name has a colon."""
    return re.sub(r"\b\w+:[\w:]+(\{[^{}]*\})?", "", text)


def selectors(text: str) -> Iterator[Selector]:
    """Yield the series that an expression asks for, those of recording rules left out."""
    for found in _SELECTOR.finditer(without_records(text)):
        yield Selector(found[1], found[2] or "")


def grouped_by(text: str) -> set[str]:
    """Return the labels by which an expression groups."""
    return {label.strip() for found in _GROUPING.finditer(text) for label in found[1].split(",")}
