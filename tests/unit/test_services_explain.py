"""Who needs what, what deleting would free, and why it is kept: the numbers against a count of stored bytes by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from eoctl.services.entries import delete
from eoctl.services.explain import explain
from formats.errors import CorruptError, UsageError
from formats.head import Head, HeadEntry, roots
from formats.ids import PipelineId
from storage import edits, layout
from storage.backend import Found, Key
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.stores import (
    MIB,
    at,
    checkpoint,
    edit,
    file_at,
    flip,
    manifest_name,
    new_era,
    new_store,
    noise,
    text,
    three_checkpoints,
    value_of,
)

ORDERS = PipelineId("orders")


@pytest.fixture
def world() -> FakeAmbient:
    return FakeAmbient()


@pytest.fixture
def store(tmp_path: Path, world: FakeAmbient) -> Store:
    return new_store(tmp_path, world=world)


def names_in(value: Any) -> Iterable[str]:
    """Every stored name that a manifest spells, wherever it does."""
    if isinstance(value, Mapping):
        if "era" in value and value.get("in") == "blob":
            yield f"{value.get('digest') or value['content']}.{value['era']}"
        for field, inner in value.items():
            if field in {"pack", "key"} and isinstance(inner, str):
                yield inner
            elif field == "packs" and inner and isinstance(inner[0], str):
                yield from inner
            elif field == "place" and isinstance(inner, Mapping):
                yield from names_in({**inner, "content": value["digest"]})
            else:
                yield from names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_in(inner)


def needed_by(store: Store, entries: Iterable[HeadEntry]) -> dict[str, int]:
    """Stored names and bytes, by reading the manifests' JSON and looking into the store."""
    found: dict[str, int] = {}
    for entry in entries:
        data = value_of(store.backend, Key(f"p/orders/m/{entry.manifest}"))
        found[f"p/orders/m/{entry.manifest}"] = len(data)
        for name in names_in(json.loads(zstandard.ZstdDecompressor().decompress(data))):
            path = f"p/orders/o/{name[:2]}/{name}"
            found[path] = len(value_of(store.backend, Key(path)))
    return found


def freed_by_hand(store: Store, labels: set[str], now: str) -> dict[str, int]:
    """What is needed now, less what is needed once the entries, all trash and all expired holds are gone."""
    head = store.head(ORDERS).head
    staying = [entry for entry in head.live if entry.label not in labels]
    staying += [hold.entry for hold in head.holds if hold.expires_at is None or hold.expires_at > now]
    kept = needed_by(store, staying)
    asked = needed_by(store, [entry for entry in roots(head) if entry.label in labels])
    return {name: size for name, size in asked.items() if name not in kept}


def check_numbers(store: Store, label: str) -> None:
    now = store.ambient.now()
    found = explain(store, at(store, f"orders@{label}"))
    freed = freed_by_hand(store, {label}, now)
    head = store.head(ORDERS).head
    own = needed_by(store, [edits.find(head, label)])
    others = needed_by(store, [entry for entry in roots(head) if entry.label != label])
    assert (found.frees_blobs, found.frees_bytes) == (len(freed), sum(freed.values()))
    assert found.stored_bytes == sum(own.values())
    assert found.shared_bytes == sum(size for name, size in own.items() if name in others)
    assert {use.key: use.stored_bytes for use in found.blobs} == own


def some_checkpoints(store: Store) -> None:
    """Five: the first three share by whole files, packs and blocks; each in an era of its own."""
    three_checkpoints(store)
    new_era(store, "orders", floor=True)
    checkpoint(store, "orders", {"a.sst": noise(MIB + 10, 2), "small": noise(5000, 11), "tiny": b"x"})
    checkpoint(store, "orders", {"small": noise(5000, 11), "more": text(70_000)})


@pytest.mark.parametrize("label", ["1", "2", "3", "4", "5"])
def test_the_numbers_are_those_of_a_count_by_hand(store: Store, label: str) -> None:
    some_checkpoints(store)
    check_numbers(store, label)


@pytest.mark.parametrize("label", ["1", "2", "3"])
def test_the_numbers_hold_with_trash_and_holds_around(store: Store, world: FakeAmbient, label: str) -> None:
    some_checkpoints(store)
    now = store.ambient.now()
    keep = partial(edits.hold, reason="audit", now=now)
    edit(store, "orders", partial(keep, label="2", hold_id="a" * 32, expires_at="2026-01-01T02:00:00.000Z"))
    edit(store, "orders", partial(edits.expire, labels=frozenset({"1", "4"}), now=now))
    check_numbers(store, label)
    world.seconds += 3 * 3600
    check_numbers(store, label)
    edit(store, "orders", partial(keep, label="3", hold_id="b" * 32, expires_at=None))
    check_numbers(store, label)


