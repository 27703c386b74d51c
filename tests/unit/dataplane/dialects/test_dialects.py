"""What each kind of client is told, without any connection."""

from __future__ import annotations

import pytest

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import FieldSection, RequestHead
from gateway.dataplane.core.seams import Dialect
from gateway.dataplane.dialects.intake.dialect import IntakeDialect, IntakeRules
from gateway.dataplane.dialects.otlp import GrpcDialect, OtlpHttpDialect
from gateway.outcome import CANCELED, REFUSALS
from tests.support.plane import KEY, SCHEMES

FIELDS = ForwardedFields(None, is_callers_key=True, identity=False)
READER = CredentialReader(SCHEMES)
GRPC = GrpcDialect(FIELDS, 429)
HTTP = OtlpHttpDialect(FIELDS, 429)


def intake(*, withholds: bool = False, passes: bool = False) -> IntakeDialect:
    rules = IntakeRules("metrics", "agent", withholds, passes)
    return IntakeDialect(rules, READER, FIELDS)


def head(content_type: bytes, *, is_http2: bool = True, query: bytes | None = None) -> RequestHead:
    made = RequestHead(b"POST", b"/", query, is_http2=is_http2)
    made.content_type = content_type
    return made


@pytest.mark.parametrize(
    "dialect, content_type, is_admitted",
    [
        (GRPC, b"application/grpc", True),
        (GRPC, b"application/grpc+proto", True),
        (GRPC, b"application/grpc+json", False),
        (GRPC, b"application/json", False),
        (HTTP, b"application/json; charset=utf-8", True),
        (HTTP, b"Application/X-Protobuf", True),
        (HTTP, b"text/plain", False),
        (intake(), b"text/plain", True),
    ],
)
def test_content_types_are_the_dialects_own(
    dialect: Dialect, content_type: bytes, is_admitted: bool
) -> None:
    assert (dialect.admit(head(content_type)) is None) is is_admitted


def answer_head(status: int, content_type: bytes, grpc_status: int = -1) -> FieldSection:
    fields = [(b"Content-Type", content_type)] if content_type else []
    section = FieldSection(status, fields)
    section.grpc_status = grpc_status
    return section


PAGE = b"Text/HTML; charset=utf-8"
PLAIN = b"text/plain"


@pytest.mark.parametrize(
    "dialect, status, content_type, is_foreign",
    [
        (HTTP, 200, b"application/x-protobuf", False),
        (HTTP, 200, b"Application/JSON; charset=utf-8", False),
        (HTTP, 200, b"", False),
        (HTTP, 204, b"", False),
        (HTTP, 200, PAGE, True),
        (HTTP, 200, PLAIN, True),
        (HTTP, 302, PAGE, True),
        (HTTP, 302, b"", True),
        (HTTP, 307, b"application/json", True),
        (HTTP, 400, b"application/x-protobuf", False),
        (HTTP, 400, PAGE, True),
        (HTTP, 400, b"", True),
        (HTTP, 404, PLAIN, True),
        (HTTP, 413, PLAIN, True),
        (HTTP, 401, PLAIN, False),
        (HTTP, 403, b"", False),
        (HTTP, 403, PAGE, True),
        (HTTP, 429, PAGE, False),
        (HTTP, 500, PLAIN, False),
        (HTTP, 500, PAGE, True),
        (HTTP, 502, PAGE, False),
        (HTTP, 503, PAGE, False),
        (HTTP, 504, PLAIN, False),
        (GRPC, 200, b"application/grpc", False),
        (GRPC, 200, b"application/grpc+proto", False),
        (GRPC, 200, b"", False),
        (GRPC, 200, PAGE, True),
        (GRPC, 302, b"", True),
        (GRPC, 404, PLAIN, True),
        (GRPC, 415, b"application/grpc", False),
        (GRPC, 502, PAGE, False),
        (intake(), 200, PLAIN, False),
        (intake(), 202, b"", False),
        (intake(), 400, PLAIN, False),
        (intake(), 403, b"", False),
        (intake(), 200, PAGE, True),
        (intake(), 404, PAGE, True),
        (intake(), 302, b"", True),
        (intake(), 503, PAGE, False),
    ],
)
def test_an_answer_counts_when_a_server_of_the_protocol_gave_it(
    dialect: Dialect, status: int, content_type: bytes, is_foreign: bool
) -> None:
    section = answer_head(status, content_type)
    assert dialect.is_foreign(section) is is_foreign
    assert dialect.is_foreign(section) is is_foreign, "the second time it is remembered"


