"""The demo's two snippets, taken from its output as a user would, each run by a real Collector."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.collector import DROPPED, READY, Collector
from tests.support.process import COMMAND, Program, running

BEGIN = "Requests that arrive or are refused"
SNIPPETS = ("collector-tls.yaml", "collector-cleartext.yaml")
ITEMS = {"traces": "span", "metrics": "data point", "logs": "log record"}

Tool = Callable[[str], Path]


@asynccontextmanager
async def running_demo(folder: Path) -> AsyncIterator[Program]:
    async with running([COMMAND, "demo", "--data", folder]) as demo:
        await demo.wait_line(BEGIN)
        yield demo
        assert await demo.stop(signal.SIGINT) == 0


def snippet(demo: Program, name: str) -> str:
    """Return what stands between the marks of a snippet, untouched."""
    found = re.search(f"# -+ begin {name} -+\n(.*)# -+ end {name} -+", demo.output, re.DOTALL)
    assert found is not None, demo.output
    return found[1]


@asynccontextmanager
async def pasted_collector(
    binary: Path, file: Path, text: str, environment: Mapping[str, str]
) -> AsyncIterator[Collector]:
    """Run a Collector with a snippet and nothing else."""
    file.write_text(text)
    endpoint = yaml.safe_load(text)["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    env = {**os.environ, **environment}
    async with running([binary, "--config", file], env=env) as program:
        await program.wait_line(READY)
        yield Collector(program, int(endpoint.rpartition(":")[2]))
        assert await program.stop() == 0


async def arrives(demo: Program, collector: Collector, count: int) -> None:
    """Send `count` items of each signal and see all of them in the demo's live view."""
    for kind, item in ITEMS.items():
        await collector.send(kind, range(count))
        await demo.wait_line(rf"accepted +{kind} +numbered +{count} {item}s .* key demo")
    assert collector.logged(DROPPED) == 0


async def test_both_snippets_work_as_printed_and_again_with_the_key_in_the_environment(
    tool: Tool, tmp_path: Path
) -> None:
    binary = tool("otelcol")
    file = tmp_path / "collector.yaml"

    async with running_demo(tmp_path / "demo") as demo:
        key = (await demo.wait_line(r"Ingestion API Key generated: (\S+)"))[1]
        for count, name in enumerate(SNIPPETS, start=2):
            text = snippet(demo, name)
            assert key in text
            async with pasted_collector(binary, file, text, {}) as collector:
                await arrives(demo, collector, count)

    async with running_demo(tmp_path / "demo") as demo:
        assert key not in demo.output
        for count, name in enumerate(SNIPPETS, start=2):
            text = snippet(demo, name)
            environment = {"GATEWAY_KEY": key}
            async with pasted_collector(binary, file, text, environment) as collector:
                await arrives(demo, collector, count)


@pytest.mark.parametrize("name", SNIPPETS)
async def test_a_pasted_snippet_with_a_wrong_key_is_shown_as_refused(
    tool: Tool, tmp_path: Path, name: str
) -> None:
    async with running_demo(tmp_path / "demo") as demo:
        key = (await demo.wait_line(r"Ingestion API Key generated: (\S+)"))[1]
        text = snippet(demo, name).replace(key, "nobody-knows-this-key")
        file = tmp_path / "collector.yaml"
        async with pasted_collector(tool("otelcol"), file, text, {}) as collector:
            await collector.send("traces", range(3))
            await collector.program.wait_line(DROPPED)
            await demo.wait_line(r"refused +traces +the API key is unknown")
