"""Hypothesis strategies: lawful records of every format."""

from __future__ import annotations

import unicodedata
from datetime import datetime

from hypothesis import strategies as st

from formats.blocktable import Block
from formats.head import Head, HeadEntry, Hold, Trashed, Writer
from formats.ids import MAX_INTEGER, BlobKey, Digest, Era, HashAlgorithm
from formats.manifest import (
    BLOCK_BYTES,
    TABLE_BLOCKS,
    Blocks,
    Codec,
    Engine,
    Inline,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    Place,
    SinkState,
    Slice,
    SourceOffsets,
    StateFile,
    StateInfo,
    SubtaskState,
    Table,
    Transaction,
    Whole,
)
from storage.pins import PinRecord
from storage.store import StoreRecord

counts = st.one_of(st.integers(0, 9), st.integers(0, MAX_INTEGER))
small_counts = st.integers(0, 2**40)
slice_sizes = st.integers(0, 1 << 20)
texts = st.text(max_size=12)
properties = st.dictionaries(texts, texts, max_size=2)
digests = st.binary(min_size=32, max_size=32).map(lambda data: Digest(data.hex()))
hex32s = st.binary(min_size=16, max_size=16).map(bytes.hex)
eras = counts.map(Era)
blob_keys = st.builds(BlobKey, digests, eras)
pipeline_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(
    lambda name: name not in {"con", "prn", "aux", "nul", "latest"}
)
times = st.datetimes(datetime(1000, 1, 1), datetime(9998, 12, 31)).map(  # noqa: DTZ001  (UTC is what the Z says)
    lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
)
tags = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,127}", fullmatch=True)
engines = st.builds(Engine, kind=pipeline_names, version=texts, properties=properties)

_parts = st.one_of(
    st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/\\"), min_size=1, max_size=12),
).map(lambda part: unicodedata.normalize("NFC", part))
file_names = (
    st.lists(_parts, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda name: not any(part in {"", ".", ".."} for part in name.split("/")) and name[1:2] != ":")
)


def folded(name: str) -> str:
    """As the most forgetful file system takes it."""
    return unicodedata.normalize("NFC", name.casefold())


# Below different letters, so that no file is another's directory.
_distinct_names = st.lists(_parts, max_size=5, unique_by=folded).map(
    lambda parts: sorted(f"{'abcde'[number]}/{part}" for number, part in enumerate(parts) if part not in {".", ".."})
)


class _Packs:
    """Packs that are filled slice by slice, so that slices lie inside and do not overlap."""

    def __init__(self, keys: list[BlobKey]) -> None:
        self.keys = [str(key) for key in keys]
        self.ends: dict[str, int] = {}

    def slice(self, draw: st.DrawFn, plain_bytes: int) -> Slice:
        key = draw(st.sampled_from(self.keys))
        codec: Codec = "raw" if draw(st.booleans()) else "zstd"
        length = plain_bytes if codec == "raw" else draw(slice_sizes)
        offset = self.ends.get(key, 8) + draw(st.integers(0, 9))
        self.ends[key] = offset + length
        return Slice(pack=key, offset=offset, length=length, codec=codec)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    packs = _Packs(draw(st.lists(blob_keys, min_size=1, max_size=3, unique=True)))
    operators = [
        _operator(draw, identity, packs) for identity in draw(st.lists(hex32s, min_size=0, max_size=3, unique=True))
    ]
    refs = sorted((key, end + draw(st.integers(0, 5))) for key, end in packs.ends.items())
    return Manifest(
        format="eoctl.manifest",
        version=1,
        store=draw(hex32s),
        pipeline=draw(pipeline_names),
        kind=draw(st.sampled_from(["checkpoint", "savepoint"])),
        id=draw(counts),
        txid=draw(hex32s),
        created_at=draw(texts),
        attempt=draw(counts),
        hash=draw(st.sampled_from(HashAlgorithm)),
        engine=draw(engines),
        operators=tuple(operators),
        packs=tuple(PackRef(key=key, bytes=size) for key, size in refs),
        metrics=draw(st.builds(Metrics, counts, counts, counts, counts, counts, counts, counts, counts, counts)),
        name=draw(texts),
        base=draw(counts),
        tags=tuple(draw(st.lists(texts, max_size=3))),
        host=draw(texts),
        sources=tuple(draw(st.lists(_sources, max_size=2))),
        sinks=tuple(draw(st.lists(_sinks, max_size=2))),
        properties=draw(properties),
    )


