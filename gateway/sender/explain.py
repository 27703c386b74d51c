"""What an answer, or none, means for the sender, and what to do about it: plain words.

Pure: answer in, explanation out. Every reason that the gateway can give has its advice here
(a test walks `outcome.REFUSALS`); answers of other servers are explained by their codes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from gateway.otlp.services import Service
from gateway.otlp.text import printable
from gateway.outcome import ERROR_DOMAIN, GrpcCode
from gateway.sender.agents import AgentPath, what_agents_do
from gateway.sender.answer import Answer
from gateway.sender.target import Plan
from gateway.sender.unreachable import Cause, UnreachableError

_LONGEST_MESSAGE: Final = 500


class Verdict(enum.IntEnum):
    """How one request ended, from good to bad."""

    ACCEPTED = 0
    REFUSED = 1
    UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class Explanation:
    """One outcome in words. `facts` are what came back, `advice` what to do, in order."""

    verdict: Verdict
    headline: str
    facts: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


_GIVE_KEY = "pass the key with --key-file FILE, or set GATEWAY_KEY"
_NEW_KEY = "create a key with 'gateway keys create --name NAME' and give it to this sender"
_SCHEME = "use --scheme StackState (in a Collector: 'scheme: StackState' under bearertokenauth)"
_WHOLE_KEY = "copy the key again, whole, as it was shown when it was created"
_SMALLER = "send smaller batches (in a Collector: sending_queue.batch.max_size), or raise the limit"
_OPERATOR = "nothing is wrong with this sender: the operator of the gateway must act"
_WAIT = "wait and try again; senders do so by themselves"
_BACKEND = "the gateway is reached and the key is good: look at the backend behind it"
_PROTOCOL = "check that --endpoint, its port and --protocol belong together"

REASON_ADVICE: Final[dict[str, tuple[str, ...]]] = {
    "KEY_MISSING": (_GIVE_KEY,),
    "SCHEME_BEARER": (_SCHEME,),
    "SCHEME_UNKNOWN": (_SCHEME, "the accepted schemes stand in auth.schemes of the gateway"),
    "KEY_PERCENT_ENCODED": ("write a space, not %20, between scheme and key for this sender",),
    "KEY_EMPTY": (_GIVE_KEY,),
    "KEY_TOO_LONG": (_WHOLE_KEY,),
    "KEY_CHARACTERS": (_WHOLE_KEY,),
    "AUTHORIZATION_REPEATED": ("set the Authorization header in one place only",),
    "INTAKE_KEY_MISSING": ("set STS_API_KEY where the agent runs, or send the header sts-api-key",),
    "INTAKE_SCHEME": ("send the key in the header sts-api-key", _PROTOCOL),
    "KEY_BASIC": ("use apikey as the user's name and the key as the password",),
    "SERVICE_BEARER": ("send a key instead of the Kubernetes token", _OPERATOR),
    "KEY_CONFLICT": ("remove one of the two keys: Authorization, sts-api-key or api_key",),
    "KEY_UNKNOWN": (
        "check that the key is for this gateway: 'gateway keys list' shows the names it knows",
        _NEW_KEY,
    ),
    "KEY_TYPO": (_WHOLE_KEY,),
    "KEY_EXPIRED": (_NEW_KEY,),
    "KEY_REVOKED": (_NEW_KEY,),
    "KEY_DISABLED": (_OPERATOR,),
    "SIGNAL_NOT_ALLOWED": ("send with a key that may send this signal",),
    "UNDECIDED": (_WAIT, "if it lasts: the gateway's key store or key authority is down"),
    "OVERLOADED": (_WAIT, "if it lasts: the backend is slow, or limits.buffer_memory too small"),
    "CONNECTION_LIMIT": (_WAIT, "if it lasts: raise limits.max_connections"),
    "QUOTA": (
        _WAIT,
        "if it lasts: raise its limits or limits.per_key, or spread the load over several keys",
    ),
    "BODY_TOO_LARGE": (_SMALLER,),
    "NOT_FOUND": (_PROTOCOL,),
    "METHOD_NOT_ALLOWED": (_PROTOCOL,),
    "MEDIA_TYPE": ("use --protocol http (protobuf) or --protocol json",),
    "GRPC_MEDIA_TYPE": ("use --protocol grpc for this path",),
    "MALFORMED": ("look for a proxy between here and the gateway that changes requests",),
    "HEAD_TOO_LARGE": ("send fewer or shorter headers",),
    "STALLED": ("check the network between here and the gateway", _WAIT),
    "BACKEND_REFUSED": (_OPERATOR, "its forward.key does not suit its backend"),
    "BACKEND_UNREACHABLE": (_BACKEND,),
    "NO_BACKEND_OTLP_GRPC": (_OPERATOR, "it has no backend for gRPC; --protocol http may work"),
    "NO_BACKEND_OTLP_HTTP": (_OPERATOR, "it has no backend for HTTP; --protocol grpc may work"),
    "NO_BACKEND_INTAKE": (_OPERATOR,),
    "BACKEND_LOST": (_BACKEND,),
    "BACKEND_TIMEOUT": (_BACKEND,),
    "CANCELED": ("give the request more time with --timeout",),
    "INTERNAL": (_WAIT, "this is a bug in the gateway: its log has the details, please report it"),
}
"""By `ErrorInfo.reason` of the gateway's own answers."""

