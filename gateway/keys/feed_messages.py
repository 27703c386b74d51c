"""Records of keys as messages of the key feed (`proto/gateway/keys/v1/key_feed.proto`), and back.

What a message may hold that no record can is an error here: whoever reads a feed need not trust it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from gateway.keys.errors import InvalidInputError
from gateway.keys.record import KeyRecord, limits_as_json
from gateway.keys.tenancy import Tenancy, tenancy
from gateway.keys.tenancy_rules import check_tenancy
from gateway.model import MAX_KEY_ID, KeyDigest, KeyLimits, Signal
from gateway.protos.gateway.keys.v1 import key_feed_pb2 as pb

PART: Final = 2_000
"""Keys in one message, at most: 160 KB, and 10 ms to make or to read."""
_DIGEST_BYTES: Final = 32
_SIGNALS: Final = {signal.value: signal for signal in Signal}


class FeedMessageError(ValueError):
    """A message that no gateway sends."""


def message_of(record: KeyRecord) -> pb.Key:
    """Write a record. Its description and its own revision are left out."""
    key = pb.Key(
        digest=record.digest,
        id=record.id,
        name=record.name,
        created_ms=record.created_ms,
        updated_ms=record.updated_ms,
        disabled=not record.enabled,
    )
    if record.expires_at_ms is not None:
        key.expires_at_ms = record.expires_at_ms
    if record.deleted_at_ms is not None:
        key.deleted_at_ms = record.deleted_at_ms
    if record.signals is not None:
        key.signals.names.extend(sorted(record.signals))
        key.signals.SetInParent()
    if record.limits is not None:
        key.limits.CopyFrom(pb.Limits(**limits_as_json(record.limits)))
    given = record.tenancy
    if given is not None:
        key.owner = given.owner or ""
        key.labels.update(given.labels)
        key.headers.update(given.headers)
    return key


def parse_response(raw: bytes) -> pb.FollowResponse:
    """Read one message of a feed. Raises `FeedMessageError`."""
    try:
        return pb.FollowResponse.FromString(raw)
    except DecodeError as error:
        msg = "a message cannot be decoded"
        raise FeedMessageError(msg) from error


def records_of(keys: Iterable[pb.Key], revision: int) -> list[KeyRecord]:
    """Read records, all of one revision of the feed. Raises `FeedMessageError`."""
    return [_record_of(key, revision) for key in keys]


def check_digest(digest: bytes) -> KeyDigest:
    """Return what can be a key's digest. Raises `FeedMessageError`."""
    if len(digest) != _DIGEST_BYTES:
        msg = f"a digest has {len(digest)} bytes, not {_DIGEST_BYTES}"
        raise FeedMessageError(msg)
    return KeyDigest(digest)


def _record_of(key: pb.Key, revision: int) -> KeyRecord:
    key_id = key.id
    if not 0 < key_id <= MAX_KEY_ID:
        msg = f"a key has the id {key_id}"
        raise FeedMessageError(msg)
    name = key.name
    if not name.isprintable():
        name = "".join(each if each.isprintable() else "?" for each in name)
    record = KeyRecord(
        key_id,
        check_digest(key.digest),
        name,
        _number(key.created_ms),
        _number(key.updated_ms),
        revision,
        None,
        _number(key.expires_at_ms) if key.HasField("expires_at_ms") else None,
        _number(key.deleted_at_ms) if key.HasField("deleted_at_ms") else None,
        not key.disabled,
        _signals(key.signals.names) if key.HasField("signals") else None,
        _limits(key.limits) if key.HasField("limits") else None,
    )
    given = _tenancy(key)
    return record if given is None else record.replaced(tenancy=given)


def _tenancy(key: pb.Key) -> Tenancy | None:
    if not (key.owner or key.labels or key.headers):
        return None
    given = tenancy(key.owner, dict(key.labels), dict(key.headers))
    try:
        check_tenancy(given)
    except InvalidInputError as error:
        raise FeedMessageError(str(error)) from error
    return given


def _number(value: int) -> int:
    if value > MAX_KEY_ID:
        msg = f"a time or a limit is {value}"
        raise FeedMessageError(msg)
    return value


def _signals(names: Iterable[str]) -> frozenset[Signal]:
    """Read a set of signals; one that this version does not know lets nothing in here."""
    return frozenset(_SIGNALS[name] for name in names if name in _SIGNALS)


def _limits(limits: pb.Limits) -> KeyLimits | None:
    given = {each.name: value for each, value in limits.ListFields()}
    read = KeyLimits(*(_limit(given.get(name)) for name in KeyLimits._fields))
    return None if read == KeyLimits() else read


def _limit(value: int | None) -> int | None:
    return None if value is None else _number(value)
