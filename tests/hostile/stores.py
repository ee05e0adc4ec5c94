"""Hostile values in a real local store: bad manifests under right digests, blobs that lie, things that are no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from eoctl.services.stats import store_stats
from eoctl.services.verify import verify
from formats.blocktable import encode_table
from formats.errors import BlobGoneError, CorruptError, EoctlError, UnsupportedError, WrongStoreError
from formats.head import encode_head
from formats.ids import BlobKey
from formats.manifest import Whole, blob_key
from storage import layout
from tests.hostile.case import Action, Case, packed
from tests.hostile.lies import (
    DATABASE,
    LIES,
    LOG,
    MANIFEST,
    PACKED,
    TABLES,
    WHOLE,
    blocks_of,
    file_of,
    first_block,
    path_of,
    slice_of,
    table_of,
    with_file,
    without_size,
)
from tests.hostile.manifests import Bad, bad_manifests
from tests.hostile.planted import (
    GOOD,
    HEAD,
    HURT,
    Changes,
    base,
    drive,
    entry,
    opened,
    plant,
    with_manifest,
    with_record,
)
from tests.hostile.specimen import CONTENTS, PIPELINE
from tests.support.stores import noise, text


def _driven(name: str, expected: type[EoctlError] | None, changes: Callable[[], Changes], **how: bool) -> Case:
    def prepare(box: Path) -> Action:
        root = plant(box, changes())
        return partial(drive, root, **how)

    return Case(f"store: {name}", expected, prepare)


# Bad manifests


def _bad_manifests() -> Iterator[Case]:
    for bad in bad_manifests():
        if bad.planted:
            expected = bad.expected if bad.expected is UnsupportedError else CorruptError
            yield _driven(f"manifest: {bad.name}", expected, _planted(bad))


def _planted(bad: Bad) -> Callable[[], Changes]:
    return lambda: with_manifest(bad.build())


WRONG: dict[str, dict[str, object]] = {
    "of another store": {"store": "0" * 32},
    "of another pipeline": {"pipeline": "other"},
    "of another transaction": {"txid": "0" * 32},
    "of another id": {"id": 3},
    "of a savepoint": {"name": "mine", "kind": "savepoint"},
}


def _misplaced() -> Iterator[Case]:
    for name, fields in WRONG.items():
        changed = msgspec.structs.replace(MANIFEST, **fields)
        yield _driven(f"a manifest {name}", WrongStoreError, partial(with_record, changed))
    stored = base().values[layout.manifest(PIPELINE, BlobKey.parse(entry(base().head).manifest)).path]
    path = layout.manifest(PIPELINE, BlobKey.parse(entry(base().head).manifest)).path
    yield _driven("no manifest", BlobGoneError, lambda: {path: None})
    others = {"an empty": b"", "a cut": stored[:-1], "a longer": stored + b"\0", "another": packed(b"{}")}
    for name, data in others.items():
        yield _driven(f"{name} manifest", CorruptError, partial(dict, {path: data}))


# Blobs that are not what a lawful manifest says


def _damaged() -> Iterator[Case]:
    """A blob of each kind, missing or other than its name."""
    for name in (WHOLE, PACKED, LOG, DATABASE):
        path = path_of(name)
        if name in {WHOLE, PACKED}:  # other snapshots need them too; hurt the newest alone
            yield from _damaged_alone(name)
            continue
        stored = base().values[path]
        for what, data in _damage(stored).items():
            expected = BlobGoneError if data is None else CorruptError
            yield _driven(f"{name}, {what}", expected, partial(dict, {path: data}), readable=True)


def _damage(stored: bytes) -> dict[str, bytes | None]:
    return {
        "its blob gone": None,
        "its blob empty": b"",
        "its blob cut by half": stored[: len(stored) // 2],
        "its blob a byte short": stored[:-1],
        "its blob all zeros": bytes(len(stored)),
        "its blob other bytes of its size": noise(len(stored), 77),
        "its blob a page of HTML": b"<!DOCTYPE html><html><body>503</body></html>",
    }


def _damaged_alone(name: str) -> Iterator[Case]:
    """The same for a file of which the newest snapshot has a copy of its own, in era 9 of a HEAD of era 9."""
    file = file_of(name)
    assert isinstance(file.place, Whole)
    stored = base().values[path_of(name)]
    era = base().head.era
    place = msgspec.structs.replace(file.place, era=era)
    path = layout.blob(PIPELINE, blob_key(file, place)).path
    changed = with_record(with_file(name, place=place))
    for what, data in _damage(stored).items():
        expected = BlobGoneError if data is None else CorruptError
        yield _driven(f"{name}, {what}", expected, partial(dict, changed | {path: data}), readable=True)


def _lies() -> Iterator[Case]:
    for name, build in LIES.items():
        expected = (
            BlobGoneError
            if name in {"a raw file of an era without it", "a manifest that stands for a blob"}
            else CorruptError
        )
        yield _driven(name, expected, build, readable=True)
    for name, build in TABLES.items():
        yield _driven(f"a block table {name}", CorruptError, build, readable=True)
    digest = with_record(with_file(DATABASE, digest="0" * 64))
    yield _driven("a block file of another digest", CorruptError, partial(dict, digest), readable=True, by_drill=True)
    newer = bytearray(encode_table(blocks_of(DATABASE)))
    newer[4] = 2
    yield _driven("a block table of a newer version", UnsupportedError, lambda: table_of(bytes(newer)), readable=True)


# Things in the place of files


Thing = Callable[[Path, Path], object]


def _in_place_of(path: str, make: Thing, name: str, expected: type[EoctlError], *, readable: bool) -> Case:
    """`make` is given the path in the store and the directory outside."""

    def prepare(box: Path) -> Action:
        root = plant(box, {path: None})
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        make(root / path, box.parent / "outside")
        return partial(drive, root, readable=readable)

    return Case(f"store: {name}", expected, prepare)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


THINGS: dict[str, Thing] = {
    "a directory": lambda path, _: path.mkdir(),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a link to a file outside": lambda path, outside: path.symlink_to(outside / "precious"),
    "a link to nothing": lambda path, outside: path.symlink_to(outside / "nothing"),
    "a link to itself": lambda path, _: path.symlink_to(path),
    "a link to endless zeros": lambda path, _: path.symlink_to("/dev/zero"),
    "1 GiB of nothing": lambda path, _: _sparse(path, 1 << 30),  # verify reads all that is there
}


def _things() -> Iterator[Case]:
    own = layout.manifest(PIPELINE, BlobKey.parse(entry(base().head).manifest)).path
    for name, make in THINGS.items():
        yield _in_place_of(path_of(LOG), make, f"{name} for a pack", EoctlError, readable=True)
        yield _in_place_of(path_of(DATABASE), make, f"{name} for a pack of blocks", EoctlError, readable=True)
    for name, make in (THINGS | {"10 GiB of nothing": lambda path, _: _sparse(path, 10 << 30)}).items():
        yield _in_place_of(own, make, f"{name} for a manifest", EoctlError, readable=False)
        yield _head_is(name, make)
        yield _record_is(name, make)


def _head_is(name: str, make: Thing) -> Case:
    def prepare(box: Path) -> Action:
        root = plant(box, {HEAD: None})
        make(root / HEAD, box.parent / "outside")

        def look() -> None:
            store = opened(root)
            assert verify(store, PIPELINE, None, "full", scratch=box / "scratch").damaged[0].name == "HEAD"
            assert "orders" in store_stats(store).damaged
            restore(store, resolve(store, f"{PIPELINE}@{GOOD}"), box / "target")

        return look

    return Case(f"store: {name} for HEAD", EoctlError, prepare)


def _record_is(name: str, make: Thing) -> Case:
    def prepare(box: Path) -> Action:
        root = plant(box, {"store.json": None})
        make(root / "store.json", box.parent / "outside")
        return lambda: opened(root)

    return Case(f"store: {name} for store.json", EoctlError, prepare)


# HEADs of elsewhere


def _heads() -> Iterator[Case]:
    head = base().head
    for name, fields in {
        "another store": {"store": "0" * 32},
        "another pipeline": {"pipeline": "other"},
    }.items():
        data = encode_head(msgspec.structs.replace(head, **fields))

        def prepare(box: Path, data: bytes = data) -> Action:
            root = plant(box, {HEAD: data})
            return lambda: restore(opened(root), resolve(opened(root), f"{PIPELINE}@{GOOD}"), box / "target")

        yield Case(f"store: HEAD of {name}", WrongStoreError, prepare)

    def linked(box: Path) -> Action:
        root = plant(box, {})
        (root / f"{HEAD}.lock").symlink_to(box.parent / "outside" / "made")
        return lambda: restore(opened(root), resolve(opened(root), f"{PIPELINE}@{GOOD}"), box / "target")

    yield Case("store: a link that leads outside for HEAD's lock", EoctlError, linked)


# What is strange and lawful: restored as it is


def _lawful() -> Iterator[Case]:
    ids = ("f" * 32, "e" * 32)
    operator = MANIFEST.operators[0]
    small = tuple(file for file in operator.subtasks[0].files if file.name == "CURRENT")
    subtask = msgspec.structs.replace(operator.subtasks[0], files=small)
    uids = {
        "that climb": ("../../outside", "/outside"),
        "of one spelling but for case": ("Totals", "totals"),
        "of each other's ids": (ids[1], ids[0]),
        "of the other's id": (ids[1], ""),
        "of dots": (".", ".."),
        "of controls": ("a\0b", "\x1b[2J"),
        "of 4,000 letters": ("x" * 4000, "y" * 4000),
        "of a drive and a backslash": ("C:", r"..\outside"),
    }
    for name, pair in uids.items():
        both = tuple(
            msgspec.structs.replace(operator, id=identity, uid=uid, name=uid, subtasks=(subtask,))
            for identity, uid in zip(ids, pair, strict=True)
        )
        manifest = msgspec.structs.replace(MANIFEST, operators=both, packs=())
        yield _restored(
            f"two operators with uids {name}", with_record(manifest), [("CURRENT", CONTENTS[HURT]["CURRENT"])] * 2
        )
    full = msgspec.structs.replace(base().head, seq=2**53)
    yield _restored("a HEAD that has no room for a hold", {HEAD: encode_head(full)}, sorted(CONTENTS[HURT].items()))
    content = text(5000, 50)
    files = [(name, content if name == LOG else data) for name, data in sorted(CONTENTS[HURT].items())]
    yield _restored("a slice without a size", slice_of(without_size(content), content), files, verified=False)
    length = blocks_of(DATABASE)[0].length + 1
    yield _restored("a packed block and a byte more", first_block(length=length), sorted(CONTENTS[HURT].items()))


def _restored(name: str, changes: Changes, wanted: list[tuple[str, bytes]], *, verified: bool = True) -> Case:
    def prepare(box: Path) -> Action:
        root = plant(box, changes)

        def look() -> None:
            store = opened(root)
            resolved = resolve(store, f"{PIPELINE}@{HURT}")
            done = restore(store, resolved, box / "target")
            found = []
            for operator in done.operators:
                folder = Path(operator.path)
                assert folder.is_relative_to(box / "target")
                found += [(p.relative_to(folder).as_posix(), p.read_bytes()) for p in folder.rglob("*") if p.is_file()]
            assert sorted(found) == wanted
            assert not verified or not verify(store, PIPELINE, resolved, "drill", scratch=box / "scratch").damaged

        return look

    return Case(f"store: {name}", None, prepare)


CASES = [*_bad_manifests(), *_misplaced(), *_damaged(), *_lies(), *_things(), *_heads(), *_lawful()]
