"""Build the documentation as a site in build/site: `.venv/bin/python tools/site.py`.

The build tool stands in an environment of its own, from requirements-docs.lock. A warning fails the
build, and so does a page that would fetch something from another host.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import site_links

ROOT: Final = Path(__file__).resolve().parents[1]
SITE: Final = ROOT / "build" / "site"
SOURCE: Final = ROOT / "build" / "site-source"
LOCK: Final = ROOT / "requirements-docs.lock"
CACHE: Final = ROOT / ".cache" / "site"
_ELSEWHERE: Final = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_FETCHED: Final = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "source": "src",
    "form": "action",
}
_FETCHING_RELS: Final = {"stylesheet", "preconnect", "preload", "prefetch", "icon", "manifest"}
_IN_CSS: Final = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


class SiteError(Exception):
    """The site cannot be built as it must be; the text says why."""


class Fetched(HTMLParser):
    """Collects what a browser fetches from other hosts to show a page: not what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        values = {name: value or "" for name, value in attrs}
        if "mermaid" in values.get("class", "").split():
            self.found.append("a mermaid diagram, whose script comes from elsewhere")
        address = values.get(_FETCHED.get(tag, ""), "")
        if tag == "link" and _FETCHING_RELS & set(values.get("rel", "").split()):
            address = values.get("href", "")
        if _ELSEWHERE.match(address):
            self.found.append(address)


def fetched_from_elsewhere(site: Path) -> list[str]:
    """Return what pages and styles of a site fetch from other hosts, each with its file."""
    found: list[str] = []
    for file in sorted(site.rglob("*.html")):
        page = Fetched()
        page.feed(file.read_text(encoding="utf-8"))
        found += [f"{file.relative_to(site)}: {each}" for each in page.found]
    for file in sorted(site.rglob("*.css")):
        addresses = _IN_CSS.findall(file.read_text(encoding="utf-8"))
        found += [f"{file.relative_to(site)}: {each}" for each in addresses]
    return found


def install() -> Path:
    """Make the environment of the build tool anew if the lock has changed; return its Python."""
    python = CACHE / "bin" / "python"
    stamp = CACHE / "made-from"
    pins = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != pins:
        _run([sys.executable, "-m", "venv", "--clear", str(CACHE)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "-r", str(LOCK)])
        stamp.write_text(pins)
    return python


def build(python: Path) -> None:
    """Build the site. Raises `SiteError`, also where the build only warns."""
    site_links.write(SOURCE)
    printed = _run([str(python), "-m", "mkdocs", "build", "--strict", "--clean"])
    if warnings := [line for line in printed.splitlines() if line.startswith("WARNING")]:
        raise SiteError("\n".join(warnings))
    if found := fetched_from_elsewhere(SITE):
        message = "pages must fetch nothing from other hosts:\n" + "\n".join(found)
        raise SiteError(message)


def _run(command: list[str]) -> str:
    # The theme's maker tells every build about its successor; that is no warning about these pages.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise SiteError(message)
    return done.stdout + done.stderr


def main() -> int:
    """Do all that. Returns the exit code."""
    try:
        build(install())
    except SiteError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    pages = len(list(SITE.rglob("*.html")))
    sys.stdout.write(f"{pages} pages are in {SITE.relative_to(ROOT)}: open index.html there\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
