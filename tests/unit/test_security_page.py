"""`docs/security.md` names the test that shows each claim: those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
PAGE: Final = (PROJECT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED: Final = set(re.findall(r"`(test_\w+)`", PAGE))


def _existing() -> set[str]:
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for path in (PROJECT / "tests").rglob("test_*.py")
    )
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_that_the_page_names_exists() -> None:
    assert NAMED, "the page names its tests as `test_…`"
    assert sorted(NAMED - _existing()) == []


def test_what_the_page_links_to_exists() -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", PAGE)}
    assert targets
    assert [each for each in targets if not (PROJECT / "docs" / each).exists()] == []
