"""The rules and the dashboard that we ship, judged by promtool and by a Prometheus that scrapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
import yaml

from tests.interop.fleet import AUTHORIZATION, Fleet, running_fleet
from tests.support.certs import Authority, Certificate
from tests.support.child import start_child
from tests.support.process import COMMAND, WAIT_S, free_ports, running
from tests.support.promql import ALERTS_FILE, DASHBOARD_FILE, Selector, rules, selectors
from tests.support.sdk import SDK_SIGNALS, SdkSender
from tests.support.tools import find_tool

pytestmark = pytest.mark.asyncio(loop_scope="module")

SITUATIONS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("alert_situations.yaml").read_text(encoding="utf-8")
)
ALERTS: Final = {rule["alert"]: rule for rule in rules() if "alert" in rule}
HEALTHY: Final = "gateway_build_info{job='g', instance='a', version='1'} 1+0x90"
"""Without it no gateway is scraped, which is an alert of its own."""
WINDOW: Final = "30s"
"""Stands for what Grafana puts in place of `$__rate_interval`."""


async def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Return promtool's exit code and what it says."""
    process = await start_child(
        find_tool("promtool"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def _series(lines: list[str]) -> list[dict[str, str]]:
    """Turn lines of `NAME{LABELS} VALUES` into promtool's form."""
    pairs = (line.partition("} ") for line in lines)
    return [{"series": name + "}", "values": values} for name, _, values in pairs]


def _test(name: str, lines: list[str], at: str, firing: list[dict[str, str]]) -> dict[str, Any]:
    """Return one of promtool's tests: which instances of an alert fire."""
    labels = [", ".join(f'{k}="{v}"' for k, v in each.items()) for each in firing]
    return {
        "name": name,
        "interval": "1m",
        "input_series": _series(lines),
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{name}", alertstate="firing"}}',
                "eval_time": at,
                "exp_samples": [{"labels": f"ALERTS{{{text}}}", "value": 1} for text in labels],
            }
        ],
    }


def _tests_of(name: str) -> Iterator[dict[str, Any]]:
    situation = SITUATIONS[name]
    labels = {
        "alertname": name,
        "alertstate": "firing",
        "severity": ALERTS[name]["labels"]["severity"],
        **situation.get("labels", {}),
    }
    yield _test(name, situation["fires"], situation["at"], [labels])
    yield _test(name, situation["silent"], situation["at"], [])


async def judged(folder: Path, tests: list[dict[str, Any]]) -> tuple[int, str]:
    """Have promtool run tests of the rules."""
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS_FILE)], "tests": tests}))
    return await promtool("test", "rules", file)


async def test_the_rules_are_well_formed() -> None:
    code, output = await promtool("check", "rules", ALERTS_FILE)
    assert code == 0, output
    assert f"{len(rules())} rules found" in output


async def test_every_alert_has_its_situations() -> None:
    assert set(SITUATIONS) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
async def test_an_alert_fires_where_it_should_and_is_silent_beside_that(
    tmp_path: Path, name: str
) -> None:
    code, output = await judged(tmp_path, list(_tests_of(name)))
    assert code == 0, output


async def test_a_situation_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    """The judge is awake."""
    fires, silent = _tests_of("GatewayReloadFailed")
    silent["promql_expr_test"] = fires["promql_expr_test"]
    code, output = await judged(tmp_path, [silent])
    assert code == 1
    assert "GatewayReloadFailed" in output


async def test_no_alert_fires_in_the_situations_beside_them_all(tmp_path: Path) -> None:
    """Of all alerts, not only of the one that a situation belongs to."""
    tests = []
    for name, situation in SITUATIONS.items():
        lines = situation["silent"]
        if not any("build_info" in line for line in lines):
            lines = [*lines, HEALTHY.replace("'", '"')]
        test = _test(name, lines, situation["at"], [])
        test["promql_expr_test"][0]["expr"] = 'ALERTS{alertstate="firing"}'
        tests.append(test)
    code, output = await judged(tmp_path, tests)
    assert code == 0, output


class Prometheus:
    """A Prometheus that has scraped a gateway under traffic."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the data that its API answers with; fails on an error."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def series(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query, as it is now."""
        found: list[dict[str, Any]] = (await self.ask("query", query=query))["result"]
        return found