def test_a_grpc_status_is_a_verdict_whatever_the_type() -> None:
    assert not GRPC.is_foreign(answer_head(200, PAGE, 3))


def test_a_grpc_client_is_answered_in_grpc_at_any_otlp_path() -> None:
    for dialect in (GRPC, HTTP):
        reply = dialect.reply(REFUSALS["KEY_MISSING"], head(b"application/grpc"), b"")
        assert reply is not None
        assert (reply.code, reply.section.grpc_status) == ("UNAUTHENTICATED", 16)


@pytest.mark.parametrize("reason", ["MEDIA_TYPE", "METHOD_NOT_ALLOWED"])
def test_refusals_of_what_is_no_grpc_request_are_in_http(reason: str) -> None:
    reply = GRPC.reply(REFUSALS[reason], head(b"application/grpc"), b"POST")
    assert reply is not None
    assert not reply.is_grpc
    assert ((b"allow", b"POST") in reply.section.fields) is (reason == "METHOD_NOT_ALLOWED")


def test_the_status_of_a_quota_is_a_setting_on_otlp_routes_only() -> None:
    other = OtlpHttpDialect(FIELDS, 503)
    reply = other.reply(REFUSALS["QUOTA"], head(b"application/json"), b"")
    assert reply is not None
    assert reply.code == "503"
    of_agent = intake().reply(REFUSALS["QUOTA"], head(b"application/json"), b"")
    assert of_agent is not None
    assert of_agent.code == "503", "agents try again on that alone"


def test_an_agent_may_get_no_answer_where_it_should_try_again() -> None:
    request = head(b"application/json")
    assert intake(withholds=True).reply(REFUSALS["OVERLOADED"], request, b"") is None
    assert intake(withholds=True).reply(REFUSALS["KEY_MISSING"], request, b"") is not None


def test_only_grpc_has_trailers_for_an_answer_that_has_begun() -> None:
    late = GRPC.late_trailers(REFUSALS["BACKEND_LOST"])
    assert late is not None
    assert (late.status, late.grpc_status) == (0, 14)
    assert HTTP.late_trailers(REFUSALS["BACKEND_LOST"]) is None
    assert intake().late_trailers(REFUSALS["BACKEND_LOST"]) is None


def test_the_code_of_a_grpc_answer_comes_with_its_trailers() -> None:
    section = FieldSection(200, [])
    assert GRPC.code(section) is None
    assert HTTP.code(section) == intake().code(section) == "200"
    section.grpc_status = 99
    assert GRPC.code(section) == "UNKNOWN"
    assert GRPC.code(FieldSection(502, [])) == "502"
    assert GRPC.code_of(CANCELED, head(b"application/grpc")) == "CANCELLED"
    assert HTTP.code_of(CANCELED, head(b"application/json")) == "499"


def test_a_key_in_the_query_is_one_on_the_intake_only() -> None:
    request = head(b"application/json", query=b"api_key=" + KEY.encode())
    assert HTTP.find_credential(request).digest is None
    assert intake().find_credential(request).digest is not None


@pytest.mark.parametrize("passes", [True, False])
def test_a_kubernetes_token_passes_unchecked_where_the_route_allows_it(passes: bool) -> None:
    request = head(b"application/json")
    request.credentials.append(READER.read(b"authorization", b"ServiceBearer token"))
    dialect = intake(passes=passes)
    credential = dialect.find_credential(request)
    assert credential.passes_unchecked is passes
    assert (dialect.fields_for(credential) is not FIELDS) is passes
