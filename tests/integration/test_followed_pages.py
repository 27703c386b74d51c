"""Pages under docs/ that a reader follows step by step: each step is done, to the letter."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.pages import DOCS, Block, Reader, blocks
from tests.support.tools import missing
from tools.debian import environment, find

BACKEND: Final = "gateway receive --grpc 127.0.0.1:14317 --http 127.0.0.1:14318\n"
INSTALLED: Final = {"once": "it is installed already; tools/runners.py does this step"}


@pytest.fixture(name="reader")
def _reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader.start(tmp_path) as reader:
        yield reader


def test_tutorial(reader: Reader) -> None:
    reader.follow(DOCS / "tutorial.md", INSTALLED)


@pytest.fixture(name="with_gateway")
def _with_gateway(reader: Reader) -> Reader:
    """Follow the tutorial to where a gateway and a backend run and there is a key."""
    reader.follow_until(DOCS / "tutorial.md", "GATEWAY_KEY", INSTALLED)
    return reader


def test_rotating_a_key(with_gateway: Reader) -> None:
    _remove_keys(with_gateway)
    with_gateway.follow(DOCS / "howto/rotate-a-key.md")


def _remove_keys(reader: Reader) -> None:
    """Leave no key: the page begins with its own."""
    _, listed = reader.run("gateway keys list --config gateway.yaml")
    for key_id in re.findall(r"^\d{12,}", "\n".join(listed), re.MULTILINE):
        reader.run(f"gateway keys delete --id {key_id} --config gateway.yaml")


def test_an_outage_drill(with_gateway: Reader) -> None:
    first, *others = blocks(DOCS / "howto/outage-drill.md")
    assert first.title in with_gateway.terminals, "the tutorial's backend is the drill's"
    for block in others:
        with_gateway.do(block)


@pytest.mark.parametrize("page", ["agents", "sdks", "read-a-refusal"])
def test_pages_that_need_a_gateway_and_a_key(with_gateway: Reader, page: str) -> None:
    with_gateway.follow(DOCS / f"howto/{page}.md")


def test_moving_from_nginx(reader: Reader) -> None:
    nginx = find("nginx") or missing("nginx", "run tools/debian.py nginx")
    pages = blocks(DOCS / "howto/migrate-from-nginx.md")
    reader.do(Block("", 0, "sh", "Terminal 1", BACKEND))
    for block in pages:
        reader.do(block)
        if block.language == "nginx":
            libraries = [f"{name}={value}" for name, value in environment(nginx).items()]
            check = ["env", *libraries, str(nginx), "-t", "-p", ".", "-c", "nginx.conf"]
            _, lines = reader.run(shlex.join([*check, "-e", "stderr", "-g", "pid nginx.pid;"]))
            assert any("syntax is ok" in line for line in lines), "\n".join(lines)
