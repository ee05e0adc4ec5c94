"""The doctor, on disk and in what it makes of a bucket's rules (on a real server: tests/servers/test_s3_doctor.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eoctl.services import doctor, doctor_s3
from eoctl.services.doctor import Examination, State, examine
from formats.errors import AccessDeniedError, UnavailableError
from storage.backends.s3_client import Limits, S3Client
from storage.backends.s3_url import parse_location
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.places import local_place, local_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return local_store(tmp_path)


def states(found: Examination) -> dict[str, str]:
    return {one.check: one.state.value for one in found.checks}


def test_a_store_on_a_disk_is_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "file_system_of", lambda _: "ext4")
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 1)
    found = examine(store.place, store.ambient)
    assert found.ok
    assert set(states(found).values()) == {"ok"}
    assert set(states(found)) >= {"versions", "store", "writable", "conditional create", "conditional swap", "fsync"}
    assert [*Path(store.place.url, "tmp").iterdir()] == []


@pytest.mark.parametrize(("kind", "told"), [("nfs4", "network file system"), ("tmpfs", "in memory")])
def test_a_file_system_that_forgets_is_warned_of(store: Store, monkeypatch: pytest.MonkeyPatch, kind, told) -> None:
    monkeypatch.setattr(doctor, "file_system_of", lambda _: kind)
    found = examine(store.place, store.ambient)
    (one,) = (one for one in found.checks if one.check == "file system")
    assert (found.ok, one.state) == (True, State.WARNING)
    assert told in one.found
    assert one.fix


def test_a_place_that_keeps_no_conditions_is_bad(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store.place.backend), "swap", lambda *_: None)
    found = examine(store.place, store.ambient)
    assert not found.ok
    assert states(found)["conditional swap"] == "bad"
    assert "lose checkpoints" in next(one.fix for one in found.checks if one.check == "conditional swap")


def test_little_space_and_leftovers_are_warned_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 1 << 62)
    Path(store.place.url, "tmp", "leftover").write_bytes(b"1")
    found = examine(store.place, store.ambient)
    assert (found.ok, states(found)["free space"], states(found)["leftovers"]) == (True, "warning", "warning")


def test_no_store_and_a_damaged_one_are_told(tmp_path: Path, store: Store) -> None:
    nothing = examine(local_place(tmp_path / "none"), FakeAmbient().ambient())
    assert (nothing.ok, states(nothing)["store"]) == (True, "warning")
    assert not (tmp_path / "none").exists()
    Path(store.place.url, "store.json").write_bytes(b"{")
    damaged = examine(store.place, store.ambient)
    assert (damaged.ok, states(damaged)["store"]) == (False, "bad")


@pytest.fixture
def s3() -> S3Client:
    return S3Client(parse_location("s3://bucket/tenants/orders?region=eu-central-1"), Limits())


OLD = {"ID": "old", "Status": "Enabled", "Expiration": {"Days": 30}}
COLD = {"ID": "cold", "Status": "Enabled", "Transitions": [{"Days": 9, "StorageClass": "DEEP_ARCHIVE"}]}


@pytest.mark.parametrize(
    ("rule", "state", "told"),
    [
        (OLD | {"Filter": {"Prefix": ""}}, "bad", "the rule old deletes objects after 30 days"),
        (OLD | {"Prefix": "tenants/"}, "bad", "deletes"),
        (OLD | {"Filter": {"Prefix": "tenants/orders/p/"}}, "bad", "deletes"),
        (OLD | {"Filter": {"And": {"Prefix": "tenants/", "ObjectSizeGreaterThan": 9}}}, "bad", "deletes"),
        (OLD | {"Filter": {"Prefix": "tenants/orders-2/"}}, "ok", "no rule"),
        (OLD | {"Filter": {"Prefix": "logs/"}}, "ok", "no rule"),
        (OLD | {"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, "ok", "no rule"),
        (OLD | {"Status": "Disabled", "Filter": {"Prefix": ""}}, "ok", "no rule"),
        (COLD | {"Filter": {}}, "bad", "the rule cold moves objects to DEEP_ARCHIVE"),
        ({"Status": "Enabled", "Transitions": [{"Days": 9, "StorageClass": "GLACIER_IR"}]}, "ok", "no rule"),
        ({"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}, "ok", "no rule"),
        ({"Status": "Enabled", "Expiration": {"ExpiredObjectDeleteMarker": True}}, "ok", "no rule"),
    ],
)
def test_a_rule_that_would_eat_blobs_is_found(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], state: str, told: str
) -> None:
    monkeypatch.setattr(S3Client, "ask", lambda *_, **__: {"Rules": [rule]})
    found = doctor_s3._lifecycle(s3, doctor_s3._rules(s3))
    assert (found.state.value, bool(found.fix)) == (state, state == "bad")
    assert told in found.found


@pytest.mark.parametrize(
    ("status", "rules", "state"),
    [
        ("Enabled", [{"NoncurrentVersionExpiration": {"NoncurrentDays": 7}}], "ok"),
        ("Enabled", [], "warning"),
        ("Suspended", [], "ok"),
        (None, [], "ok"),
    ],
)
def test_versions_that_stay_for_ever_are_warned_of(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch, status: str | None, rules: list[dict[str, Any]], state: str
) -> None:
    monkeypatch.setattr(S3Client, "ask", lambda *_, **__: {} if status is None else {"Status": status})
    assert doctor_s3._versioning(s3, rules).state.value == state


def test_rules_that_may_not_be_seen_are_unknown_and_no_rules_are_none(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise AccessDeniedError("not allowed")

    def none(*_: object, **__: object) -> None:
        raise UnavailableError("refused: NoSuchLifecycleConfiguration: none")

    monkeypatch.setattr(S3Client, "ask", denied)
    found = doctor.looked("lifecycle", lambda: doctor_s3._lifecycle(s3, doctor_s3._rules(s3)))
    assert (found.state, found.fix) == (State.UNKNOWN, "the credentials need s3:GetLifecycleConfiguration to see it")
    monkeypatch.setattr(S3Client, "ask", none)
    assert doctor_s3._rules(s3) == []
