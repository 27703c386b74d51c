"""A real Collector takes the configuration of docs/tenants.md."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any, Final

import yaml

from tests.interop.conftest import Tool
from tests.support.child import start_child

PAGE: Final = (Path(__file__).parents[2] / "docs/tenants.md").read_text(encoding="utf-8")
CONFIGURATION: Final[dict[str, Any]] = yaml.safe_load(
    textwrap.dedent(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1])
)
SETTER: Final = "headers_setter"


async def _validate(tool: Tool, folder: Path, tree: dict[str, Any]) -> tuple[int, str]:
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(tree))
    child = await start_child(
        str(tool("otelcol")),
        "validate",
        f"--config=file:{file}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


def _with_another_authenticator(tree: dict[str, Any]) -> dict[str, Any]:
    """Take one that the Collector of these tests has: it lacks what only `contrib` has."""
    text = yaml.safe_dump({**tree, "extensions": {SETTER: {}}}).replace(SETTER, "bearertokenauth")
    changed: dict[str, Any] = yaml.safe_load(text)
    changed["extensions"]["bearertokenauth"] = {"token": "x"}
    return changed


async def test_the_collector_takes_the_configuration_of_the_page(
    tool: Tool, tmp_path: Path
) -> None:
    code, output = await _validate(tool, tmp_path, _with_another_authenticator(CONFIGURATION))
    assert code == 0, output


async def test_what_is_wrong_in_it_is_noticed(tool: Tool, tmp_path: Path) -> None:
    """The judge is awake."""
    tree = _with_another_authenticator(CONFIGURATION)
    tree["processors"]["batch"] = {"metadata_key": ["x-scope-orgid"]}
    code, output = await _validate(tool, tmp_path, tree)
    assert code == 1
    assert "metadata_key" in output


def test_every_store_gets_the_header_that_batches_are_kept_apart_by() -> None:
    (header,) = CONFIGURATION["extensions"][SETTER]["headers"]
    assert CONFIGURATION["processors"]["batch"]["metadata_keys"] == [header["from_context"]]
    assert header["key"].lower() == header["from_context"]
    for exporter in CONFIGURATION["exporters"].values():
        assert exporter["auth"] == {"authenticator": SETTER}
    for protocol in CONFIGURATION["receivers"]["otlp"]["protocols"].values():
        assert protocol["include_metadata"] is True
