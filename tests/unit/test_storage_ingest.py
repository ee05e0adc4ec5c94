"""Files into the store: how each is kept, what is not read again, and what must never be taken for unchanged."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from eoctl.engines.directory import DirectorySource
from eoctl.engines.source import Captured
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from formats.errors import (
    BadNameError,
    EoctlError,
    InvalidInputError,
    NameClashError,
    SourceChangedError,
    UsageError,
)
from formats.ids import BlobKey
from formats.manifest import (
    BLOCK_BYTES,
    MAX_INLINE_BYTES,
    MAX_INLINE_TOTAL_BYTES,
    TABLE_BLOCKS,
    Blocks,
    Inline,
    Slice,
    StateFile,
    Whole,
    files_of,
)
from storage import layout
from storage.backend import LocalFile
from storage.packing import INLINE_TOGETHER_BYTES, PACK_BYTES, PACK_MAGIC, SMALL_BYTES, is_compressed, pays
from storage.packs import Packer
from storage.store import Store
from tests.support.faulty import CountingBackend
from tests.support.places import (
    PIPELINE,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    local_store,
    memory_store,
    opened,
    stored_keys,
    write_tree,
)

FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file
NOISE = random.Random(1).randbytes(3 << 20)
TEXT = b"".join(b"a line that is much like the others: %d\n" % number for number in range(80_000))[: 3 << 20]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return memory_store(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def noise(size: int, start: int = 0) -> bytes:
    return NOISE[start : start + size]


def state_files(store: Store, number: int) -> dict[str, StateFile]:
    manifest = store.manifest(store.head(PIPELINE).head, entry_of(store, number))
    return {file.name: file for _, _, file in files_of(manifest)}


def places(store: Store, number: int) -> dict[str, str]:
    return {name: type(file.place).__name__ for name, file in state_files(store, number).items()}


# How a file is kept


@pytest.mark.parametrize(
    "shape",
    [
        ("a", 0, Inline),
        ("a", 1, Inline),
        ("a", MAX_INLINE_BYTES, Inline),
        ("a", MAX_INLINE_BYTES + 1, Slice),
        ("a", SMALL_BYTES - 1, Slice),
        ("a.sst", SMALL_BYTES - 1, Slice),
        ("a.sst", SMALL_BYTES, Whole),
        ("a.sst", SMALL_BYTES + 1, Whole),
        ("a.parquet", SMALL_BYTES, Whole),
        ("a.db", SMALL_BYTES, Blocks),
        ("sst", SMALL_BYTES, Blocks),
        ("a.db", SMALL_BYTES + BLOCK_BYTES - 1, Blocks),
        ("a.db", SMALL_BYTES + BLOCK_BYTES, Blocks),
        ("a.db", SMALL_BYTES + BLOCK_BYTES + 1, Blocks),
    ],
)
@pytest.mark.parametrize("data", [NOISE, TEXT], ids=["noise", "text"])
def test_a_file_is_kept_as_its_size_and_name_say(store: Store, tree: Path, shape, data) -> None:
    name, size, place = shape
    if place is Whole and data is TEXT:
        place = Slice  # it shrinks to less than 1 MiB, so it travels in a pack
    write_tree(tree, {name: data[:size]})
    created = checkpoint_tree(opened(store), tree)
    (file,) = state_files(store, 1).values()
    assert isinstance(file.place, place)
    assert (file.bytes, file.first_stored_in) == (size, 1)
    assert (created.snapshot.full_bytes, created.snapshot.added_bytes) == (size, size)
    assert contents(store, entry_of(store, 1)) == {name: data[:size]}
    check_roots(store)


@pytest.mark.parametrize(("more", "place"), [(0, "Inline"), (1, "Slice")])
def test_tiny_files_go_inline_only_where_all_small_ones_together_are_few(store: Store, tree: Path, more, place) -> None:
    count = INLINE_TOGETHER_BYTES // MAX_INLINE_BYTES
    files = {f"f{number}": noise(MAX_INLINE_BYTES, number) for number in range(count)}
    files["last"] = noise(more)
    write_tree(tree, files)
    checkpoint_tree(opened(store), tree)
    assert set(places(store, 1).values()) == {place}
    assert contents(store, entry_of(store, 1)) == files


def test_an_empty_file_may_lie_in_a_pack(store: Store, tree: Path) -> None:
    files = {"empty": b"", "large": noise(SMALL_BYTES - 1), "z": b""}
    write_tree(tree, files)
    checkpoint_tree(opened(store), tree)
    assert places(store, 1)["empty"] == "Slice"
    assert contents(store, entry_of(store, 1)) == files


def test_a_tree_of_nothing_is_a_checkpoint_too(store: Store, tree: Path) -> None:
    (tree / "empty/one").mkdir(parents=True)
    (tree / "empty/two").mkdir()
    checkpoint_tree(opened(store), tree)
    manifest = store.manifest(store.head(PIPELINE).head, entry_of(store, 1))
    assert manifest.operators[0].subtasks[0].empty_directories == ("empty/one", "empty/two")
    assert contents(store, entry_of(store, 1)) == {}


def test_small_files_fill_one_pack_and_then_the_next(store: Store, tree: Path) -> None:
    chosen = random.Random(2)
    files = {f"f{number:02}": chosen.randbytes(SMALL_BYTES - 1) for number in range(33)}
    write_tree(tree, files)
    counting = CountingBackend(store.backend)
    checkpoint_tree(opened(behind(store, counting)), tree)
    used = [file.place.pack for file in state_files(store, 1).values() if isinstance(file.place, Slice)]
    assert [used.count(pack) for pack in dict.fromkeys(used)] == [32, 1]
    assert sorted(layout.blob(PIPELINE, BlobKey.parse(pack)).path for pack in set(used)) == sorted(
        name for name in counting.created if "/o/" in name
    )
    assert contents(store, entry_of(store, 1)) == files


@pytest.mark.parametrize(("more", "packs"), [(0, 1), (1, 2)])
def test_a_pack_is_full_at_its_very_limit(store: Store, tmp_path: Path, more, packs) -> None:
    uploaded: list[int] = []

    def upload(digest, size: int, body: LocalFile) -> BlobKey:
        data = body.path.read_bytes()
        assert (len(data), store.hash.digest(data)) == (size, digest)
        assert data.startswith(PACK_MAGIC)
        uploaded.append(size)
        return BlobKey(digest, 1)  # type: ignore[arg-type]  # an era like any other

    names = iter(range(9))
    packer = Packer(store.hash, lambda: tmp_path / f"pack{next(names)}", upload)
    for _ in range(31):
        packer.add(memoryview(NOISE)[:SMALL_BYTES], compress=False)
    last = packer.add(memoryview(NOISE)[: SMALL_BYTES - len(PACK_MAGIC) + more], compress=False)
    packer.close()
    packer.close()
    assert len(uploaded) == packs
    assert max(uploaded) <= PACK_BYTES
    assert last.place.offset + last.place.length == uploaded[-1]
    assert (uploaded[0] == PACK_BYTES) == (packs == 1)


@pytest.mark.parametrize("size", [SMALL_BYTES // 2, 2 << 20])
@pytest.mark.parametrize("name", ["a.sst", "a.db"])
def test_what_compresses_is_stored_compressed_and_what_does_not_is_not(store: Store, tree: Path, size, name) -> None:
    write_tree(tree, {name: TEXT[:size]})
    small = checkpoint_tree(opened(store), tree).stored_bytes
    write_tree(tree, {name: NOISE[:size]})
    large = checkpoint_tree(opened(store), tree).stored_bytes
    write_tree(tree, {name: b"\x1f\x8b" + TEXT[: size - 2]})
    told = checkpoint_tree(opened(store), tree).stored_bytes
    assert small < size // 4
    assert size <= large < size + size // 50
    if name == "a.sst":
        assert told >= size  # it begins as gzip does, and is believed
    check_roots(store)
    assert contents(store, entry_of(store, 3)) == {name: b"\x1f\x8b" + TEXT[: size - 2]}


def test_compressing_pays_below_85_percent() -> None:
    assert pays(100, 84)
    assert not pays(100, 85)
    assert not pays(0, 0)
    assert is_compressed(b"\x28\xb5\x2f\xfdrest")
    assert not is_compressed(b"")


# What is shared


@pytest.mark.parametrize(("size", "name"), [(10_000, "f"), (2 << 20, "f.sst")])
def test_equal_contents_are_stored_once(store: Store, tree: Path, size, name) -> None:
    files = {f"{number}/{name}": noise(size) for number in range(12)}
    write_tree(tree, files)
    checkpoint_tree(opened(store), tree)
    stored = stored_keys(store)["o"]
    assert len(stored) == 1
    assert contents(store, entry_of(store, 1)) == files


@pytest.mark.parametrize("name", ["f", "f.sst"])
def test_equal_contents_that_shrink_are_stored_once(store: Store, tree: Path, name) -> None:
    files = {f"{number}/{name}": TEXT[: SMALL_BYTES - 1 if name == "f" else 2 << 20] for number in range(12)}
    write_tree(tree, files)
    created = checkpoint_tree(opened(store), tree)
    places = {file.place for file in state_files(store, 1).values()}
    assert len(places) == len(stored_keys(store)["o"]) == 1
    assert created.stored_bytes < SMALL_BYTES
    assert contents(store, entry_of(store, 1)) == files


@pytest.mark.parametrize(("size", "name"), [(100, "f"), (10_000, "f"), (2 << 20, "f.sst"), (2 << 20, "f.db")])
def test_a_file_that_moved_is_found_by_its_content(store: Store, tree: Path, size, name) -> None:
    write_tree(tree, {f"old/{name}": noise(size)})
    checkpoint_tree(opened(store), tree)
    write_tree(tree, {f"new/{name}": noise(size)})
    before = stored_keys(store)["o"]
    created = checkpoint_tree(opened(store), tree)
    assert contents(store, entry_of(store, 2)) == {f"new/{name}": noise(size)}
    if not name.endswith(".db"):  # its blocks are compared with those of the same name only
        assert (created.stored_bytes, created.snapshot.added_bytes) == (0, 0)
        assert stored_keys(store)["o"] == before


def test_a_file_keeps_the_checkpoint_that_stored_it(store: Store, tree: Path) -> None:
    write_tree(tree, {"a": noise(9000), "b.sst": noise(2 << 20)})
    checkpoint_tree(opened(store), tree)
    write_tree(tree, {"a": noise(9000), "b.sst": noise(2 << 20), "c": noise(9000, 5)})
    checkpoint_tree(opened(store), tree)
    assert {name: file.first_stored_in for name, file in state_files(store, 2).items()} == {"a": 1, "b.sst": 1, "c": 2}
    entry = entry_of(store, 2)
    assert (entry.files, entry.added_files, entry.referenced_files, entry.added_bytes) == (3, 1, 2, 9000)


def test_only_the_changed_block_of_a_large_file_is_stored(store: Store, tree: Path) -> None:
    data = bytearray(NOISE)
    write_tree(tree, {"db": bytes(data)})
    checkpoint_tree(opened(store), tree)
    data[20 * BLOCK_BYTES] ^= 1
    write_tree(tree, {"db": bytes(data)})
    created = checkpoint_tree(opened(store), tree)
    assert created.snapshot.added_bytes == BLOCK_BYTES
    assert created.stored_bytes < BLOCK_BYTES + 10_000
    assert contents(store, entry_of(store, 2)) == {"db": bytes(data)}
    check_roots(store)


def test_of_two_block_tables_only_the_changed_one_is_written(store: Store, tree: Path) -> None:
    size = (TABLE_BLOCKS + 1) * BLOCK_BYTES + 10
    with (tree / "db").open("wb") as file:
        file.truncate(size)
    os.utime(tree / "db", ns=(10**18 + 1, 10**18 + 1))
    first = checkpoint_tree(opened(store), tree)
    assert first.stored_bytes < 1 << 20  # it is all zeros
    with (tree / "db").open("r+b") as file:
        file.seek(TABLE_BLOCKS * BLOCK_BYTES + 5)
        file.write(b"!")
    os.utime(tree / "db", ns=(10**18 + 2, 10**18 + 2))
    second = checkpoint_tree(opened(store), tree)
    old, new = (state_files(store, number)["db"].place for number in (1, 2))
    assert isinstance(old, Blocks)
    assert isinstance(new, Blocks)
    assert len(new.tables) == len(old.tables) == 2
    assert new.tables[0] == old.tables[0]
    assert new.tables[1] != old.tables[1]
    assert second.snapshot.added_bytes == BLOCK_BYTES
    check_roots(store)


@pytest.mark.parametrize(
    "size",
    [
        SMALL_BYTES - 1,
        SMALL_BYTES,
        SMALL_BYTES + 1,
        SMALL_BYTES + BLOCK_BYTES // 2,
        SMALL_BYTES + BLOCK_BYTES,
        2 << 20,
        (2 << 20) + 1,
        100,
        0,
    ],
)
@pytest.mark.parametrize("before", [SMALL_BYTES + BLOCK_BYTES, (2 << 20) + 7])
def test_a_large_file_may_shrink_and_grow(store: Store, tree: Path, before, size) -> None:
    for number, now in enumerate((before, size, before), 1):
        write_tree(tree, {"db": noise(now)})
        created = checkpoint_tree(opened(store), tree)
        assert contents(store, entry_of(store, number)) == {"db": noise(now)}
        assert created.snapshot.full_bytes == now
    check_roots(store)


def test_blocks_survive_the_checkpoints_that_stored_them(store: Store, tree: Path) -> None:
    data = bytearray(noise(SMALL_BYTES + BLOCK_BYTES))
    history = []
    for number in range(6):
        data[number * 2 * BLOCK_BYTES] ^= 0xFF
        history.append(bytes(data))
        write_tree(tree, {"db": bytes(data)})
        checkpoint_tree(opened(store), tree)
    for number, expected in enumerate(history, 1):
        assert contents(store, entry_of(store, number)) == {"db": expected}


def test_a_sparse_file_is_what_it_reads_as(store: Store, tree: Path) -> None:
    for name in ("sparse.db", "sparse.sst"):
        with (tree / name).open("wb") as file:
            file.truncate(5 << 20)
            file.seek(3 << 20)
            file.write(b"island")
    created = checkpoint_tree(opened(store), tree)
    assert created.stored_bytes < 200_000
    expected = bytes(3 << 20) + b"island" + bytes((2 << 20) - 6)
    assert contents(store, entry_of(store, 1)) == {"sparse.db": expected, "sparse.sst": expected}


def shares_blocks(folder: Path) -> bool:
    """The file system clones files."""
    (folder / "from").write_bytes(b"1")
    with (folder / "from").open("rb") as source, (folder / "to").open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
        except OSError:
            return False
    return True


def test_a_linked_file_shares_its_inode_with_the_store(tmp_path: Path, tree: Path) -> None:
    store = local_store(tmp_path)
    write_tree(tree, {"a.sst": noise(2 << 20), "text.sst": TEXT[: 2 << 20], "small": b"1", "b.db": noise(2 << 20, 9)})
    checkpoint_tree(opened(store), tree, link=True)
    files = state_files(store, 1)
    for name in ("a.sst", "text.sst"):
        place = files[name].place
        assert isinstance(place, Whole)
        assert place.codec == "raw"
        blob = Path(store.place.url, layout.blob(PIPELINE, BlobKey(files[name].digest, place.era)).path)  # type: ignore[arg-type]  # parsed before
        if not shares_blocks(tmp_path):
            assert blob.samefile(tree / name)
    assert contents(store, entry_of(store, 1))["a.sst"] == noise(2 << 20)
    check_roots(store)
    assert [*store.place.scratch.iterdir()] == []


def test_a_file_replaced_between_opening_and_linking_is_not_taken(tmp_path: Path, tree: Path, monkeypatch) -> None:
    store = local_store(tmp_path)
    write_tree(tree, {"a.sst": noise(2 << 20)})
    (tmp_path / "next").write_bytes(noise(1 << 20, 7))
    link = os.link

    def late(source: object, target: object, **more: object) -> None:
        if str(source).endswith("a.sst"):
            (tmp_path / "next").replace(tree / "a.sst")
        link(source, target, **more)  # type: ignore[arg-type]  # whatever was asked for

    if shares_blocks(tmp_path):
        pytest.skip("this file system clones files, so nothing is linked")
    monkeypatch.setattr("os.link", late)
    with pytest.raises(SourceChangedError):
        checkpoint_tree(opened(store), tree, link=True)
    assert check_roots(store).live == ()


# What is read


def bytes_read() -> int:
    """By this process so far, from whatever."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nothing counts the bytes read here")
