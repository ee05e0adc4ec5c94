"""State handed over by a hostile or broken hand: directories, SQLite databases, RocksDB directories."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from eoctl.engines.directory import DirectorySource
from eoctl.engines.rocksdb import RocksdbSource
from eoctl.engines.source import StateSource
from eoctl.engines.sqlite import SqliteSource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from formats.errors import (
    BadNameError,
    CorruptError,
    EoctlError,
    NameClashError,
    SourceChangedError,
    UnsupportedError,
    UsageError,
)
from storage.session import open_writer
from tests.hostile.case import Action, Case, just
from tests.hostile.planted import opened, plant
from tests.hostile.specimen import PIPELINE

Build = Callable[[Path], object]


def _taken(source: StateSource, box: Path) -> Action:
    """A checkpoint of the source; where it is refused HEAD is what it was."""
    root = plant(box, {})

    def take() -> None:
        store = opened(root)
        writer = Opened(store, PIPELINE, *open_writer(store, PIPELINE))
        before = store.head(PIPELINE)
        try:
            create_checkpoint(writer, Request(parts=(Part(source=source),)))
        except EoctlError:
            assert store.head(PIPELINE) == before
            assert not list((root / "tmp").iterdir())
            raise

    return take


# Directories


def _write(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"state")


def _deep(folder: Path, levels: int) -> None:
    """Directories in each other, deeper than a path can say."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=descriptor)
        inner = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        where = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{where}/{path.name}")  # the path itself may be too long for a socket
        os.close(where)


def _link_deep_in(folder: Path) -> None:
    _write(folder, "a/b/c")
    (folder / "a/b/x").symlink_to("c")


TREES: dict[str, tuple[Build, type[EoctlError]]] = {
    "a link to a file": (lambda d: (d / "x").symlink_to(d.parent.parent / "outside" / "precious"), BadNameError),
    "a link to a directory": (lambda d: (d / "x").symlink_to(d.parent.parent / "outside"), BadNameError),
    "a link to nothing": (lambda d: (d / "x").symlink_to("nothing"), BadNameError),
    "a link to itself": (lambda d: (d / "x").symlink_to("x"), BadNameError),
    "a link to the directory above": (lambda d: (d / "x").symlink_to(".."), BadNameError),
    "a link deep in it": (_link_deep_in, BadNameError),
    "a pipe": (lambda d: os.mkfifo(d / "x"), BadNameError),
    "a socket": (lambda d: _socket(d / "x"), BadNameError),
    "a name that is not UTF-8": (lambda d: _write(d, b"a\xff"), BadNameError),
    "a directory that is not UTF-8": (lambda d: _write(d, b"\xff/a"), BadNameError),
    "a name of a line feed": (lambda d: _write(d, "a\nb"), BadNameError),
    "a name of an escape": (lambda d: _write(d, "\x1b[2J"), BadNameError),
    "a name of a backslash": (lambda d: _write(d, r"..\..\x"), BadNameError),
    "a name of a drive": (lambda d: _write(d, "C:"), BadNameError),
    "a name that is not NFC": (lambda d: _write(d, "u\u0308"), BadNameError),
    "an empty directory that is not NFC": (lambda d: (d / "u\u0308").mkdir(), BadNameError),
    "names of two cases": (lambda d: _write(d, "a", "A"), NameClashError),
    "directories of two cases": (lambda d: _write(d, "d/x", "D/y"), NameClashError),
    "a file and a directory but for case": (lambda d: _write(d, "a", "A/x"), NameClashError),
    "129 directories in each other": (lambda d: _deep(d, 129), BadNameError),
    "1,500 directories in each other": (lambda d: _deep(d, 1500), BadNameError),
    "5,000 directories in each other": (lambda d: _deep(d, 5000), EoctlError),
}


def _trees() -> Iterator[Case]:
    for name, (build, expected) in TREES.items():

        def prepare(box: Path, build: Build = build) -> Action:
            (box / "state").mkdir()
            build(box / "state")
            return _taken(DirectorySource(box / "state"), box)

        yield Case(f"directory with {name}", expected, prepare)
    yield Case("directory that is a file", UsageError, lambda box: _taken(DirectorySource(_made(box, b"x")), box))
    yield Case("directory that is not there", UsageError, lambda box: _taken(DirectorySource(box / "nowhere"), box))
    yield Case("directory with hard links, which are normal", None, _hard_links)


