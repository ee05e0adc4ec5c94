"""gc on stores too large to make: the real collection over a back end that makes up its listing as it goes.

    python -m scripts.benchmarks.gc_scale                     # 10 million blobs, half of them garbage
    python -m scripts.benchmarks.gc_scale --grid              # requests and seconds by blobs and snapshots

Half of the blobs are named by the manifests, which are real ones; the other half is garbage. A delete of anything
else fails. Each run is a process of its own, so that its peak of memory is its own; manifests lie on disk.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from eoctl.services.gc import Options, collect
from formats.head import Head, HeadEntry, Writer, encode_head
from formats.ids import BlobKey, Digest, Era, HashAlgorithm, PipelineId, operator_id
from formats.manifest import Engine, Manifest, Metrics, OperatorState, StateFile, SubtaskState, Whole
from storage import layout
from storage.backend import Body, Folder, Found, Key, KeyAbsentError, Place, Reach, Unfinished, Version, version_of
from storage.head import Ambient
from storage.store import Store, StoreRecord, encode_manifest

PIPELINE = PipelineId("scale")
STORE = "c" * 32
NOW = "2026-01-02T00:00:00.000Z"
PAGE = 1000
_ODD = 0xD1342543DE82EF95D1342543DE82EF95D1342543DE82EF95 | 1
GRID = [(blobs, snapshots) for blobs in (1_000, 10_000, 100_000) for snapshots in (1, 10, 100)]


def digest_of(number: int, blobs: int) -> str:
    """Of blob `number`: in its order, and like noise behind the first digits."""
    return f"{number * ((1 << 64) // blobs):016x}{number * _ODD % (1 << 192):048x}"


def number_of(digest: str, blobs: int) -> int:
    return int(digest[:16], 16) // ((1 << 64) // blobs)


def make(folder: Path, blobs: int, snapshots: int, *, shared: bool) -> None:
    """HEAD and manifests. `shared`: each snapshot names every live blob; else each names its part of them."""
    entries = []
    for snapshot in range(1, snapshots + 1):
        start, step = (0, 2) if shared else (2 * (snapshot - 1), 2 * snapshots)
        files = tuple(
            StateFile(
                name=f"{number:09}.sst",
                bytes=4096,
                digest=digest_of(number, blobs),
                place=Whole(era=1),
                first_stored_in=1,
                stamp="fe00.98892b.1879ad0ced39bd15",
            )
            for number in range(start, blobs, step)
        )
        manifest = _manifest(snapshot, files)
        stored = encode_manifest(manifest)
        key = BlobKey(HashAlgorithm.BLAKE3.digest(stored), Era(1))
        (folder / str(key)).write_bytes(stored)
        entries.append(_entry(manifest, key, len(stored), len(files)))
    head = Head(
        format="eoctl.head",
        version=1,
        store=STORE,
        pipeline=PIPELINE.name,
        state="active",
        seq=1000,
        nonce="a" * 32,
        era=2,
        floor=1,
        advanced_at="2026-01-01T00:00:00.000Z",
        last_id=snapshots,
        writer=Writer(attempt=1, owner="b" * 32, last_tx="b" * 32),
        live=tuple(entries),
        trash=(),
        holds=(),
    )
    (folder / "HEAD").write_bytes(encode_head(head))


def _manifest(snapshot: int, files: tuple[StateFile, ...]) -> Manifest:
    operator = OperatorState(
        id=operator_id("main"),
        uid="main",
        parallelism=1,
        engine=Engine(kind="directory"),
        subtasks=(SubtaskState(index=0, files=files),),
    )
    return Manifest(
        format="eoctl.manifest",
        version=1,
        store=STORE,
        pipeline=PIPELINE.name,
        kind="checkpoint",
        id=snapshot,
        txid=f"{snapshot:032x}",
        created_at=NOW,
        attempt=1,
        hash=HashAlgorithm.BLAKE3,
        engine=Engine(kind="directory"),
        operators=(operator,),
        packs=(),
        metrics=Metrics(full_bytes=4096 * len(files), added_bytes=0),
    )


def _entry(manifest: Manifest, key: BlobKey, size: int, files: int) -> HeadEntry:
    return HeadEntry(
        kind="checkpoint",
        id=manifest.id,
        seq=manifest.id,
        txid=manifest.txid,
        created_at=NOW,
        attempt=1,
        engine="directory",
        manifest=str(key),
        manifest_bytes=size,
        full_bytes=4096 * files,
        added_bytes=0,
        files=files,
        added_files=0,
        referenced_files=files,
    )


class MadeUp:
    """The six verbs. Counts requests as an object store would: a page of a listing, a batch of deletes is one."""

    def __init__(self, folder: Path, blobs: int) -> None:
        self._folder = folder
        self._blobs = blobs
        self._head = (folder / "HEAD").read_bytes()
        self._manifests = sorted(path.name for path in folder.iterdir() if path.name != "HEAD")
        self._swept = False
        self.requests: Counter[str] = Counter()

    def stat(self, key: Key) -> Found | None:
        self.requests["stat"] += 1
        return Found(key, 0, 0.0) if key == layout.head(PIPELINE) else None

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:  # noqa: ARG002  (whole values only)
        self.requests["open"] += 1
        if key == layout.head(PIPELINE):
            return io.BytesIO(self._head)
        name = key.path.rpartition("/")[2]
        if name not in self._manifests:
            message = f"there is no {key}"
            raise KeyAbsentError(message)
        return (self._folder / name).open("rb", buffering=0)

    def create(self, key: Key, body: Body) -> bool:  # noqa: ARG002  (only a copy of HEAD is made)
        self.requests["create"] += 1
        return True

    def swap(self, key: Key, body: bytes, expected: Version) -> None:  # noqa: ARG002  (only HEAD is swapped)
        self.requests["swap"] += 1
        assert version_of(self._head) == expected
        self._head = body

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        number = 0
        if reach is Reach.ALL:
            for number, found in enumerate(self._found(prefix), 1):  # noqa: B007  (how many there were)
                yield found
        self.requests["list"] += max(1, -(-number // PAGE))

    def _found(self, prefix: Key) -> Iterator[Found]:
        if prefix == layout.blobs(PIPELINE):
            for number in range(0, self._blobs, 2 if self._swept else 1):
                key = BlobKey(Digest(digest_of(number, self._blobs)), Era(1))
                yield Found(layout.blob(PIPELINE, key), 4096, 0.0)
        elif prefix == layout.manifests(PIPELINE):
            yield from (Found(layout.manifest(PIPELINE, BlobKey.parse(name)), 1, 0.0) for name in self._manifests)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        if not wanted:
            return
        self.requests["delete"] += -(-len(wanted) // PAGE)
        for key in wanted:
            assert isinstance(key, Key)
            parsed = layout.parse_blob(PIPELINE, key)
            assert parsed is not None
            assert number_of(parsed.digest, self._blobs) % 2 == 1, f"{key} is live"
        self._swept = True


def run(folder: Path, blobs: int, cache: Path | None) -> dict[str, float]:
    """One collection in this process."""
    backend = MadeUp(folder, blobs)
    place = Place(url="made-up:", backend=backend, scratch=folder, make_folders=lambda _: None, remote=True)
    record = StoreRecord(
        format="eoctl.store", version=1, id=STORE, hash=HashAlgorithm.BLAKE3, created_at=NOW, features=()
    )
    ids = iter(f"{number:032x}" for number in range(10**6))
    ambient = Ambient(now=lambda: NOW, elapsed=time.monotonic, new_id=lambda: next(ids), wait=time.sleep, host="d" * 32)
    store = Store(place=place, record=record, ambient=ambient)
    began, used = time.monotonic(), time.process_time()
    done = collect(store, [PIPELINE], Options(expect=blobs, cache=cache)).pipelines[0]
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    assert not done.error, done.message
    assert done.deleted_blobs == blobs // 2, done
    assert not done.dangling
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "deleted": done.deleted_blobs,
        "live": done.live_blobs,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": round(peak, 1),
        "requests": backend.requests.total(),
        **{f"requests_{verb}": count for verb, count in sorted(backend.requests.items())},
    }


def _child(*words: str) -> str:
    command = [sys.executable, "-m", "scripts.benchmarks.gc_scale", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(work: Path, blobs: int, snapshots: int, *, shared: bool) -> list[dict[str, float]]:
    """A cold run, and a warm one that has seen the manifests before; each on the same store."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder, cache = Path(name, "store"), Path(name, "cache")
        folder.mkdir()
        size = ("--blobs", str(blobs), "--snapshots", str(snapshots), *(["--shared"] if shared else []))
        _child("--make", str(folder), *size)
        return [json.loads(_child("--run", str(folder), "--cache", str(cache), *size)) for _ in range(2)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blobs", type=int, default=10_000_000)
    parser.add_argument("--snapshots", type=int, default=10)
    parser.add_argument("--shared", action="store_true", help="each snapshot names every live blob")
    parser.add_argument("--grid", action="store_true", help="a table by blobs and snapshots, all shared")
    parser.add_argument("--limit-mib", type=float, default=1024.0, help="more than that is a failure")
    parser.add_argument("--work", type=Path, default=None, help="where the manifests lie")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--make", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.blobs, args.snapshots, shared=args.shared)
        return 0
    if args.run:
        print(json.dumps(run(args.run, args.blobs, args.cache)))
        return 0
    rows = []
    print("| blobs | snapshots | run | seconds | cpu s | peak MiB | requests | list | open | delete | other |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for blobs, snapshots in GRID if args.grid else [(args.blobs, args.snapshots)]:
        for name, row in zip(
            ("cold", "warm"), measure(args.work, blobs, snapshots, shared=args.shared or args.grid), strict=True
        ):
            lists, opens, deletes = (int(row.get(f"requests_{verb}", 0)) for verb in ("list", "open", "delete"))
            print(
                f"| {blobs:,} | {snapshots} | {name} | {row['seconds']} | {row['cpu_seconds']} | {row['peak_mib']} "
                f"| {row['requests']:,} | {lists:,} | {opens} | {deletes:,} "
                f"| {int(row['requests']) - lists - opens - deletes} |",
                flush=True,
            )
            rows.append({"blobs": blobs, "snapshots": snapshots, "run": name, **row})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    worst = max(float(row["peak_mib"]) for row in rows)
    print(f"\npeak {worst} MiB, limit {args.limit_mib:g} MiB")
    return 0 if worst <= args.limit_mib else 3


if __name__ == "__main__":
    sys.exit(main())