def test_unchanged_files_are_not_read(store: Store, tree: Path) -> None:
    files = {"a.sst": noise(2 << 20), "b.db": noise(2 << 20, 9), "c": noise(500_000)}
    write_tree(tree, files)
    writer = opened(store)
    checkpoint_tree(writer, tree)
    before = bytes_read()
    created = checkpoint_tree(writer, tree)
    assert bytes_read() - before < 100_000
    assert created.read_bytes == 0
    assert contents(store, entry_of(store, 2)) == files
    write_tree(tree, {**files, "c": noise(500_001)})
    assert checkpoint_tree(writer, tree).read_bytes == 500_001


def test_unchanged_files_are_read_on_demand_and_on_another_host(store: Store, tree: Path) -> None:
    from tests.support.fakes import FakeAmbient

    write_tree(tree, {"a.sst": noise(2 << 20), "c": noise(500_000)})
    checkpoint_tree(opened(store), tree)
    created = checkpoint_tree(opened(store), tree, reread=True)
    assert (created.read_bytes, created.stored_bytes) == ((2 << 20) + 500_000, 0)
    elsewhere = behind(store, store.backend, FakeAmbient(5, host="d" * 32).ambient())
    created = checkpoint_tree(opened(elsewhere), tree)
    assert (created.read_bytes, created.stored_bytes) == ((2 << 20) + 500_000, 0)
    assert checkpoint_tree(opened(elsewhere), tree).read_bytes == 0


