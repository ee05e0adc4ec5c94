"""What every backend promises, as one suite: a subclass says how to make an empty one.

    class TestMemory(BackendSuite):
        @pytest.fixture
        def backend(self, tmp_path): ...

`scratch` is a directory from which the backend takes files; it may be anywhere.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from formats.errors import BadNameError
from storage.backend import (
    Backend,
    CopyOf,
    Folder,
    Found,
    Key,
    KeyAbsentError,
    LocalFile,
    Reach,
    VersionMismatchError,
    version_of,
)

KEY = Key("p/orders/o/3f/some.1")
HEAD = Key("p/orders/HEAD")
EVERY_BYTE = bytes(range(256)) * 3 + b"\r\n\n\0"
BIG_BYTES = (9 << 20) + 17


def content(backend: Backend, key: Key, start: int = 0, length: int | None = None) -> bytes:
    with backend.open(key, start, length) as file:
        return file.read()


def names(backend: Backend, prefix: str, reach: Reach = Reach.ALL) -> list[str]:
    return [item.key.path for item in backend.list(Key(prefix), reach=reach)]


def together(count: int, work) -> list[object]:
    """The results of `work(number)` in as many threads, all let go at once; an error is a result."""
    barrier = threading.Barrier(count)
    results: list[object] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:  # noqa: BLE001  (what went wrong is what is tested)
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class BackendSuite:
    """Inherit, and give a fixture `backend`."""

    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Path:
        folder = tmp_path / "a scratch"
        folder.mkdir()
        return folder

    # create and open

    def test_what_was_created_is_there(self, backend: Backend) -> None:
        assert backend.create(KEY, EVERY_BYTE) is True
        assert content(backend, KEY) == EVERY_BYTE
        found = backend.stat(KEY)
        assert found is not None
        assert (found.key, found.bytes) == (KEY, len(EVERY_BYTE))

    def test_an_empty_value_is_a_value(self, backend: Backend) -> None:
        assert backend.create(KEY, b"") is True
        assert backend.create(KEY, b"more") is False
        assert content(backend, KEY) == b""
        found = backend.stat(KEY)
        assert found is not None
        assert found.bytes == 0

    def test_create_never_overwrites(self, backend: Backend, scratch: Path) -> None:
        backend.create(KEY, b"first")
        backend.create(Key("source"), b"second")
        handed_over = scratch / "file"
        handed_over.write_bytes(b"second")
        assert backend.create(KEY, b"second") is False
        assert backend.create(KEY, LocalFile(handed_over)) is False
        assert backend.create(KEY, CopyOf(Key("source"))) is False
        assert content(backend, KEY) == b"first"

    @pytest.mark.parametrize("there", [False, True])
    def test_a_file_handed_over_is_consumed(self, backend: Backend, scratch: Path, there) -> None:
        if there:
            backend.create(KEY, b"first")
        handed_over = scratch / "file"
        handed_over.write_bytes(EVERY_BYTE)
        assert backend.create(KEY, LocalFile(handed_over)) is not there
        assert not handed_over.exists()
        assert content(backend, KEY) == (b"first" if there else EVERY_BYTE)

    def test_a_copy_has_the_bytes_of_its_source_and_outlives_it(self, backend: Backend) -> None:
        backend.create(KEY, EVERY_BYTE)
        copy = Key("p/other/o/3f/some.2")
        assert backend.create(copy, CopyOf(KEY)) is True
        backend.delete([KEY])
        assert content(backend, copy) == EVERY_BYTE

    def test_a_copy_of_nothing_makes_nothing(self, backend: Backend) -> None:
        with pytest.raises(KeyAbsentError):
            backend.create(Key("p/copy"), CopyOf(KEY))
        assert backend.stat(Key("p/copy")) is None
        assert names(backend, "p") == []

    def test_big_values_pass_in_every_form(self, backend: Backend, scratch: Path) -> None:
        data = bytes(BIG_BYTES - 1) + b"!"
        handed_over = scratch / "file"
        handed_over.write_bytes(data)
        assert backend.create(Key("big/bytes"), data)
        assert backend.create(Key("big/file"), LocalFile(handed_over))
        assert backend.create(Key("big/copy"), CopyOf(Key("big/file")))
        for key in ("big/bytes", "big/file", "big/copy"):
            found = backend.stat(Key(key))
            assert found is not None
            assert found.bytes == BIG_BYTES
            assert content(backend, Key(key)) == data
        assert content(backend, Key("big/file"), BIG_BYTES - 2, 2) == b"\0!"

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (0, 10, b"0123456789"),
            (3, 4, b"3456"),
            (3, None, b"3456789"),
            (8, 10, b"89"),
            (0, 0, b""),
            (4, 0, b""),
            (10, None, b""),
            (10, 5, b""),
            (99, 5, b""),
            (99, None, b""),
        ],
    )
    def test_a_range_is_what_there_is_of_it(self, backend: Backend, start, length, expected) -> None:
        backend.create(KEY, b"0123456789")
        assert content(backend, KEY, start, length) == expected

    def test_a_reader_gives_its_bytes_in_pieces(self, backend: Backend) -> None:
        backend.create(KEY, b"0123456789")
        with backend.open(KEY, 1, 8) as file:
            assert [file.read(3), file.read(3), file.read(3), file.read(3)] == [b"123", b"456", b"78", b""]
        with backend.open(KEY) as file:
            assert b"".join(iter(lambda: file.read(4), b"")) == b"0123456789"

    def test_a_reader_of_a_whole_value_can_be_moved(self, backend: Backend) -> None:
        backend.create(KEY, b"0123456789")
        with backend.open(KEY) as file:
            for start, expected in ((7, b"78"), (0, b"01"), (4, b"45")):
                file.seek(start)
                assert file.read(2) == expected

    def test_a_reader_outlives_the_key(self, backend: Backend) -> None:
        backend.create(KEY, b"0123456789")
        with backend.open(KEY, 0, 10) as file:
            backend.delete([KEY])
            assert file.read() == b"0123456789"

    @pytest.mark.parametrize("absent", [KEY, Key("p"), Key("p/orders"), Key("p/orders/HEAD/below")])
    def test_what_is_not_there_is_not_there(self, backend: Backend, absent) -> None:
        backend.create(HEAD, b"1")
        assert backend.stat(absent) is None
        with pytest.raises(KeyAbsentError):
            backend.open(absent)
        with pytest.raises(KeyAbsentError):
            backend.open(absent, 0, 1)

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/absolute",
            "trailing/",
            "two//slashes",
            ".",
            "..",
            "../up",
            "p/../up",
            "p/./here",
            ".hidden",
            "p/.hidden",
            "with space",
            "back\\slash",
            "new\nline",
            "end\n",
            "nul\0",
            "tilde~",
            "ümlaut",
            "%2e%2e",
            "C:",
            "a:b",
        ],
    )
    def test_a_name_that_could_escape_or_confuse_is_no_key(self, path) -> None:
        with pytest.raises(BadNameError):
            Key(path)

    # swap

    def test_a_swap_of_the_expected_value_replaces_it(self, backend: Backend) -> None:
        backend.create(HEAD, b"one")
        backend.swap(HEAD, b"two", version_of(b"one"))
        assert content(backend, HEAD) == b"two"
        backend.swap(HEAD, b"", version_of(b"two"))
        assert content(backend, HEAD) == b""
        backend.swap(HEAD, EVERY_BYTE * 1000, version_of(b""))
        assert content(backend, HEAD) == EVERY_BYTE * 1000
        found = backend.stat(HEAD)
        assert found is not None
        assert found.bytes == len(EVERY_BYTE) * 1000

    def test_a_swap_of_a_stale_value_is_refused_and_changes_nothing(self, backend: Backend) -> None:
        backend.create(HEAD, b"one")
        backend.swap(HEAD, b"two", version_of(b"one"))
        for stale in (b"one", b"", b"three"):
            with pytest.raises(VersionMismatchError):
                backend.swap(HEAD, b"three", version_of(stale))
        assert content(backend, HEAD) == b"two"

    @pytest.mark.parametrize("neighbour", [Key("q/other"), Key("p/orders/other")])
    def test_a_swap_of_nothing_is_refused_and_makes_nothing(self, backend: Backend, neighbour) -> None:
        backend.create(neighbour, b"1")
        with pytest.raises((KeyAbsentError, VersionMismatchError)):
            backend.swap(HEAD, b"two", version_of(b""))
        assert backend.stat(HEAD) is None
        assert names(backend, "p") == [neighbour.path for _ in range(1) if neighbour.path.startswith("p")]

    def test_a_value_that_was_swapped_is_listed_once(self, backend: Backend) -> None:
        backend.create(HEAD, b"one")
        backend.swap(HEAD, b"two", version_of(b"one"))
        assert names(backend, "p") == [HEAD.path]

    # list

    def test_a_listing_is_sorted_as_keys_are(self, backend: Backend) -> None:
        keys = ["p/a-b/x", "p/a.b/x", "p/a/x", "p/a/y/z", "p/a0", "p/A/x", "p/a_/x", "p/a/x.1", "p/a/x/1", "p/b"]
        keys.remove("p/a/x")  # a value is no folder on disk
        for key in reversed(keys):
            backend.create(Key(key), b"1")
        assert names(backend, "p") == sorted(keys)

    def test_a_prefix_ends_where_a_name_ends(self, backend: Backend) -> None:
        for key in ("p/a/1", "p/ab/1", "p/a.b", "p/a-", "pa/1", "p.a"):
            backend.create(Key(key), b"1")
        assert names(backend, "p/a") == ["p/a/1"]
        assert names(backend, "p/ab") == ["p/ab/1"]
        assert names(backend, "p") == ["p/a-", "p/a.b", "p/a/1", "p/ab/1"]
        assert names(backend, "p/a/1") == []
        assert names(backend, "absent") == []
        assert names(backend, "p/a/absent/more") == []

    def test_a_listing_tells_sizes(self, backend: Backend) -> None:
        backend.create(KEY, b"12345")
        backend.create(HEAD, b"")
        sizes = {item.key: item.bytes for item in backend.list(Key("p")) if isinstance(item, Found)}
        assert sizes == {KEY: 5, HEAD: 0}

    def test_a_listing_and_stat_tell_the_same_time(self, backend: Backend) -> None:
        backend.create(KEY, b"12345")
        (found,) = backend.list(Key("p"))
        assert found == backend.stat(KEY)

    def test_folders_are_one_level_of_names(self, backend: Backend) -> None:
        for key in ("p/a/1", "p/a/2/3", "p/a-b/1", "p/a.b/1", "p/b", "q/c/1"):
            backend.create(Key(key), b"1")
        folders = [*backend.list(Key("p"), reach=Reach.FOLDERS)]
        assert folders == [Folder(Key("p/a-b")), Folder(Key("p/a.b")), Folder(Key("p/a"))]
        assert names(backend, "absent", Reach.FOLDERS) == []
        assert names(backend, "p/a-b", Reach.FOLDERS) == []

    def test_nothing_is_unfinished_when_every_write_has_ended(self, backend: Backend, scratch: Path) -> None:
        handed_over = scratch / "file"
        handed_over.write_bytes(b"1")
        backend.create(KEY, LocalFile(handed_over))
        backend.create(KEY, b"2")
        backend.create(HEAD, b"one")
        backend.swap(HEAD, b"two", version_of(b"one"))
        backend.create(Key("p/copy"), CopyOf(KEY))
        with pytest.raises(VersionMismatchError):
            backend.swap(HEAD, b"three", version_of(b"one"))
        assert [*backend.list(Key("p"), reach=Reach.UNFINISHED)] == []

    def test_a_listing_goes_on_while_its_keys_are_deleted(self, backend: Backend) -> None:
        keys = [f"p/o/{number}" for number in range(9)]
        for key in keys:
            backend.create(Key(key), b"1")
        seen = []
        for item in backend.list(Key("p")):
            seen.append(item.key.path)
            backend.delete([Key("p/o/5"), Key("p/o/8"), item.key])
        assert [key for key in seen if key not in {"p/o/5", "p/o/8"}] == [
            key for key in keys if key not in {"p/o/5", "p/o/8"}
        ]

    # delete

    def test_deleted_keys_are_gone_and_the_others_are_not(self, backend: Backend) -> None:
        keys = [Key(f"p/o/{number}") for number in range(5)]
        for key in keys:
            backend.create(key, b"1")
        backend.delete(iter(keys[1:3]))
        backend.delete([])
        assert names(backend, "p") == ["p/o/0", "p/o/3", "p/o/4"]
        assert backend.stat(keys[1]) is None

    def test_deleting_what_is_not_there_is_fine(self, backend: Backend) -> None:
        backend.create(KEY, b"1")
        backend.delete([Key("p/absent"), Key("no/such/folder/at/all"), KEY, KEY])
        backend.delete([KEY])
        assert names(backend, "p") == []

    def test_a_deleted_key_can_be_created_again(self, backend: Backend) -> None:
        backend.create(KEY, b"first")
        backend.delete([KEY])
        assert backend.create(KEY, b"second") is True
        assert content(backend, KEY) == b"second"

    # at once

    def test_of_creates_at_once_exactly_one_wins(self, backend: Backend, scratch: Path) -> None:
        for turn in range(10):
            key = Key(f"p/race/{turn}")
            bodies = [bytes([65 + number]) * 100_000 for number in range(6)]
            handed_over = [scratch / f"{turn}.{number}" for number in range(6)]
            for path, body in zip(handed_over, bodies, strict=True):
                path.write_bytes(body)

            def create(number, key=key, bodies=bodies, handed_over=handed_over) -> bool:
                return backend.create(key, bodies[number] if number % 2 else LocalFile(handed_over[number]))

            results = together(6, create)
            assert sorted(results, key=str) == [False] * 5 + [True]
            assert content(backend, key) == bodies[results.index(True)]

    def test_of_swaps_at_once_exactly_one_wins_each_round(self, backend: Backend) -> None:
        backend.create(HEAD, b"start")
        current = b"start"
        for turn in range(16):
            bodies = [f"{turn} by {number}".encode() * 1000 for number in range(4)]

            def swap(number, seen=current, bodies=bodies) -> str:
                backend.swap(HEAD, bodies[number], version_of(seen))
                return "won"

            results = together(4, swap)
            assert results.count("won") == 1
            assert [type(r) for r in results if r != "won"] == [VersionMismatchError] * 3
            current = bodies[results.index("won")]
            assert content(backend, HEAD) == current
