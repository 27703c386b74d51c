"""Pages under docs/ that a reader follows step by step: each step is done, to the letter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.pages import DOCS, Reader, blocks

INSTALLED: Final = {"once": "the tests' own environment has it installed; tools/wheel.py installs it"}


@pytest.fixture(name="reader")
def _reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader.start(tmp_path) as reader:
        yield reader


def test_tutorial(reader: Reader) -> None:
    reader.follow(DOCS / "tutorial.md", INSTALLED)


@pytest.fixture(name="with_gateway")
def _with_gateway(reader: Reader) -> Reader:
    """Follow the tutorial to where a gateway and a backend run and there is a key."""
    for block in blocks(DOCS / "tutorial.md"):
        if block.title not in INSTALLED:
            reader.do(block)
        if "GATEWAY_KEY" in block.text:
            return reader
    pytest.fail("the tutorial sets no GATEWAY_KEY")


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