SHAPES = [(10, "f"), (10_000, "f"), (2 << 20, "f.sst"), ((1 << 20) + 5, "f.db")]


def rewrite(path: Path, data: bytes, mtime_ns: int) -> None:
    """Same inode, same size, and a clock that has not ticked."""
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize(("size", "name"), SHAPES)
@pytest.mark.parametrize("after_now_ns", [0, 3_600 * 10**9])
def test_two_contents_of_one_size_within_one_tick_are_never_taken_for_each_other(
    store: Store, tree: Path, size, name, after_now_ns
) -> None:
    import time

    path = tree / name
    path.write_bytes(noise(size))
    tick = time.clock_gettime_ns(time.CLOCK_REALTIME) + 10**9 + after_now_ns  # not over when it is looked at
    os.utime(path, ns=(tick, tick))
    writer = opened(store)
    checkpoint_tree(writer, tree)
    stat = path.stat()
    rewrite(path, noise(size, 1), tick)
    again = path.stat()
    assert (stat.st_ino, stat.st_size, stat.st_mtime_ns) == (again.st_ino, again.st_size, again.st_mtime_ns)
    checkpoint_tree(writer, tree)
    assert contents(store, entry_of(store, 1)) == {name: noise(size)}
    assert contents(store, entry_of(store, 2)) == {name: noise(size, 1)}