def _hard_links(box: Path) -> Action:
    _write(box / "state", "a")
    os.link(box / "state" / "a", box / "state" / "b")
    return _taken(DirectorySource(box / "state"), box)


def _made(box: Path, data: bytes) -> Path:
    path = box / "file"
    path.write_bytes(data)
    return path


# SQLite


def database() -> bytes:
    """A small database."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE totals (customer TEXT, total INTEGER)")
    connection.execute("CREATE INDEX by_total ON totals (total)")
    connection.executemany("INSERT INTO totals VALUES (?, ?)", [("c" * 40, number) for number in range(600)])
    connection.commit()
    data = connection.serialize()
    connection.close()
    return data


SQLITE = database()


def _patched(at: int, new: bytes) -> bytes:
    return SQLITE[:at] + new + SQLITE[at + len(new) :]


DATABASES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a magic alone": lambda: b"SQLite format 3\0",
    "text": lambda: b"not a database" * 1000,
    "zeros": lambda: bytes(8192),
    "cut to a page": lambda: SQLITE[:4096],
    "cut inside a page": lambda: SQLITE[:5000],
    "cut inside the header": lambda: SQLITE[:50],
    "a page size of 1,000": lambda: _patched(16, b"\x03\xe8"),
    "a page size of 0": lambda: _patched(16, b"\0\0"),
    "a schema format of 9": lambda: _patched(44, b"\0\0\0\x09"),
    "a read version of 9": lambda: _patched(18, b"\x09\x09"),
    "SQL that is not UTF-8": lambda: SQLITE.replace(b"CREATE TABLE", b"CRE\xffTE TABL\xfe"),
    "a table's name that is not UTF-8": lambda: SQLITE.replace(b"totals (customer", b"tot\xff\xfe( (customer"[:16]),
    "an index on nothing": lambda: SQLITE.replace(b"ON totals", b"ON tot\xffls"),
    "SQL of another kind": lambda: SQLITE.replace(b"CREATE TABLE totals", b"DROP   TABLE totals"),
    "a root page beyond its end": lambda: SQLITE.replace(b"\x02CREATE TABLE", b"\x7fCREATE TABLE"),
    "pages of noise": lambda: SQLITE[:4096] + random.Random(1).randbytes(len(SQLITE) - 4096),
    "a first page of noise": lambda: SQLITE[:100] + random.Random(1).randbytes(3996) + SQLITE[4096:],
}


def _databases() -> Iterator[Case]:
    for name, build in DATABASES.items():

        def prepare(box: Path, build: Callable[[], bytes] = build) -> Action:
            (box / "db").mkdir()
            (box / "db" / "app.db").write_bytes(build())
            return _taken(SqliteSource(box / "db" / "app.db", verify=True, timeout_seconds=0.05), box)

        yield Case(f"SQLite: {name}", EoctlError, prepare)

    def piped(box: Path) -> Action:
        os.mkfifo(box / "app.db")
        return _taken(SqliteSource(box / "app.db"), box)

    yield Case("SQLite: a pipe", UsageError, piped)
    yield Case("SQLite: a directory", UsageError, lambda box: _taken(SqliteSource(box), box))

    def fuzzed(box: Path) -> Action:
        path = _made(box, SQLITE)

        def look() -> None:
            rng = random.Random(1)
            for _ in range(300):
                data = bytearray(SQLITE)
                for _ in range(rng.randint(1, 8)):
                    data[rng.choice((rng.randrange(len(data)), rng.randrange(100), rng.randrange(3800, 4096)))] = (
                        rng.randrange(256)
                    )
                path.write_bytes(data)
                try:
                    with SqliteSource(path, verify=True, timeout_seconds=0.05).capture():
                        pass
                except EoctlError:
                    pass

        return look

    yield Case("SQLite: 300 databases with bytes changed", None, fuzzed)


# RocksDB

OPTIONS = b'[Version]\n  rocksdb_version=9.8.4\n[DBOptions]\n  wal_dir=\n[CFOptions "default"]\n'


def piece(data: bytes, kind: int = 1, *, size: int | None = None) -> bytes:
    """A piece of a MANIFEST record; nothing checks its checksum."""
    return struct.pack("<IHB", 0, len(data) if size is None else size, kind) + data


def pieces(record: bytes) -> bytes:
    """A record as a log holds it: in pieces that fit its blocks."""
    room = (32 << 10) - 7
    parts = [record[at : at + room] for at in range(0, len(record), room)]
    kinds = [1] if len(parts) == 1 else [2, *[3] * (len(parts) - 2), 4]
    return b"".join(piece(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _tiny_pieces(size: int) -> bytes:
    """One record that goes on in pieces of a byte."""
    log = bytearray(piece(b"x", 2))
    while len(log) < size:
        left = (32 << 10) - len(log) % (32 << 10)
        log += bytes(left) if left < 8 else piece(b"x", 3)
    return bytes(log)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _new_file(count: int) -> bytes:
    """A record that names that many tables."""
    one = b"".join(number(100) + number(0) + number(n) + number(7) + b"\0\0" + b"\0\0" for n in range(2, count + 2))
    return pieces(one)


MANIFESTS: dict[str, tuple[Callable[[], bytes], type[EoctlError]]] = {
    "a record that is cut": (lambda: piece(number(2)), CorruptError),
    "a table without a size": (lambda: piece(number(100) + number(0) + number(5)), CorruptError),
    "a table that is not there": (lambda: _new_file(1), UnsupportedError),
    "a million tables": (lambda: _new_file(200_000), UnsupportedError),
    "an unknown tag": (lambda: piece(number(99)), UnsupportedError),
    "an unknown kind of piece": (lambda: piece(b"x", 9), UnsupportedError),
    "a number of 64 bits and one": (lambda: piece(number(2) + b"\xff" * 10 + b"\1"), CorruptError),
    "a number of a megabyte": (lambda: pieces(b"\xff" * 1_000_000), CorruptError),
    "a string beyond its end": (lambda: piece(number(1) + number(2**40)), CorruptError),
    "pairs without an end": (
        lambda: piece(number(103) + number(0) + number(9) + number(7) + b"\0\0\0\0" + b"\2\0" * 100),
        CorruptError,
    ),
    "another column family": (lambda: piece(number(201) + number(3) + b"abc"), SourceChangedError),
    "no column family": (lambda: piece(number(202)), SourceChangedError),
    "a family that is not UTF-8": (lambda: piece(number(201) + number(2) + b"\xff\xfe"), SourceChangedError),
    "a family of 30,000 letters": (lambda: piece(number(201) + number(30_000) + b"x" * 30_000), SourceChangedError),
}


def _rocksdb(box: Path) -> Path:
    folder = box / "db"
    folder.mkdir()
    for name, data in {"CURRENT": b"MANIFEST-000001\n", "MANIFEST-000001": b"", "OPTIONS-000007": OPTIONS}.items():
        (folder / name).write_bytes(data)
    return folder


def _with_file(name: str, build: Callable[[], bytes]) -> Build:
    return lambda box: (_rocksdb(box) / name).write_bytes(build())


def _without(name: str) -> Build:
    return lambda box: (_rocksdb(box) / name).unlink()


def _captures(name: str, expected: type[EoctlError] | None, build: Build) -> Case:
    """`build` is given the box, and makes the directory `db` in it."""

    def prepare(box: Path) -> Action:
        build(box)
        return _taken(RocksdbSource(box / "db", wait=lambda _: None), box)

    return Case(f"RocksDB: {name}", expected, prepare)


def _in_place(name: str, make: Callable[[Path], object]) -> Build:
    def build(box: Path) -> None:
        path = _rocksdb(box) / name
        path.unlink(missing_ok=True)
        make(path)

    return build


CURRENTS: dict[str, bytes] = {
    "that is empty": b"",
    "that climbs": b"../../outside/precious\n",
    "that is absolute": b"/etc/passwd\n",
    "that names a MANIFEST above": b"../MANIFEST-000001\n",
    "that names a number in Arabic": "MANIFEST-\u0661\n".encode(),
    "of two lines": b"MANIFEST-000001\nMANIFEST-000002\n",
    "of 1 MB": b"MANIFEST-" + b"1" * 1_000_000,
    "with a NUL": b"MANIFEST-000001\0\n",
    "that is not UTF-8": b"MANIFEST-\xff\n",
}

OPTIONS_FILES: dict[str, tuple[bytes, type[EoctlError]]] = {
    "that is empty": (b"", SourceChangedError),
    "of another family": (OPTIONS.replace(b"default", b"other"), SourceChangedError),
    "of 4 MiB of line feeds": (b"\n" * (4 << 20), SourceChangedError),
    "of 4 MiB of spaces": (b" " * (4 << 20), SourceChangedError),
    "of 4 MiB and a byte": (b" " * ((4 << 20) + 1), UnsupportedError),
    "of 100,000 families": (OPTIONS + b'[CFOptions "x"]\n' * 100_000, SourceChangedError),
    "of an open family": (OPTIONS.replace(b'"default"]', b'"' + b'"]x' * 100_000), SourceChangedError),
    "that is not UTF-8": (b"\xff" * 10_000, SourceChangedError),
    "with recycled logs": (OPTIONS.replace(b"wal_dir=", b"recycle_log_file_num=4"), UnsupportedError),
}


def _databases_of_rocksdb() -> Iterator[Case]:
    for name, data in CURRENTS.items():
        expected = EoctlError if name == "of 1 MB" else CorruptError  # a name too long for any file
        yield _captures(f"CURRENT {name}", expected, _with_file("CURRENT", just(data)))
    for name, (build, expected) in MANIFESTS.items():
        yield _captures(f"MANIFEST with {name}", expected, _with_file("MANIFEST-000001", build))
    for name, (data, expected) in OPTIONS_FILES.items():
        yield _captures(f"OPTIONS {name}", expected, _with_file("OPTIONS-000007", just(data)))
    yield _captures("no CURRENT", UsageError, _without("CURRENT"))
    yield _captures("no MANIFEST", SourceChangedError, _without("MANIFEST-000001"))
    yield _captures("no OPTIONS", UnsupportedError, _without("OPTIONS-000007"))
    for name in ("CURRENT", "MANIFEST-000001", "OPTIONS-000007", "000003.log", "000004.sst"):
        outside = Path("..", "..", "..", "outside", "precious")
        unused = name == "000004.sst"  # no MANIFEST names it
        yield _captures(f"a pipe for {name}", None if unused else EoctlError, _in_place(name, os.mkfifo))
        yield _captures(f"a directory for {name}", EoctlError, _in_place(name, Path.mkdir))
        yield _captures(f"a link outside for {name}", EoctlError, _in_place(name, partial(_link, to=outside)))
    yield _captures(
        "512 MiB of nothing in MANIFEST", None, _in_place("MANIFEST-000001", partial(_sparse, size=512 << 20))
    )
    yield _captures(
        "10 GiB of nothing in OPTIONS", UnsupportedError, _in_place("OPTIONS-000007", partial(_sparse, size=10 << 30))
    )
    yield _captures(
        "a record of 8 MB in pieces of a byte, without an end",
        None,
        _with_file("MANIFEST-000001", partial(_tiny_pieces, 8_000_000)),
    )
    for text in (b"/a\0b", b"/proc/self/fd", b"../../.."):
        data = OPTIONS.replace(b"wal_dir=", b"wal_dir=" + text)
        yield _captures(f"a wal_dir of {text!r}", None, _with_file("OPTIONS-000007", just(data)))
    data = OPTIONS.replace(b"wal_dir=", b"wal_dir=/" + b"x" * 5000)
    yield _captures("a wal_dir of 5,000 letters", EoctlError, _with_file("OPTIONS-000007", just(data)))


def _link(path: Path, to: Path) -> None:
    path.symlink_to(to)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


CASES = [*_trees(), *_databases(), *_databases_of_rocksdb()]