_GRPC_ADVICE: Final[dict[GrpcCode, tuple[str, ...]]] = {
    GrpcCode.UNAUTHENTICATED: ("the server does not accept the key", _GIVE_KEY, _SCHEME),
    GrpcCode.PERMISSION_DENIED: ("the key is known, but may not send this",),
    GrpcCode.UNIMPLEMENTED: (
        "the server has no service for this signal or does not know this compression",
    ),
    GrpcCode.RESOURCE_EXHAUSTED: (_SMALLER,),
    GrpcCode.INVALID_ARGUMENT: ("the server cannot read the data: try --compression none",),
    GrpcCode.UNAVAILABLE: (_WAIT,),
    GrpcCode.DEADLINE_EXCEEDED: ("give the server more time with --timeout",),
}
_HTTP_ADVICE: Final[dict[int, tuple[str, ...]]] = {
    400: ("the server cannot read the data: try --compression none, or --protocol http",),
    401: ("the server does not accept the key", _GIVE_KEY, _SCHEME),
    403: ("the server knows the key, but does not allow this",),
    404: (
        "nothing answers at this path: --endpoint is the base URL, the signal's path is added",
        _PROTOCOL,
    ),
    405: (_PROTOCOL,),
    408: ("give the server more time with --timeout",),
    413: (_SMALLER,),
    415: ("the server does not take this content type or compression",),
    429: ("the server limits how much may be sent", _WAIT),
    502: ("a proxy cannot reach the server behind it",),
    503: (_WAIT,),
    504: ("a proxy waited too long for the server behind it",),
}
_FIRST_REDIRECT, _LAST_REDIRECT = 300, 399


def explain_answer(answer: Answer, service: Service | AgentPath) -> Explanation:
    """Say what an answer means."""
    if not answer.is_accepted:
        return _refused(answer)
    if answer.rejected:
        return Explanation(
            Verdict.REFUSED,
            f"accepted in part: {service.count(answer.rejected)} left out by the server",
            _said(answer.warning),
            ("senders must not send the rest again: fix what the server names",),
        )
    if answer.warning:
        return Explanation(Verdict.ACCEPTED, "accepted, with a warning", _said(answer.warning))
    return Explanation(Verdict.ACCEPTED, "accepted")


def _refused(answer: Answer) -> Explanation:
    facts = [*_said(answer.message)]
    facts.extend(f"at {printable(place, _LONGEST_MESSAGE)}" for place in answer.violations)
    facts.append(_what_senders_do(answer))
    if answer.reason:
        headline = f"refused: {answer.code} ({printable(answer.reason)})"
    elif answer.is_otlp:
        headline = f"refused: {answer.code}"
    else:
        headline = f"refused: {answer.code}, and not by an OTLP server"
    return Explanation(Verdict.REFUSED, headline, tuple(facts), _advice(answer))


def _said(text: str) -> tuple[str, ...]:
    return (f"the server says: {printable(text, _LONGEST_MESSAGE)}",) if text else ()


def _what_senders_do(answer: Answer) -> str:
    """Say what senders do on this answer (OTLP specification, "Failures"; `agents`)."""
    if answer.is_agents:
        return what_agents_do(answer.http)
    if not answer.is_retryable:
        return "SDKs and Collectors drop the data on this answer: it is final"
    if answer.retry_after_s is None:
        return "SDKs and Collectors keep the data and try again"
    return f"SDKs and Collectors keep the data and try again after {answer.retry_after_s:g} s"


def _advice(answer: Answer) -> tuple[str, ...]:
    if answer.domain == ERROR_DOMAIN and answer.reason in REASON_ADVICE:
        return REASON_ADVICE[answer.reason]
    if _FIRST_REDIRECT <= answer.http <= _LAST_REDIRECT:
        return (f"send to {printable(answer.location, _LONGEST_MESSAGE)} instead",)
    advice = (
        _HTTP_ADVICE.get(answer.http, ())
        if answer.grpc is None
        else _GRPC_ADVICE.get(answer.grpc, ())
    )
    return advice if answer.is_otlp else (*advice, "another kind of server answers here", _PROTOCOL)