_sources = st.builds(
    SourceOffsets,
    uid=texts,
    offsets=st.dictionaries(texts, st.one_of(texts, st.integers(-MAX_INTEGER, MAX_INTEGER)), max_size=3),
)
_sinks = st.builds(
    SinkState,
    uid=texts,
    transactions=st.lists(
        st.builds(
            Transaction,
            id=texts,
            state=st.sampled_from(["pre-committed", "committed", "aborted"]),
            checkpoint=counts,
            subtask=counts,
            properties=properties,
            payload=st.binary(max_size=20),
        ),
        max_size=2,
    ).map(tuple),
)
_states = st.builds(
    StateInfo,
    name=texts,
    kind=texts,
    bytes=st.none() | counts,
    entries=st.none() | counts,
    properties=properties,
)


def _operator(draw: st.DrawFn, identity: str, packs: _Packs) -> OperatorState:
    subtasks = tuple(
        SubtaskState(
            index=index,
            files=_files(draw, packs),
            key_groups=draw(st.none() | st.tuples(counts, counts)),
            finished=draw(st.booleans()),
            empty_directories=tuple(f"empty/{part}" for part in draw(st.lists(st.sampled_from("vwxyz"), unique=True))),
        )
        for index in draw(st.lists(counts, max_size=3, unique=True))
    )
    return OperatorState(
        id=identity,
        subtasks=subtasks,
        parallelism=draw(counts),
        engine=draw(engines),
        uid=draw(texts),
        name=draw(texts),
        max_parallelism=draw(counts),
        states=tuple(draw(st.lists(_states, max_size=2))),
        coordinator=_files(draw, packs),
    )


def _files(draw: st.DrawFn, packs: _Packs) -> tuple[StateFile, ...]:
    return tuple(_file(draw, name, packs) for name in draw(_distinct_names))


def _file(draw: st.DrawFn, name: str, packs: _Packs) -> StateFile:
    kind = draw(st.sampled_from(["inline", "whole", "slice", "blocks"]))
    size = draw(small_counts)
    place: Place
    if kind == "inline":
        data = draw(st.binary(max_size=50))
        size, place = len(data), Inline(data=data)
    elif kind == "whole":
        place = _whole(draw)
    elif kind == "slice":
        size = draw(slice_sizes)
        place = packs.slice(draw, size)
    else:
        size = draw(st.integers(0, 3 * TABLE_BLOCKS * BLOCK_BYTES))
        place = _blocks(draw, size, packs)
    return StateFile(
        name=name,
        bytes=size,
        digest=draw(digests),
        place=place,
        first_stored_in=draw(counts),
        role=draw(st.sampled_from(["opaque", "keyed", "operator", "timer", "in-flight", "coordinator"])),
        stamp=draw(texts),
    )


def _whole(draw: st.DrawFn) -> Whole:
    if draw(st.booleans()):
        return Whole(era=draw(counts))
    return Whole(era=draw(counts), codec="zstd", digest=draw(digests), stored_bytes=draw(counts))


