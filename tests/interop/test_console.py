"""The console in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.polling import WAIT_S
from tests.support.process import COMMAND, Gateway, running_gateway
from tests.support.tools import missing
from tools import debian

TOKEN = "the-token-of-alice"
TEAM_TOKEN = "the-token-of-team-a"
KEYS = "/api/security/ingestion/api_keys"
PATIENCE_MS = 30_000.0
expect.set_options(timeout=PATIENCE_MS)


@dataclass(slots=True)
class Console:
    """A running gateway, and requests to it past the browser."""

    gateway: Gateway
    token: str = TOKEN

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Send a request to the admin address; with the token unless `headers` are given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.admin_port, timeout=30)
        text = None if body is None else json.dumps(body)
        own = {"X-API-Token": self.token} if headers is None else headers
        connection.request(method, path, text, own)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content, response.headers

    def create(self, name: str, **members: object) -> int:
        """Make a key; return its id."""
        status, made, _ = self.ask("POST", KEYS, {"name": name, **members})
        assert status == 200, made
        return int(made["id"])

    def send(self, key: str) -> int:
        """Send telemetry with a key; return the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        headers = {"Authorization": f"StackState {key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/traces", "{}", headers)
        status = connection.getresponse().status
        connection.close()
        return status


@contextmanager
def running_console(folder: Path) -> Iterator[Console]:
    """Run a gateway from another thread: in this one Playwright's loop runs."""
    team = {"name": "team-a", "token": TEAM_TOKEN, "role": "key_manager", "labels": {"team": "a"}}
    tokens = [{"name": "alice", "token": TOKEN}, {"name": "bob", "token": "the-token-of-bob"}, team]
    overrides = {"admin": {"tokens": tokens}}
    running = running_gateway(folder, overrides)
    with ThreadPoolExecutor(1) as thread:
        runner = thread.submit(asyncio.Runner).result()
        yield Console(thread.submit(runner.run, running.__aenter__()).result())
        thread.submit(runner.run, running.__aexit__(None, None, None)).result()
        thread.submit(runner.close).result()


@pytest.fixture(scope="module", name="console")
def _console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with running_console(tmp_path_factory.mktemp("console")) as console:
        yield console


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


@pytest.fixture(name="context")
def _context(browser: Browser, console: Console) -> Iterator[BrowserContext]:
    """Return a new browser, in which no page has an error or asks anybody but the gateway."""
    complaints: list[str] = []
    context = browser.new_context(base_url=console.gateway.admin_url)
    context.set_default_timeout(PATIENCE_MS)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    context.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(console.gateway.admin_url)
            else complaints.append(request.url)
        ),
    )
    yield context
    context.close()
    assert complaints == []


@pytest.fixture(name="page")
def _page(context: BrowserContext) -> Page:
    """Return the console, signed in."""
    return _signed_in(context, TOKEN)


