"""The site of the documentation in a real browser: nothing comes from elsewhere, search works."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.tools import missing
from tools import debian
from tools.build_site import ROOT, SITE

PATIENCE_MS = 60_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Print nothing."""


@pytest.fixture(scope="module", name="address")
def _address() -> Iterator[str]:
    """Build the site, and serve it on loopback."""
    subprocess.run([sys.executable, "-m", "tools.build_site"], cwd=ROOT, check=True)
    handler = functools.partial(_Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    program = debian.find("chromium")
    if program is None:
        missing("chromium", "run `make interop`, or install Debian's package")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(program),
            env={**os.environ, **debian.environment(program)},
            args=["--no-sandbox"],  # as root there is none; the pages are our own
        )
        yield browser
        browser.close()


def test_no_page_asks_another_host_or_has_an_error(browser: Browser, address: str) -> None:
    asked: set[str] = set()
    errors: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("request", lambda request: asked.add(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    pages = sorted(str(file.relative_to(SITE)) for file in SITE.rglob("*.html"))
    for name in pages:
        page.goto(address + name, wait_until="load")
    page.close()
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()
    assert {address + name for name in pages} <= asked
    assert errors == []


def test_search_finds_a_page(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address + "index.html")
    page.locator(".md-search__input").click()
    page.keyboard.type("outage")
    found = page.locator(".md-search-result__link", has_text="Practise an outage").first
    found.wait_for(state="attached")
    page.close()