def explain_failure(failure: UnreachableError, plan: Plan) -> Explanation:
    """Say why no answer came."""
    headline, advice = _failure(failure.cause, plan)
    detail = printable(failure.detail, _LONGEST_MESSAGE)
    facts = (f"in the library's words: {detail}",) if detail else ()
    return Explanation(Verdict.UNREACHABLE, headline, facts, advice)


def _failure(cause: Cause, plan: Plan) -> tuple[str, tuple[str, ...]]:
    """Fill in what the table says of a cause."""
    headline, advice = (_TLS_FAILURES | _NETWORK_FAILURES)[cause]
    words = {
        "address": plan.endpoint.authority,
        "host": plan.endpoint.host,
        "timeout": f"{plan.timeout_s:g}",
    }
    return headline.format(**words), tuple(line.format(**words) for line in advice)


_Words = tuple[str, tuple[str, ...]]

_TLS_FAILURES: Final[dict[Cause, _Words]] = {
    Cause.UNKNOWN_CA: (
        "TLS: the certificate of {address} is signed by nobody whom this machine trusts",
        (
            "name the CA's certificate with --ca-file FILE (a Collector: tls.ca_file)",
            "to try without any check: --insecure-skip-verify; the key can then be stolen",
        ),
    ),
    Cause.WRONG_NAME: (
        "TLS: the certificate of {address} was made for another name",
        ("use a name that stands in the certificate, or have {host} added to it",),
    ),
    Cause.CERTIFICATE_EXPIRED: (
        "TLS: the certificate of {address} is not valid at this time",
        ("renew the certificate; check the clocks of both machines",),
    ),
    Cause.CLIENT_CERTIFICATE: (
        "TLS: {address} wants a client certificate",
        ("this command sends none: use a listener without tls.client_ca_file",),
    ),
    Cause.TLS_OTHER: (
        "TLS: no secure connection to {address} came about",
        ("check that both sides allow a common TLS version (1.2 or 1.3)",),
    ),
    Cause.NOT_TLS: (
        "{address} does not speak TLS",
        ("write http:// instead of https://, or use the port that has TLS",),
    ),
    Cause.NEEDS_TLS: (
        "{address} speaks TLS, and this was sent in cleartext",
        ("write https:// instead of http://, with --ca-file for a private CA",),
    ),
    Cause.NO_HTTP2: (
        "TLS: {address} does not offer HTTP/2 (ALPN h2), which gRPC needs",
        (
            "use --protocol http",
            "or let what ends TLS there (ingress, load balancer) offer HTTP/2",
        ),
    ),
}

_NETWORK_FAILURES: Final[dict[Cause, _Words]] = {
    Cause.REFUSED: (
        "nothing listens on {address}",
        (
            "check host and port: OTLP/gRPC is usually 4317, OTLP/HTTP 4318",
            "is the gateway running? 'gateway demo' starts one",
        ),
    ),
    Cause.NO_SUCH_HOST: (
        "the name {host} is not known",
        ("check the spelling, and that this machine's DNS knows it",),
    ),
    Cause.NO_ROUTE: (
        "there is no way to {address} from here",
        ("check the network, VPN and firewall",),
    ),
    Cause.CONNECT_TIMEOUT: (
        "{address} does not react",
        ("check host and port; a firewall that drops silently looks like this",),
    ),
    Cause.NO_ANSWER: (
        "no answer from {address} within {timeout} s",
        (
            "check host and port; a firewall that drops silently looks like this",
            "give a slow server more time with --timeout",
        ),
    ),
    Cause.ONLY_HTTP1: (
        "{address} speaks HTTP/1.1 only, and gRPC needs HTTP/2",
        ("use --protocol http here, or gRPC's own port, usually 4317",),
    ),
    Cause.ONLY_HTTP2: (
        "{address} speaks HTTP/2 only: a gRPC port",
        ("use --protocol grpc here, or the port for OTLP/HTTP, usually 4318",),
    ),
    Cause.NOT_HTTP: (
        "what listens on {address} does not speak HTTP",
        ("check the port: OTLP/gRPC is usually 4317, OTLP/HTTP 4318",),
    ),
    Cause.BROKEN_OFF: (
        "{address} closed the connection without an answer",
        (
            "try again; if it lasts, look into the server's log, and for proxies in between",
            "with https://: a server that wants a client certificate may hang up like this",
        ),
    ),
    Cause.GOING_AWAY: (
        "{address} is closing its connections: it restarts, or has as many as it may",
        ("try again; senders do so by themselves",),
    ),
}
