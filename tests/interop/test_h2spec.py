"""h2spec against a listener: what fails is known, explained in `docs/h2spec.md`, and little."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway.receiver import ReceivedRequest, Receiver
from gateway.receiver.server import split_address
from tests.interop.fleet import Fleet
from tests.support.process import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = Path(__file__).parents[2] / "docs" / "h2spec.md"
PATH = "/livez"
"""Answered by the listener itself, to GET, with a body that fills and outlasts small windows."""

TESTS = 145
MUST_PASS = 144

NO_PREFACE = ("http2/3.5", "Sends invalid connection preface")
"""The receiver takes it for HTTP/1.1, answers 400 and closes; h2spec may stumble over the text."""

_ROW = re.compile(r"^\| `(?P<section>[^`]+)` \| (?P<title>[^|]+) \|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """One test of h2spec."""

    section: str
    title: str
    verdict: str
    detail: str

    @property
    def name(self) -> tuple[str, str]:
        return self.section, self.title


def results(report: Path) -> list[Result]:
    """Read h2spec's JUnit report."""
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314  # h2spec wrote it
        verdict, detail = "passed", ""
        for child in case:
            if child.tag in {"error", "failure", "skipped"}:
                verdict, detail = child.tag, child.text or ""
        found.append(Result(case.attrib["package"], case.attrib["classname"], verdict, detail))
    return found


def explained() -> set[tuple[str, str]]:
    """Return section and title of each test that the document explains."""
    return {(row["section"], row["title"].strip()) for row in _ROW.finditer(DOCUMENT.read_text())}


@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "tls"])
async def test_a_listener_conforms_to_http2(
    fleet: Fleet, tool: Callable[[str], Path], tmp_path: Path, *, secure: bool
) -> None:
    report = tmp_path / "report.xml"
    port = fleet.tls_port if secure else fleet.port
    command: list[str | Path] = [tool("h2spec"), "--host=127.0.0.1", f"--port={port}"]
    command += [f"--path={PATH}", f"--junit-report={report}"]
    command += ["--tls", "--insecure"] if secure else []

    async with running(command) as program:
        await program.wait(110)

    found = results(report)
    others = [result for result in found if result.verdict != "passed"]
    assert len(found) == TESTS
    assert len(found) - len(others) >= MUST_PASS, others
    assert {result.name for result in others} <= explained(), others
    assert explained() <= {result.name for result in found}
    status, ready = await fleet.gateway.get("/readyz")
    assert status == 200, ready
    fleet.check()


async def test_the_debug_receiver_conforms_to_http2(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    records: list[ReceivedRequest] = []
    async with Receiver(records.append, grpc=None) as receiver:
        port = split_address(receiver.http_address)[1]
        command: list[str | Path] = [tool("h2spec"), "--host=127.0.0.1", f"--port={port}"]
        command += ["--path=/v1/traces", f"--junit-report={report}"]
        async with running(command) as program:
            await program.wait(110)

    found = results(report)
    others = {result.name for result in found if result.verdict != "passed"}
    assert len(found) == TESTS
    assert others <= explained() | {NO_PREFACE}, others
    assert records