def test_a_time_of_whole_seconds_is_not_trusted_before_two_have_passed(tree: Path) -> None:
    import time

    path = tree / "f"
    path.write_bytes(b"1")
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    for mtime, settled in [
        (now // 10**9 * 10**9 - 10**9, False),  # the file system may keep even seconds only
        (now // 10**9 * 10**9 - 9 * 10**9, True),
        (now - 60 * 10**9 + 1, True),
        (now + 10**9, False),
    ]:
        os.utime(path, ns=(mtime, mtime))
        with DirectorySource(tree).capture() as captured:
            assert [file.settled for file in captured.files] == [settled]


@pytest.mark.parametrize(("size", "name"), [(100, "f"), (5_000, "f"), ((1 << 20) + 5, "f.db")])
def test_rewrites_as_fast_as_they_can_come_are_all_seen(store: Store, tree: Path, size, name) -> None:
    path = tree / name
    path.write_bytes(bytes(size))
    writer = opened(store)
    for number in range(1, 201 if size < SMALL_BYTES else 21):
        data = b"%06d" % number + bytes(size - 6)
        with path.open("r+b") as file:
            file.write(data[:6])
        checkpoint_tree(writer, tree)
        assert contents(store, entry_of(store, number)) == {name: data}


# A source that changes


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def touch(path: Path) -> None:
    os.utime(path, ns=(5, 5))


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(path.stat().st_mtime_ns,) * 2)
    copy.replace(path)


def to_link(path: Path) -> None:
    target = path.parent.parent / "target"
    path.rename(target)
    path.symlink_to(target)


CHANGES: list[Callable[[Path], object]] = [
    append,
    touch,
    replace,
    to_link,
    Path.unlink,
    lambda path: os.truncate(path, path.stat().st_size - 1),
]


class Changing(msgspec.Struct, frozen=True):
    """A directory of which a file changes between the listing and the reading."""

    root: Path
    change: Callable[[], object]

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        with DirectorySource(self.root).capture() as captured:
            self.change()
            yield captured


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_changed_since_it_was_listed_stops_the_checkpoint(
    store: Store, tree: Path, change, shape, link
) -> None:
    size, name = shape
    write_tree(tree, {"a": b"another", name: noise(size)})
    source = Changing(tree, lambda: change(tree / name))
    writer = opened(store)
    with pytest.raises(SourceChangedError):
        create_checkpoint(writer, Request(parts=(Part(source=source),), link=link))
    assert check_roots(store).live == ()
    assert [*store.place.scratch.iterdir()] == []
    for left in tree.parent.glob("target"):
        left.unlink()
    write_tree(tree, {name: noise(size)})
    assert checkpoint_tree(writer, tree).snapshot.id == 1


@pytest.mark.parametrize(("size", "name"), SHAPES[2:])
def test_a_file_that_changes_while_it_is_read_stops_the_checkpoint(
    store: Store, tree: Path, size, name, monkeypatch
) -> None:
    write_tree(tree, {name: noise(size)})
    real = os.preadv
    changes = iter([lambda: append(tree / name)])

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = real(descriptor, buffers, offset)
        next(changes, lambda: None)()
        return count

    monkeypatch.setattr("os.preadv", preadv)
    with pytest.raises(SourceChangedError):
        checkpoint_tree(opened(store), tree)
    assert check_roots(store).live == ()
    assert [*store.place.scratch.iterdir()] == []


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("a"), os.mkfifo])
def test_a_source_that_holds_more_than_files_is_refused(store: Store, tree: Path, make) -> None:
    write_tree(tree, {"a": b"1"})
    make(tree / "strange")
    with pytest.raises(BadNameError, match="strange"):
        checkpoint_tree(opened(store), tree)
    assert check_roots(store).live == ()