def _signed_in(context: BrowserContext, token: str) -> Page:
    page = context.new_page()
    page.goto("/ui")
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()
    return page


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_wrong_token_does_not_sign_in_and_is_told_so(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/ui")
    page.get_by_label("Admin token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown token")
    assert context.cookies() == []


def test_a_key_is_made_shown_once_works_and_is_rotated_disabled_and_deleted(
    page: Page, console: Console
) -> None:
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("collector-eu")
    page.get_by_label("Description").fill("Frankfurt")
    page.get_by_label("traces").check()
    page.get_by_role("button", name="Create", exact=True).click()
    key = page.locator("#new-key").inner_text()
    assert console.send(key) == 503  # the key is right, and there is no backend
    for sender in ("Collector", "SDK", "Agent", "Prometheus", "curl"):
        page.get_by_label("Configuration for").select_option(sender)
        expect(page.get_by_label("Configuration", exact=True)).to_contain_text(key)
    page.get_by_role("button", name="I have stored the key").click()
    row = page.get_by_role("row", name=re.compile("collector-eu"))
    expect(row).to_contain_text("only traces")
    assert key not in page.content()

    row.get_by_role("button", name="Rotate").click()
    page.get_by_label("Hours that the old key works on").fill("0")
    page.get_by_role("button", name="Rotate", exact=True).click()
    successor = page.locator("#new-key").inner_text()
    page.get_by_role("button", name="I have stored the key").click()
    assert (console.send(key), console.send(successor)) == (401, 503)

    active = page.get_by_role("row", name=re.compile("collector-eu")).filter(has_text="active")
    active.get_by_role("button", name="Edit").click()
    page.get_by_label("Enabled").uncheck()
    page.get_by_label("traces").uncheck()
    page.get_by_role("button", name="Save").click()
    disabled = page.get_by_role("row", name=re.compile("collector-eu")).filter(has_text="disabled")
    expect(disabled).not_to_contain_text("only traces")
    assert console.send(successor) == 401

    disabled.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(disabled).to_have_count(0)

    page.get_by_role("link", name="Audit log").click()
    for action in ("create", "rotate", "update", "delete"):
        changed = page.get_by_role("row", name=re.compile("collector-eu")).filter(has_text=action)
        expect(changed.first).to_contain_text("alice")


def test_whose_data_a_key_sends_is_set_changed_found_and_taken_away(
    page: Page, console: Console
) -> None:
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("tenant-key")
    page.get_by_text("Whose data it is").click()
    page.get_by_label("Owner").fill("Team A")
    page.get_by_label("Labels").fill("team=a\nstage")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert").last).to_contain_text("stage")
    page.get_by_label("Labels").fill("team=a\nstage=test")
    page.get_by_label("Headers", exact=True).fill("X-Scope-OrgID: team-a")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("button", name="I have stored the key").click()

    page.get_by_label("Search").fill("stage=test team")
    row = page.get_by_role("row", name=re.compile("tenant-key"))
    for text in ("owner Team A", "stage=test, team=a", "X-Scope-OrgID: team-a"):
        expect(row).to_contain_text(text)

    row.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Owner")).to_have_value("Team A")
    page.get_by_label("Owner").fill("")
    page.get_by_label("Labels").fill("team=b")
    page.get_by_label("Headers", exact=True).fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("Search").fill("tenant-key")
    expect(row).to_contain_text("team=b")
    (key,) = [each for each in console.ask("GET", KEYS)[1] if each["name"] == "tenant-key"]
    assert (key["labels"], "owner" in key, "headers" in key) == ({"team": "b"}, False, False)


def test_what_is_wrong_is_said_in_the_form_and_nothing_is_lost(page: Page) -> None:
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("late")
    page.get_by_label("Expires", exact=True).fill("2001-02-03T04:05")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert").last).to_contain_text("expir")
    expect(page.get_by_label("Name")).to_have_value("late")


def test_a_teams_token_shows_and_makes_the_teams_keys_alone(
    context: BrowserContext, console: Console
) -> None:
    console.create("of-nobody")
    console.create("of-team-b", labels={"team": "b"})
    page = _signed_in(context, TEAM_TOKEN)
    expect(page.get_by_title("You manage the keys with this label")).to_have_text("team=a")
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("of-team-a")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("button", name="I have stored the key").click()
    expect(page.get_by_role("row", name=re.compile("of-team-a"))).to_contain_text("team=a")
    expect(page.get_by_role("row", name=re.compile("of-"))).to_have_count(1)
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("row", name=re.compile("of-team-a"))).to_contain_text("team-a")
    expect(page.get_by_role("row", name=re.compile("of-"))).to_have_count(1)
    page.get_by_role("link", name="Live decisions").click()
    expect(page.get_by_text("Watching.")).to_be_visible()


def test_names_are_shown_as_text_whatever_is_in_them(page: Page, console: Console) -> None:
    name = "<img src=x onerror=document.title='harmed'>"
    console.create(name, description="<script>document.title='harmed'</script>")
    page.reload()
    page.get_by_label("Search").fill("onerror")
    expect(page.get_by_role("row").filter(has_text=name)).to_have_count(1)
    assert "harmed" not in page.title()


def test_requests_appear_as_they_complete_with_what_to_do(page: Page, console: Console) -> None:
    page.get_by_role("link", name="Live decisions").click()
    expect(page.get_by_text("Watching.")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="key_unknown").first
    _until(lambda: console.send("made-up") == 401 and row.is_visible())
    page.get_by_role("button", name="Stop").click()
    row.locator("summary").click()
    expect(row).to_contain_text("check that it belongs to this gateway")


def test_the_health_of_what_the_gateway_needs_is_shown(page: Page) -> None:
    page.get_by_role("link", name="Health").click()
    expect(page.get_by_text("2 of 2 workers accept requests")).to_be_visible()
    expect(page.get_by_text("keys.db")).to_be_visible()


def test_of_many_keys_some_are_shown_and_all_are_found(page: Page, console: Console) -> None:
    for number in range(60):
        console.create(f"sender-{number:02}", description="one of many")
    page.reload()
    page.get_by_label("Search").fill("one many")
    expect(page.get_by_text("1–50 of 60")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("row", name=re.compile("sender-59"))).to_be_visible()
    page.get_by_label("Search").fill("sender-07")
    expect(page.get_by_role("row", name=re.compile("sender-"))).to_have_count(1)
    page.get_by_label("Show").select_option("disabled")
    expect(page.get_by_text("No API key matches.")).to_be_visible()


