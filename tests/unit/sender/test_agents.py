from __future__ import annotations

import json

import pytest

from gateway.outcome import ERROR_DOMAIN
from gateway.sender import agents
from gateway.sender.explain import REASON_ADVICE, Verdict, explain_response
from gateway.sender.target import Plan, PlanError, SendProtocol, parse_endpoint

STARTED_NS = 1_700_000_000_000_000_000


def test_the_topology_sample_is_what_the_documentation_sends() -> None:
    body, items = agents.sample(agents.TOPOLOGY, 1, STARTED_NS)
    content = json.loads(body)
    assert content["collection_timestamp"] == 1_700_000_000
    (topology,) = content["topologies"]
    known = {component["externalId"] for component in topology["components"]}
    for relation in topology["relations"]:
        assert {relation["sourceId"], relation["targetId"]} <= known
    (health,) = content["health"]
    (state,) = health["check_states"]
    assert state["topologyElementIdentifier"] in known
    assert items == len(topology["components"]) + len(topology["relations"]) + 1


def test_the_series_sample_grows_with_each_round() -> None:
    bodies = [agents.sample(agents.SERIES, number, STARTED_NS)[0] for number in (1, 2)]
    orders = [json.loads(body)["series"][0]["points"][0][1] for body in bodies]
    assert orders == [1, 2]


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_success_is_accepted_whatever_its_body(status: int) -> None:
    answer = agents.parse_agent_response(status, {"content-type": "text/html"}, b"<p>")
    assert explain_response(answer, agents.SERIES).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "status, words",
    [
        (302, "do not retry"),
        (400, "assume it was accepted"),
        (401, "the main forwarder retries"),
        (403, "assume it was accepted"),
        (404, "assume it was accepted"),
        (429, "keep the data"),
        (500, "keep the data"),
        (501, "do not retry"),
        (503, "keep the data"),
    ],
)
def test_a_refusal_says_what_becomes_of_the_data(status: int, words: str) -> None:
    explanation = explain_response(agents.parse_agent_response(status, {}, b""), agents.TOPOLOGY)
    assert explanation.verdict is Verdict.REFUSED
    assert words in explanation.facts[-1]
    assert f"HTTP {status}" in explanation.headline


def test_the_gateways_own_refusal_is_explained_by_its_reason() -> None:
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "INTAKE_KEY_MISSING",
            "domain": ERROR_DOMAIN,
        }
    ]
    body = json.dumps({"code": 16, "message": "no key", "details": details}).encode()
    headers = {"content-type": "application/json", "retry-after": "2"}
    answer = agents.parse_agent_response(401, headers, body)
    assert (answer.message, answer.retry_after_s) == ("no key", 2.0)
    explanation = explain_response(answer, agents.TOPOLOGY)
    assert explanation.advice == REASON_ADVICE["INTAKE_KEY_MISSING"]


def test_a_round_is_one_request_to_each_path_whatever_the_signals() -> None:
    endpoint = parse_endpoint("http://h/receiver/stsAgent/", SendProtocol.INTAKE)
    plan = Plan(endpoint, SendProtocol.INTAKE, ())
    assert [service.http_path for service in plan.services] == ["/intake", "/api/v1/series"]
    assert plan.endpoint.prefix == "/receiver/stsAgent"


def test_an_endpoint_that_has_the_agents_path_already_is_a_fault() -> None:
    with pytest.raises(PlanError, match="remove '/intake'"):
        parse_endpoint("http://h/stsAgent/intake", SendProtocol.INTAKE)
