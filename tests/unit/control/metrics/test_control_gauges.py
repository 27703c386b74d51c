from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import __version__, compiled, metrics
from gateway.control.metrics.control_gauges import (
    REMEMBERED_S,
    SHOWN,
    ControlGauges,
    certificate_expiries,
)
from gateway.control.workers.worker_set import WorkerSet
from gateway.keys.errors import STORE_ERROR_REASONS
from gateway.keys.following.status import StoreStatus
from gateway.keys.record import KeyRecord, KnownKey, StaticKey
from gateway.model import digest_of

NOW_S = 1_700_000_000.0


def record(number: int, expires_in_s: float | None = None, *, deleted: bool = False) -> KeyRecord:
    return KeyRecord(
        number,
        digest_of(str(number).encode()),
        f"name {number}",
        created_ms=0,
        updated_ms=0,
        revision=1,
        expires_at_ms=None if expires_in_s is None else round((NOW_S + expires_in_s) * 1000),
        deleted_at_ms=1 if deleted else None,
    )


class Keys:
    """Keys that count how often they are counted."""

    def __init__(self, *records: KnownKey) -> None:
        self.revision = 1
        self.all: list[KnownKey] = list(records)
        self.all_statuses: list[StoreStatus] = []
        self.counted = 0
        self.used: dict[str, int] = {}

    def records(self) -> Iterator[KnownKey]:
        return iter(self.all)

    def counts(self) -> dict[str, int]:
        self.counted += 1
        return {"active": len(self.all), "expired": 0}

    def last_used_ms(self, key_id: str) -> int:
        return self.used.get(key_id, 0)

    def statuses(self) -> list[StoreStatus]:
        return self.all_statuses


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def measured(keys: Keys, clock: Clock | None = None) -> ControlGauges:
    return ControlGauges(keys, keys.statuses, WorkerSet(2), clock or Clock(), lambda: NOW_S)


def test_what_control_measures_is_there_from_the_start() -> None:
    series = measured(Keys()).series()
    assert series[metrics.WORKERS.name] == {(): 0}
    assert series[metrics.CONFIG_RELOAD_OK.name] == {(): 1}
    assert series[metrics.CONFIG_RELOAD_AT.name] == {(): NOW_S}
    assert series[metrics.BUILD_INFO.name] == {(__version__, compiled.runs_as()): 1}
    assert series[metrics.KEYS.name] == {("active",): 0, ("expired",): 0}


def test_a_reload_that_failed_is_shown() -> None:
    found = measured(Keys())
    found.is_config_good = False
    assert found.series()[metrics.CONFIG_RELOAD_OK.name] == {(): 0}


def test_keys_with_an_expiry_are_shown_with_it_but_not_deleted_ones() -> None:
    static = StaticKey("receiver-1", digest_of(b"static"))
    keys = Keys(record(1), record(2, 60), record(3, -60), record(4, 60, deleted=True), static)
    assert measured(keys).series()[metrics.KEY_EXPIRY.name] == {
        ("2", "name 2"): NOW_S + 60,
        ("3", "name 3"): NOW_S - 60,
    }


def test_of_many_keys_those_are_shown_that_expire_next() -> None:
    keys = Keys(*(record(number + 1, 60.0 * number) for number in range(SHOWN + 5)))
    shown = measured(keys).series()[metrics.KEY_EXPIRY.name]
    assert {int(labels[0]) for labels in shown} == set(range(1, SHOWN + 1))


def test_the_last_use_of_keys_is_shown_before_this_start_too() -> None:
    keys = Keys(record(1), record(2))
    keys.used = {"2": 1_700_000_000_500}
    shown = measured(keys).series()[metrics.KEY_LAST_USED.name]
    assert shown == {("2", "name 2"): 1_700_000_000.5}


def test_of_many_keys_those_are_shown_that_were_used_last() -> None:
    keys = Keys(*(record(number + 1) for number in range(SHOWN + 5)))
    keys.used = {key.key_id: int(key.key_id) for key in keys.all}
    shown = measured(keys).series()[metrics.KEY_LAST_USED.name]
    assert {int(labels[0]) for labels in shown} == set(range(6, SHOWN + 6))


def test_keys_are_counted_again_when_they_changed_or_some_time_has_passed() -> None:
    keys, clock = Keys(), Clock()
    found = measured(keys, clock)
    found.series()
    clock.now += REMEMBERED_S / 2
    found.series()
    assert keys.counted == 1
    keys.revision += 1
    found.series()
    assert keys.counted == 2
    clock.now += REMEMBERED_S
    found.series()
    assert keys.counted == 3


def test_stores_of_one_kind_are_as_up_and_in_step_as_their_worst() -> None:
    keys = Keys()
    good = StoreStatus("sqlite", "/a", up=True, last_sync_ms=2_000, errors={"damaged": 1})
    good.revision = 3
    bad = StoreStatus("sqlite", "/b", up=False, last_sync_ms=1_000, errors={"damaged": 2})
    keys.all_statuses = [good, bad]
    series = measured(keys).series()
    assert series[metrics.KEY_STORE_UP.name] == {("sqlite",): 0}
    assert series[metrics.KEY_STORE_SYNC.name] == {("sqlite",): 1.0}
    assert series[metrics.KEY_STORE_REVISION.name] == {("sqlite",): 3.0}
    expected = {("sqlite", reason): 0.0 for reason in STORE_ERROR_REASONS}
    assert series[metrics.KEY_STORE_ERRORS.name] == expected | {("sqlite", "damaged"): 3.0}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, datetime]:
    expiry = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(expiry - timedelta(days=9_000))
        .not_valid_after(expiry)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "tls.crt"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return file, expiry


def test_a_certificate_s_expiry_is_read_from_its_file(certificate: tuple[Path, datetime]) -> None:
    file, expiry = certificate
    found = certificate_expiries([("0.0.0.0:443", str(file))])
    assert found == {"0.0.0.0:443": expiry.timestamp()}


def test_a_certificate_that_cannot_be_read_has_no_expiry(tmp_path: Path) -> None:
    broken = tmp_path / "broken.crt"
    broken.write_text("no certificate")
    missing = tmp_path / "missing.crt"
    assert certificate_expiries([("a:1", str(broken)), ("b:1", str(missing))]) == {}


def test_the_series_are_of_metrics_that_no_worker_reports() -> None:
    assert {metrics.BY_NAME[name].from_worker for name in measured(Keys()).series()} == {False}