def test_hard_links_are_files_like_others(store: Store, tree: Path) -> None:
    write_tree(tree, {"a.sst": noise(2 << 20)})
    (tree / "b.sst").hardlink_to(tree / "a.sst")
    checkpoint_tree(opened(store), tree)
    assert contents(store, entry_of(store, 1)) == {"a.sst": noise(2 << 20), "b.sst": noise(2 << 20)}
    assert len(stored_keys(store)["o"]) == 1


BAD_NAMES = [b"new\nline", b"a\xff", b"back\\slash", b"C:", "u\u0308mlaut".encode(), b"x" * 255 + b"/" + b"\x7f"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["file", "empty directory"])
def test_a_name_that_means_trouble_elsewhere_is_refused(store: Store, tree: Path, name, kind) -> None:
    path = os.fsencode(tree) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  (names that are no text)
    if kind == "file":
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    else:
        os.mkdir(path)  # noqa: PTH102
    with pytest.raises(BadNameError):
        checkpoint_tree(opened(store), tree)
    assert check_roots(store).live == ()


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        (["A", "a"], []),
        (["Dir/x", "dir/y"], []),
        (["straße", "STRASSE"], []),
        (["a/x", "A"], []),
        (["a"], ["A"]),
        (["B/x"], ["b"]),
        ([], ["c", "C"]),
    ],
)
def test_names_that_are_one_on_some_file_systems_are_refused(store: Store, tree: Path, files, folders) -> None:
    for folder in folders:
        (tree / folder).mkdir()
    for name in files:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"1")
    if len({path.name for path in tree.iterdir()}) < len({name.split("/")[0] for name in [*files, *folders]}):
        pytest.skip("this file system takes them for one itself")
    with pytest.raises(NameClashError):
        checkpoint_tree(opened(store), tree)
    assert check_roots(store).live == ()