def test_what_is_told_is_what_really_goes(store: Store) -> None:
    some_checkpoints(store)
    told = explain(store, at(store, "orders@2")).frees_bytes
    delete(store, ORDERS, {"2"})
    assert sweep(store) == told


def test_deleting_one_after_the_other_frees_the_sum_of_what_was_told(store: Store) -> None:
    some_checkpoints(store)
    told = 0
    for label in ("2", "3", "1"):
        told += explain(store, at(store, f"orders@{label}")).frees_bytes
        delete(store, ORDERS, {label})
    assert sweep(store) == told


def sweep(store: Store) -> int:
    """The trash is dropped and the floor is above every era; the bytes of all that no root names then."""
    edit(store, "orders", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, trash=()))
    new_era(store, "orders", floor=True)
    kept = needed_by(store, roots(store.head(ORDERS).head))
    listed = [*store.backend.list(layout.blobs(ORDERS)), *store.backend.list(layout.manifests(ORDERS))]
    return sum(found.bytes for found in listed if isinstance(found, Found) and found.key.path not in kept)


def test_snapshots_that_share_are_told_with_the_bytes(store: Store) -> None:
    checkpoint(store, "orders", {"a.sst": noise(2 * MIB), "b.sst": noise(MIB, 1)})
    checkpoint(store, "orders", {"a.sst": noise(2 * MIB), "c.sst": noise(MIB, 2)})
    checkpoint(store, "orders", {"c.sst": noise(MIB, 2)})
    found = explain(store, at(store, "orders@2"))
    assert found.shares_with == {"orders@1": 2 * MIB, "orders@3": MIB}
    assert found.referenced_by == ("orders@1", "orders@3")
    assert found.shared_bytes == 3 * MIB
    assert found.frees_blobs == 1  # its manifest


def test_a_live_snapshot_says_so_and_the_newest_says_more(store: Store) -> None:
    three_checkpoints(store)
    assert explain(store, at(store, "orders@1")).kept_because[0] == "orders@1 is live"
    newest = explain(store, at(store, "orders@3")).kept_because[0]
    assert newest == "orders@3 is live, and the newest checkpoint: no age rule expires it"


def test_the_trash_tells_since_when_and_until_when(store: Store) -> None:
    three_checkpoints(store)
    edit(store, "orders", partial(edits.expire, labels=frozenset({"1"}), now="2026-01-01T00:00:05.000Z"))
    reasons = explain(store, at(store, "orders@1")).kept_because
    assert reasons[0] == (
        "orders@1 is in the trash since 2026-01-01T00:00:05.000Z: gc drops it from 2026-01-02T00:00:05.000Z on "
        "(--keep-trash 24h), and after an advance that meets it there, which none has yet"
    )


def test_a_hold_keeps_everything_until_it_ends(store: Store, world: FakeAmbient) -> None:
    three_checkpoints(store)
    keep = partial(edits.hold, label="1", hold_id="a" * 32, reason="audit 7", now=store.ambient.now())
    edit(store, "orders", partial(keep, expires_at="2026-01-01T01:00:00.000Z"))
    held = explain(store, at(store, "orders@1"))
    assert (held.frees_bytes, held.frees_blobs) == (0, 0)
    assert f"the hold {'a' * 32} keeps orders@1 (audit 7), until 2026-01-01T01:00:00.000Z" in held.kept_because
    world.seconds += 7200
    expired = explain(store, at(store, "orders@1"))
    assert expired.frees_bytes > 0
    assert any("expired at 2026-01-01T01:00:00.000Z" in reason for reason in expired.kept_because)


def test_young_eras_are_told_with_the_floor(store: Store) -> None:
    three_checkpoints(store)
    young = explain(store, at(store, "orders@1")).kept_because[-1]
    assert young.endswith("are of era 1: gc deletes only what is below the floor, which is 0 now")
    new_era(store, "orders", floor=True)
    assert not any("floor" in reason for reason in explain(store, at(store, "orders@1")).kept_because)


def test_a_pack_is_told_to_stay_for_one_slice(store: Store) -> None:
    checkpoint(store, "orders", {"kept": noise(70_000), "gone": noise(900_000, 1)})
    checkpoint(store, "orders", {"kept": noise(70_000)})
    found = explain(store, at(store, "orders@1"))
    assert found.frees_blobs == 1
    assert any("1 pack: a pack stays whole as long as one slice of it is needed" in told for told in found.kept_because)
    assert any("stay for orders@2" in told for told in found.kept_because)


def test_what_the_trash_needs_too_is_told(store: Store) -> None:
    checkpoint(store, "orders", {"a.sst": noise(MIB)})
    checkpoint(store, "orders", {"a.sst": noise(MIB), "b": b"1"})
    checkpoint(store, "orders", {"c": b"1"})
    edit(store, "orders", partial(edits.expire, labels=frozenset({"1"}), now=store.ambient.now()))
    found = explain(store, at(store, "orders@2"))
    assert found.frees_bytes > MIB
    assert (
        f"1 blob ({MIB} bytes) of it are needed by orders@1 in the trash too: they go once both have left it"
        in found.kept_because
    )


