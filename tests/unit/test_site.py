"""The site of the documentation: its links, what it may fetch, and what it is built from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from tools import site_links
from tools.build_site import LOCK, ROOT, fetched_from_elsewhere

NAVIGATION: Final = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def _pages(part: object) -> set[str]:
    if isinstance(part, str):
        return {part}
    inner = part.values() if isinstance(part, dict) else part
    assert not isinstance(inner, str)
    return {page for each in inner for page in _pages(each)}  # type: ignore[attr-defined] # lists and values


def test_the_navigation_names_every_page_under_docs() -> None:
    there = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    assert {page for page in _pages(NAVIGATION) if not page.startswith("project/")} == there


@pytest.mark.parametrize(
    "link, expected",
    [
        ("[a](keys.md#the-store)", "[a](keys.md#the-store)"),
        ("[a](../deploy/alerts.yaml)", "[a](project/deploy/alerts.yaml)"),
        ("[a](../.github/CONTRIBUTING.md)", "[a](project/github/CONTRIBUTING.md)"),
        ("[a](../deploy/systemd/)", "a"),
        ("[a](https://example.com/x)", "[a](https://example.com/x)"),
        ("[a](#here)", "[a](#here)"),
        ("`[a](../deploy/alerts.yaml)`", "`[a](../deploy/alerts.yaml)`"),
        ("[a](nowhere.md)", "[a](nowhere.md)"),
    ],
)
def test_links_lead_to_where_the_site_has_the_file(link: str, expected: str) -> None:
    assert site_links.rewrite(link, "docs/metrics.md") == expected


def test_links_of_pages_from_elsewhere_lead_back() -> None:
    assert site_links.rewrite("[k](docs/keys.md)", "README.md") == "[k](../keys.md)"


def test_what_pages_link_to_is_part_of_the_site(tmp_path: Path) -> None:
    site_links.write(tmp_path / "source")
    assert (tmp_path / "source/project/deploy/alerts.yaml").is_file()
    assert (tmp_path / "source/project/bench/README.md").is_file()
    assert (tmp_path / "source/keys.md").is_file()


@pytest.mark.parametrize(
    "html, is_fetched",
    [
        ('<script src="https://cdn.example.com/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example.com/css">', True),
        ('<img src="http://example.com/x.png">', True),
        ('<pre class="mermaid"></pre>', True),
        ('<a href="https://example.com/">a link</a>', False),
        ('<link rel="canonical" href="https://example.com/">', False),
        ('<img src="pictures/x.png">', False),
    ],
)
def test_what_a_browser_would_fetch_from_elsewhere_is_found(
    html: str, is_fetched: bool, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    assert bool(fetched_from_elsewhere(tmp_path)) is is_fetched


def test_styles_are_searched_too(tmp_path: Path) -> None:
    (tmp_path / "x.css").write_text("@font-face { src: url('https://example.com/a.woff2') }")
    assert fetched_from_elsewhere(tmp_path) == ["x.css: https://example.com/a.woff2"]


def test_the_build_tool_is_pinned_with_hashes() -> None:
    text = LOCK.read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert "mkdocs-material" in pins
    assert not re.search(r"https?://", text)