# What is written can be read again, for ever


def test_a_tree_that_gains_a_few_tiny_files_each_time_never_outgrows_its_manifest(store: Store, tree: Path) -> None:
    files: dict[str, bytes] = {}
    writer = opened(store)
    for number in range(1, 24):
        files |= {f"f{number}-{item}": noise(4000, number * 100 + item) for item in range(15)}
        write_tree(tree, files)
        checkpoint_tree(writer, tree)
        inline = [file for file in state_files(store, number).values() if isinstance(file.place, Inline)]
        assert sum(file.bytes for file in inline) <= MAX_INLINE_TOTAL_BYTES
    assert contents(store, entry_of(store, 23)) == files
    assert contents(store, entry_of(store, 17)).items() <= files.items()
    check_roots(store)


def test_many_subtasks_of_tiny_files_do_not_outgrow_their_manifest(store: Store, tmp_path: Path) -> None:
    parts = []
    for number in range(20):
        files = {f"f{item}": noise(4000, number * 100 + item) for item in range(15)}
        parts.append(Part(source=DirectorySource(write_tree(tmp_path / f"tree{number}", files)), subtask=number))
    for _ in range(2):
        create_checkpoint(opened(store), Request(parts=tuple(parts)))
    check_roots(store)


@pytest.mark.parametrize(
    "request_",
    [
        {"tags": ("has space",)},
        {"tags": ("x" * 200,)},
        {"tags": ("",)},
        {"offsets": {"s": {"p": 2**60}}},
        {"offsets": {"s": {"p": "x" * 5000}}},
        {"offsets": {"s" * 5000: {"p": 1}}},
        {"properties": {"k": "v" * 5000}},
        {"as_id": 2**60},
        {"as_id": 0},
        {"as_id": -1},
    ],
)
def test_what_could_not_be_read_again_is_refused_and_the_pipeline_lives_on(store: Store, tree: Path, request_) -> None:
    write_tree(tree, {"a": b"1"})
    writer = opened(store)
    checkpoint_tree(writer, tree)
    with pytest.raises(EoctlError) as caught:
        checkpoint_tree(writer, tree, **request_)
    assert caught.value.exit_code in {InvalidInputError.exit_code, UsageError.exit_code, 12}
    assert checkpoint_tree(writer, tree).snapshot.id == 2
    check_roots(store)


# What it costs


def test_ten_thousand_small_files_cost_a_handful_of_syncs(tmp_path: Path, tree: Path, monkeypatch) -> None:
    store = local_store(tmp_path)
    for number in range(100):
        folder = tree / f"{number}"
        folder.mkdir()
        for item in range(100):
            (folder / f"{item}").write_bytes(NOISE[number * 100 + item :][:300])
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    writer = opened(store)
    made = len(synced)
    created = checkpoint_tree(writer, tree)
    assert created.snapshot.files == 10_000
    assert made <= 24  # the pipeline itself, once
    assert len(synced) <= 40
    checkpoint_tree(Opened(store, PIPELINE, writer.attempt, writer.owner), tree)
    assert len(synced) <= 60