def test_a_file_of_its_own_blob_goes_with_its_last_snapshot(store: Store) -> None:
    three_checkpoints(store)
    kept = explain(store, at(store, "orders@1"), "main/0/a.sst")
    assert (kept.kind, kept.subject) == ("file", "orders@1 main/0/a.sst")
    assert kept.referenced_by == ("orders@1", "orders@2")
    assert (kept.stored_bytes, kept.shared_bytes, kept.frees_bytes) == (MIB + 10, MIB + 10, 0)
    goes = explain(store, at(store, "orders@1"), "b.sst")
    assert goes.referenced_by == ("orders@1",)
    assert goes.stored_bytes == goes.frees_bytes > 0
    assert (goes.frees_blobs, goes.shared_bytes) == (1, 0)


def test_a_slice_goes_only_with_its_pack(store: Store) -> None:
    checkpoint(store, "orders", {"kept": noise(70_000), "gone": noise(900_000, 1)})
    checkpoint(store, "orders", {"kept": noise(70_000)})
    found = explain(store, at(store, "orders@1"), "gone")
    assert found.referenced_by == ("orders@1",)
    assert (found.stored_bytes, found.frees_bytes, found.frees_blobs) == (900_000, 0, 0)
    (use,) = found.blobs
    assert use.snapshots == ("orders@1", "orders@2")
    assert use.stored_bytes > 970_000
    delete(store, ORDERS, {"2"})
    alone = explain(store, at(store, "orders@1"), "gone")
    assert (alone.frees_bytes, alone.frees_blobs) == (900_000, 1)


def test_an_inline_file_lies_in_the_manifest(store: Store) -> None:
    checkpoint(store, "orders", {"tiny": b"12345"})
    found = explain(store, at(store, "orders@1"), "tiny")
    assert (found.stored_bytes, found.frees_bytes) == (5, 5)
    assert [use.key for use in found.blobs] == [str(manifest_name(store, "orders@1"))]


def test_a_file_in_blocks_takes_its_blocks(store: Store) -> None:
    three_checkpoints(store)
    found = explain(store, at(store, "orders@1"), "big.db")
    assert found.stored_bytes == 2 * MIB + MIB // 2
    assert found.referenced_by == ("orders@1",)
    assert found.frees_bytes == 0
    assert "orders@3" in found.shares_with


def test_a_file_is_found_by_its_digest(store: Store) -> None:
    three_checkpoints(store)
    digest = file_at(store, "orders@1", "a.sst").digest
    for prefix in (digest, digest[:8]):
        assert explain(store, at(store, "orders@1"), prefix).subject == "orders@1 main/0/a.sst"
    with pytest.raises(UsageError, match="has no file"):
        explain(store, at(store, "orders@1"), digest[:7])


def test_an_ambiguous_name_lists_the_candidates(store: Store) -> None:
    checkpoint(store, "orders", parts={("joins", 0): {"CURRENT": b"1"}, ("joins", 1): {"CURRENT": b"2"}})
    with pytest.raises(UsageError, match="'CURRENT' names 2 files of orders@1") as error:
        explain(store, at(store, "orders@1"), "CURRENT")
    assert error.value.facts["candidates"] == ["joins/0/CURRENT", "joins/1/CURRENT"]
    assert "joins/0/CURRENT (" in (error.value.hint or "")
    assert explain(store, at(store, "orders@1"), "joins/1/CURRENT").subject == "orders@1 joins/1/CURRENT"


def test_an_unknown_name_gets_the_nearest_ones(store: Store) -> None:
    checkpoint(store, "orders", {"000017.sst": b"1", "MANIFEST-5": b"2"})
    with pytest.raises(UsageError, match=r"has no file '000071\.sst'") as error:
        explain(store, at(store, "orders@1"), "000071.sst")
    assert error.value.hint == "did you mean 000017.sst?"


def test_without_every_manifest_nobody_knows_who_needs_what(store: Store) -> None:
    three_checkpoints(store)
    flip(store.backend, manifest_name(store, "orders@2"), 30)
    with pytest.raises(CorruptError, match="orders@2"):
        explain(store, at(store, "orders@1"))


def test_a_snapshot_that_only_a_hold_keeps_is_explained(store: Store) -> None:
    three_checkpoints(store)
    keep = partial(edits.hold, label="1", hold_id="a" * 32, reason="restore", expires_at=None)
    edit(store, "orders", partial(keep, now=store.ambient.now()))

    def drop(head: Head) -> Head:
        return msgspec.structs.replace(head, seq=head.seq + 1, live=head.live[1:])

    edit(store, "orders", drop)
    found = explain(store, at(store, "orders@1"))
    assert found.frees_bytes == 0
    assert "without an end: until it is released" in found.kept_because[0]
