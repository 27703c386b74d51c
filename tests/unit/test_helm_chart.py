"""The Helm chart says of itself what is so; `tests/interop/test_helm.py` has Helm render it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml

from gateway import __version__
from tests.support.promql import ALERTS_FILE, DASHBOARD_FILE, PROJECT

CHART: Final = PROJECT / "deploy" / "helm" / "otlp-gateway"
EXAMPLES: Final = sorted((PROJECT / "deploy" / "helm" / "examples").glob("*.yaml"))


def test_the_chart_has_the_gateways_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_chart_has_the_rules_and_the_dashboard_that_we_ship() -> None:
    for file in (ALERTS_FILE, DASHBOARD_FILE):
        assert (CHART / "files" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("values", [CHART / "values.yaml", *EXAMPLES], ids=lambda path: path.stem)
def test_values_fit_their_schema(values: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert jsonschema_rs.meta.is_valid(schema)
    read = yaml.safe_load(values.read_text())
    found = jsonschema_rs.Draft7Validator(schema).iter_errors(read)
    assert [error.message for error in found] == []


def test_every_value_has_its_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)


def _leaves(values: dict[str, Any], path: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        where = f"{path}.{name}" if path else name
        is_open = where in {"config", "resources", "ingress.grpc", "ingress.http"}
        if isinstance(value, dict) and value and not is_open and not where.endswith("labels"):
            found |= _leaves(value, where)
        else:
            found.add(where)
    return found


def test_every_value_is_documented_and_no_other() -> None:
    page = (PROJECT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    table = page.partition("| Value | Default |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert documented == _leaves(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_every_example_is_in_the_page() -> None:
    page = (PROJECT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    named = set(re.findall(r"helm/examples/([\w-]+\.yaml)\)", page))
    assert named == {path.name for path in EXAMPLES}
