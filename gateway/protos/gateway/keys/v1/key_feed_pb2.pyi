from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShareLimitsRequest(_message.Message):
    __slots__ = ("gateway", "report", "leaves")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    report: bytes
    leaves: bool
    def __init__(self, gateway: _Optional[str] = ..., report: _Optional[bytes] = ..., leaves: _Optional[bool] = ...) -> None: ...

class ShareLimitsResponse(_message.Message):
    __slots__ = ("reports",)
    class ReportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.ScalarMap[str, bytes]
    def __init__(self, reports: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class CountQuotasRequest(_message.Message):
    __slots__ = ("used", "asked", "periods")
    USED_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    PERIODS_FIELD_NUMBER: _ClassVar[int]
    used: _containers.RepeatedCompositeFieldContainer[QuotaUse]
    asked: _containers.RepeatedScalarFieldContainer[bytes]
    periods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, used: _Optional[_Iterable[_Union[QuotaUse, _Mapping]]] = ..., asked: _Optional[_Iterable[bytes]] = ..., periods: _Optional[_Iterable[str]] = ...) -> None: ...

class CountQuotasResponse(_message.Message):
    __slots__ = ("totals",)
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    totals: _containers.RepeatedCompositeFieldContainer[QuotaUse]
    def __init__(self, totals: _Optional[_Iterable[_Union[QuotaUse, _Mapping]]] = ...) -> None: ...

class QuotaUse(_message.Message):
    __slots__ = ("key_hash", "period", "requests", "body_bytes")
    KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    key_hash: bytes
    period: str
    requests: int
    body_bytes: int
    def __init__(self, key_hash: _Optional[bytes] = ..., period: _Optional[str] = ..., requests: _Optional[int] = ..., body_bytes: _Optional[int] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("history", "position", "follower")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FOLLOWER_FIELD_NUMBER: _ClassVar[int]
    history: str
    position: int
    follower: str
    def __init__(self, history: _Optional[str] = ..., position: _Optional[int] = ..., follower: _Optional[str] = ...) -> None: ...

class FollowResponse(_message.Message):
    __slots__ = ("revision", "position", "complete", "beginning", "snapshot_part", "changes", "heartbeat")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    BEGINNING_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_PART_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    position: int
    complete: bool
    beginning: Beginning
    snapshot_part: SnapshotPart
    changes: Changes
    heartbeat: Heartbeat
    def __init__(self, revision: _Optional[int] = ..., position: _Optional[int] = ..., complete: _Optional[bool] = ..., beginning: _Optional[_Union[Beginning, _Mapping]] = ..., snapshot_part: _Optional[_Union[SnapshotPart, _Mapping]] = ..., changes: _Optional[_Union[Changes, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Beginning(_message.Message):
    __slots__ = ("history", "resumed", "store_id", "heartbeat_ms")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    history: str
    resumed: bool
    store_id: str
    heartbeat_ms: int
    def __init__(self, history: _Optional[str] = ..., resumed: _Optional[bool] = ..., store_id: _Optional[str] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("keys", "last")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    last: bool
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...

class Changes(_message.Message):
    __slots__ = ("keys", "gone")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    gone: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., gone: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Key(_message.Message):
    __slots__ = ("digest", "id", "name", "created_ms", "updated_ms", "expires_at_ms", "deleted_at_ms", "disabled", "signals", "limits", "owner", "labels", "headers")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DELETED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    id: int
    name: str
    created_ms: int
    updated_ms: int
    expires_at_ms: int
    deleted_at_ms: int
    disabled: bool
    signals: SignalSet
    limits: Limits
    owner: str
    labels: _containers.ScalarMap[str, str]
    headers: _containers.ScalarMap[str, str]
    def __init__(self, digest: _Optional[bytes] = ..., id: _Optional[int] = ..., name: _Optional[str] = ..., created_ms: _Optional[int] = ..., updated_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., deleted_at_ms: _Optional[int] = ..., disabled: _Optional[bool] = ..., signals: _Optional[_Union[SignalSet, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., owner: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SignalSet(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("requests", "bytes", "concurrent", "requests_per_day", "bytes_per_day", "requests_per_month", "bytes_per_month")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    requests: int
    bytes: int
    concurrent: int
    requests_per_day: int
    bytes_per_day: int
    requests_per_month: int
    bytes_per_month: int
    def __init__(self, requests: _Optional[int] = ..., bytes: _Optional[int] = ..., concurrent: _Optional[int] = ..., requests_per_day: _Optional[int] = ..., bytes_per_day: _Optional[int] = ..., requests_per_month: _Optional[int] = ..., bytes_per_month: _Optional[int] = ...) -> None: ...