def test_ten_thousand_keys_are_searched_filtered_sorted_and_turned_over(
    page: Page, console: Console, tmp_path: Path
) -> None:
    """However many there are, the page holds a few of them."""
    file = tmp_path / "keys.jsonl"
    entries = (
        {
            "digest": f"sha256:{hashlib.sha256(f'bulk {number}'.encode()).hexdigest()}",
            "name": f"bulk-{number:05}",
            "labels": {"site": f"site-{number % 100}"},
            "enabled": number % 10 != 0,
        }
        for number in range(10_000)
    )
    file.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    config = console.gateway.config_file
    subprocess.run([COMMAND, "keys", "import", file, "--config", config], check=True)
    page.reload()
    page.get_by_label("Search").fill("bulk-")
    rows = page.locator("tbody tr")
    expect(page.get_by_text("1–50 of 10000")).to_be_visible()
    assert page.locator("*").count() < 2_000
    assert Axe().run(page).violations_count == 0

    page.get_by_role("button", name=re.compile("^Name")).click()
    expect(rows.first).to_contain_text("bulk-09999")
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("51–100 of 10000")).to_be_visible()
    expect(rows.first).to_contain_text("bulk-09949")
    page.get_by_label("Search").fill("site=site-42")
    expect(page.get_by_text("1–50 of 100", exact=True)).to_be_visible()
    page.get_by_label("Search").fill("bulk-07")
    page.get_by_label("Show").select_option("disabled")
    expect(page.get_by_text("1–50 of 100", exact=True)).to_be_visible()
    page.get_by_label("Search").fill("bulk-01230")
    expect(rows).to_have_count(1)
    region = page.get_by_role("region", name="API keys")
    page.get_by_label("Search").fill("bulk-")
    region.focus()
    page.keyboard.press("End")
    expect(rows.last).to_be_in_viewport()
    assert page.locator("*").count() < 2_000


def test_everything_works_with_the_keyboard_alone(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/ui")
    expect(page.get_by_label("Admin token")).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    create = page.get_by_role("button", name="Create a key")
    expect(create).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if create.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(create).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_no_page_has_an_error_of_accessibility(
    page: Page, console: Console, scheme: Any, width: int
) -> None:
    console.create("expires", expiration=4_000_000_000_000, limits={"requests": 5})
    page.set_viewport_size({"width": width, "height": 720})
    page.emulate_media(color_scheme=scheme)
    for name in ("Keys", "Live decisions", "Health", "Audit log"):
        page.get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        page.wait_for_load_state("load")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(wider), f"{name} scrolls sideways"
    page.get_by_role("link", name="Keys").click()
    page.get_by_role("button", name="Create a key").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_cookie_alone_opens_nothing(page: Page, console: Console) -> None:
    """A page of another site could have the browser send it."""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    value = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert console.ask("GET", KEYS, headers=value)[0] == 401
    assert console.ask("DELETE", f"{KEYS}/1", headers=value)[0] == 401
    proof = page.evaluate("fetch('/ui/session').then((response) => response.json())")["proof"]
    assert console.ask("GET", KEYS, headers={**value, "X-Console-Proof": proof})[0] == 200
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Admin token")).to_be_visible()
    assert console.ask("GET", KEYS, headers={**value, "X-Console-Proof": proof})[0] == 401


def test_pages_may_load_nothing_from_elsewhere_and_stand_in_no_frame(console: Console) -> None:
    for path in ("/ui/", "/ui/console.js", "/ui/console.css"):
        status, _, headers = console.ask("GET", path, headers={})
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        again = {"If-None-Match": headers["ETag"]}
        assert console.ask("GET", path, headers=again)[0] == 304
    for path in ("/ui/nothing.js", "/ui/..%2f__init__.py", "/ui/__init__.py"):
        assert console.ask("GET", path, headers={})[0] == 404


@pytest.mark.parametrize("body", [None, [], {"token": 1}, {"token": ""}])
def test_a_sign_in_of_another_form_is_refused(console: Console, body: object) -> None:
    assert console.ask("POST", "/ui/session", body, headers={})[0] == 400


def test_a_token_that_is_removed_signs_its_owner_out(browser: Browser, tmp_path: Path) -> None:
    """Of a gateway of its own: others sign in with the tokens of the one that is shared."""
    with running_console(tmp_path) as console:
        context = browser.new_context(base_url=console.gateway.admin_url)
        page = _signed_in(context, "the-token-of-bob")
        expect(page.get_by_text("bob", exact=True)).to_be_visible()

        file = console.gateway.config_file
        config = yaml.safe_load(file.read_text())
        config["admin"]["tokens"] = config["admin"]["tokens"][:1]
        file.write_text(yaml.safe_dump(config))
        console.gateway.program.process.send_signal(signal.SIGHUP)
        bobs = {"X-API-Token": "the-token-of-bob"}
        _until(lambda: bool(console.ask("GET", KEYS, headers=bobs)[0] == 401))

        page.get_by_role("link", name="Audit log").click()
        expect(page.get_by_role("alert")).to_contain_text("You are signed out")
        context.close()
