"""Pages under docs/ that need a real Collector or Prometheus: followed, and their files checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.integration.test_followed_pages import INSTALLED
from tests.support.pages import DOCS, PROJECT, Block, Reader, all_blocks
from tests.support.tools import find_tool

BEFORE_AND_AFTER: Final = ("collector-before.yaml", "collector-after.yaml")


@pytest.fixture(name="reader")
def _reader(tmp_path: Path) -> Iterator[Reader]:
    path = (find_tool("otelcol").parent, find_tool("promtool").parent)
    with Reader.start(tmp_path, path) as reader:
        yield reader


@pytest.fixture(name="with_gateway")
def _with_gateway(reader: Reader) -> Reader:
    reader.follow_until(DOCS / "tutorial.md", "GATEWAY_KEY", INSTALLED)
    return reader


@pytest.mark.parametrize("page", ["collector", "prometheus"])
def test_pages_that_need_a_gateway(with_gateway: Reader, page: str) -> None:
    with_gateway.follow(DOCS / f"howto/{page}.md")


def test_moving_from_the_collectors_extension(reader: Reader) -> None:
    reader.follow(DOCS / "howto/migrate-from-collector.md")
    for name in BEFORE_AND_AFTER:
        code, lines = reader.run(f"otelcol validate --config {name}")
        assert code == 0, "\n".join(lines)


def _is_collectors(block: Block) -> bool:
    """Whether it is a Collector's. One has a test of its own: `test_tenants_collector`."""
    if block.language != "yaml" or "headers_setter" in block.text:
        return False
    return "service" in yaml.safe_load(block.text)


COLLECTORS: Final = [block for block in all_blocks() if _is_collectors(block)]


@pytest.mark.parametrize("block", COLLECTORS, ids=lambda block: block.place)
def test_configurations_of_a_collector_are_valid(reader: Reader, block: Block) -> None:
    tree = yaml.safe_load(block.text)
    tree.setdefault("receivers", {"otlp": {"protocols": {"grpc": {}}}})
    (reader.folder / "collector.yaml").write_text(yaml.safe_dump(tree))
    code, lines = reader.run("API_KEY=a-key otelcol validate --config collector.yaml")
    assert code == 0, "\n".join(lines)


def test_the_compose_files_configurations_are_valid(reader: Reader) -> None:
    for name in ("compose/collector.yaml", "compose/prometheus.yaml", "alerts.yaml"):
        (reader.folder / Path(name).name).write_text((PROJECT / "deploy" / name).read_text())
    for check in (
        "otelcol validate --config collector.yaml",
        "promtool check config prometheus.yaml",
    ):
        code, lines = reader.run(check)
        assert code == 0, "\n".join(lines)


def test_prometheus_takes_the_configurations_for_it(reader: Reader) -> None:
    found = [
        block
        for block in all_blocks()
        if block.language == "yaml"
        and re.search(r"^(remote_write|scrape_configs):", block.text, re.MULTILINE)
    ]
    assert found
    for block in found:
        (reader.folder / "prometheus.yml").write_text(block.text)
        code, lines = reader.run("promtool check config --syntax-only prometheus.yml")
        assert code == 0, f"{block.place}\n" + "\n".join(lines)