@asynccontextmanager
async def scraping(binary: Path, folder: Path, admin_port: int) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with our rules that scrapes a gateway each second."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    targets = [{"targets": [f"127.0.0.1:{admin_port}"]}]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS_FILE)],
        "scrape_configs": [{"job_name": "otlp-gateway", "static_configs": targets}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    options = (
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    )
    async with (
        running((binary, *options)) as program,
        aiohttp.ClientSession() as session,
    ):
        await program.wait_line("Server is ready")
        yield Prometheus(f"http://{address}", session)


async def send_everything(fleet: Fleet) -> None:
    """Send each signal over each protocol, once with a key and once with an unknown one."""
    for signal in SDK_SIGNALS:
        for protocol in ("grpc", "http"):
            assert await SdkSender(protocol, fleet.port, AUTHORIZATION).send(signal, [1])
            assert not await SdkSender(protocol, fleet.port, "StackState no").send(signal, [1])


async def make_expiring_key(fleet: Fleet) -> None:
    """Create a key that expires, but not soon."""
    day = (datetime.now(UTC) + timedelta(days=90)).date().isoformat()
    options = ("--name", "expires", "--expiration", day, "--config", str(fleet.gateway.config_file))
    process = await start_child(COMMAND, "keys", "create", *options)
    assert await process.wait() == 0


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="prometheus_at_work")
async def _prometheus_at_work(
    tmp_path_factory: pytest.TempPathFactory,
    server_certificate: Certificate,
    authority: Authority,
    prometheus: Path,
) -> AsyncIterator[Prometheus]:
    folder = tmp_path_factory.mktemp("monitored")
    async with running_fleet(folder, server_certificate, authority.cert_file) as fleet:
        await make_expiring_key(fleet)
        async with scraping(prometheus, folder, fleet.gateway.admin_port) as scraper:
            async with asyncio.timeout(4 * WAIT_S):
                await send_everything(fleet)
                while not await scraper.series("job_result:gateway_requests:rate5m > 0"):
                    await send_everything(fleet)
                    await asyncio.sleep(0.2)
            yield scraper


def _queries() -> list[tuple[str, str]]:
    read = json.loads(DASHBOARD_FILE.read_text(encoding="utf-8"))
    return [
        (panel["title"], query["expr"])
        for panel in read["panels"]
        for query in panel.get("targets", [])
    ]


def _chosen(expression: str) -> str:
    """Fill in an expression's variables as Grafana does."""
    for variable, value in (
        ("$__rate_interval", WINDOW),
        ("$job", ".+"),
        ("$instance", ".+"),
    ):
        expression = expression.replace(variable, value)
    return expression


async def test_every_series_that_is_asked_for_exists_in_a_gateway_under_traffic(
    prometheus_at_work: Prometheus,
) -> None:
    expressions = [rule["expr"] for rule in rules()] + [query for _, query in _queries()]
    asked: set[Selector] = {s for text in expressions for s in selectors(_chosen(text))}
    missing = {
        f"{each.name}{each.matchers}"
        for each in asked
        if not await prometheus_at_work.series(f"count({each.name}{each.matchers})")
    }
    # No PostgreSQL, no quota and no list of revoked certificates is in use here.
    assert {name for name in missing if "{job=~" not in name} == {
        'gateway_key_store_revision{store="postgresql"}',
        "gateway_key_quota_used_ratio",
        "gateway_tls_crl_next_update_timestamp_seconds",
    }
    assert {name.partition("{")[0] for name in missing if "{job=~" in name} == {
        "gateway_key_quota_used_ratio",
        "gateway_tls_crl_next_update_timestamp_seconds",
    }


async def test_every_query_of_the_dashboard_is_understood_and_most_show_something(
    prometheus_at_work: Prometheus,
) -> None:
    empty = {
        title for title, query in _queries() if not await prometheus_at_work.series(_chosen(query))
    }
    # What shows nothing where nothing is wrong, or where no agent sends.
    assert empty <= {
        "Agents",
        "Other refusals",
        "Workers",  # its second query: unsteady places
        "Workers replaced",
        "Refused connections",
        "Abuse",
        "Authority",  # its first query
        "Tokens of identity providers",
        "Refusals by key",
        "Time until a change is in force",
        "Certificates",  # its second query: no list of revoked ones
        "Quotas used",
        "Samples of requests",
        "Items by key",
        "Error of items by key",
    }


async def test_every_rule_is_evaluated_and_only_what_is_so_is_told(
    prometheus_at_work: Prometheus,
) -> None:
    groups = (await prometheus_at_work.ask("rules"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules())
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    states = {rule["name"]: rule["state"] for rule in found if rule["type"] == "alerting"}
    # The certificates of tests live for two days.
    assert {name for name, state in states.items() if state == "firing"} == {
        "GatewayCertificateExpires"
    }
    assert {name for name, state in states.items() if state == "pending"} <= {"GatewayKeysRefused"}


async def test_a_refused_sender_is_shown(prometheus_at_work: Prometheus) -> None:
    (query,) = (text for title, text in _queries() if title == "Refused keys by reason")
    (found,) = await prometheus_at_work.series(_chosen(query).replace(WINDOW, "1h"))
    assert found["metric"] == {"outcome": "key_unknown"}