def _blocks(draw: st.DrawFn, size: int, packs: _Packs) -> Blocks:
    tables = []
    for _ in range(-(-size // (TABLE_BLOCKS * BLOCK_BYTES))):
        table_bytes = draw(st.integers(20, 400_000))
        place = _whole(draw) if draw(st.booleans()) else packs.slice(draw, table_bytes)
        tables.append(Table(digest=draw(digests), bytes=table_bytes, place=place))
    used = {table.place.pack for table in tables if isinstance(table.place, Slice)}
    for key in draw(st.lists(st.sampled_from(packs.keys), max_size=2)):
        packs.ends.setdefault(key, 8)
        used.add(key)
    return Blocks(tables=tuple(tables), packs=tuple(sorted(used)))


@st.composite
def heads(draw: st.DrawFn) -> Head:
    era = draw(st.integers(1, MAX_INTEGER - 1))
    seq = draw(counts)
    labels = draw(st.lists(st.one_of(st.integers(0, 500), texts.filter(_names_a_savepoint)), max_size=6, unique_by=str))
    last_id = draw(st.integers(500, MAX_INTEGER))
    entries = [_entry(draw, label, era, seq, last_id) for label in labels]
    cut = draw(st.integers(0, len(entries)))
    held = draw(st.lists(st.sampled_from(entries), max_size=2)) if entries else []
    return Head(
        format="eoctl.head",
        version=1,
        store=draw(hex32s),
        pipeline=draw(pipeline_names),
        state="active",
        seq=seq,
        nonce=draw(hex32s),
        era=era,
        floor=draw(st.integers(0, era)),
        advanced_at=draw(times),
        last_id=last_id,
        writer=Writer(attempt=draw(counts), owner=draw(hex32s), last_tx=draw(hex32s)),
        live=tuple(entries[:cut]),
        trash=tuple(
            Trashed(entry=e, trashed_at=draw(times), seen_by_advance=draw(st.booleans())) for e in entries[cut:]
        ),
        holds=tuple(
            Hold(
                id=f"{number:032x}",
                entry=entry,
                reason=draw(texts),
                created_at=draw(times),
                expires_at=draw(st.none() | times),
            )
            for number, entry in enumerate(held)
        ),
    )


def _names_a_savepoint(name: str) -> bool:
    return name != "" and not name.isdecimal()


def _entry(draw: st.DrawFn, label: int | str, era: int, seq: int, last_id: int) -> HeadEntry:
    savepoint = isinstance(label, str)
    return HeadEntry(
        kind="savepoint" if savepoint else "checkpoint",
        id=draw(st.integers(0, last_id)) if isinstance(label, str) else label,
        seq=draw(st.integers(0, seq)),
        txid=draw(hex32s),
        created_at=draw(times),
        attempt=draw(counts),
        engine=draw(pipeline_names),
        manifest=str(BlobKey(draw(digests), Era(draw(st.integers(0, era))))),
        manifest_bytes=draw(counts),
        full_bytes=draw(counts),
        added_bytes=draw(counts),
        files=draw(counts),
        added_files=draw(counts),
        referenced_files=draw(counts),
        name=label if isinstance(label, str) else "",
        base=draw(st.integers(0, last_id)),
        duration_micros=draw(counts),
        tags=tuple(draw(st.lists(tags, max_size=3))),
    )


_block = st.builds(
    Block,
    digest=st.binary(min_size=32, max_size=32),
    pack=st.sampled_from([BlobKey(Digest(f"{number:064x}"), Era(number)) for number in (0, 1, 2**53)]),
    offset=st.integers(0, 2**32 - 1),
    length=st.integers(0, BLOCK_BYTES),
    compressed=st.booleans(),
)
block_tables = st.lists(_block, max_size=9)

store_records = st.builds(
    StoreRecord,
    format=st.just("eoctl.store"),
    version=st.just(1),
    id=hex32s,
    hash=st.sampled_from(HashAlgorithm),
    created_at=texts,
    features=st.lists(texts, max_size=2).map(tuple),
)
pin_records = st.builds(
    PinRecord,
    format=st.just("eoctl.pin"),
    version=st.just(1),
    era=counts,
    attempt=counts,
    host=texts,
    process=texts,
    note=texts,
)
