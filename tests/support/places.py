"""Places and stores for tests: in memory or on disk, plain or behind another backend; trees; what is in a store."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from eoctl.engines.directory import DirectorySource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.values import Created
from formats.head import Head, HeadEntry, roots
from formats.ids import BlobKey, HashAlgorithm, PipelineId, operator_id
from formats.manifest import (
    Engine,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    StateFile,
    SubtaskState,
    Whole,
    blobs,
    files_of,
    packs_of,
)
from storage import layout
from storage.backend import Backend, Place
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.blobs import Blobs, digest_of
from storage.head import Ambient
from storage.session import Session, open_writer
from storage.store import Store, init_store, open_store
from tests.support.fakes import FakeAmbient

PIPELINE = PipelineId("orders")
OLD_NS = 1_600_000_000_123_456_789  # a time of which every clock tick is over
_written = itertools.count()


def memory_place(scratch: Path) -> Place:
    scratch.mkdir(parents=True, exist_ok=True)
    backend = MemoryBackend(clock=lambda: 0.0)
    return Place(url="memory:", backend=backend, scratch=scratch, make_folders=lambda _: None)


def local_place(root: Path, token: str = "test") -> Place:
    backend = LocalBackend(root, token)
    return Place(url=str(root), backend=backend, scratch=backend.scratch, make_folders=backend.make_folders)


def behind(store: Store, backend: Backend, ambient: Ambient | None = None) -> Store:
    """The same store, seen through another backend and perhaps by another process."""
    old = store.place
    place = Place(url=old.url, backend=backend, scratch=old.scratch, make_folders=old.make_folders)
    return Store(place=place, record=store.record, ambient=ambient or store.ambient)


def memory_store(tmp_path: Path) -> Store:
    return init_store(memory_place(tmp_path / "scratch"), HashAlgorithm.BLAKE3, FakeAmbient().ambient())


def local_store(tmp_path: Path) -> Store:
    return init_store(local_place(tmp_path / "store"), HashAlgorithm.BLAKE3, FakeAmbient().ambient())


def reopened(store: Store, process: int) -> Store:
    """The store as another process opens it."""
    return open_store(store.place, FakeAmbient(process).ambient())


def write_tree(root: Path, files: Mapping[str, bytes], *, old: bool = True) -> Path:
    """`root` holds just these files; of a settled age unless `old` is false."""
    root.mkdir(parents=True, exist_ok=True)
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(root).as_posix() not in files:
            path.unlink()
    for name, data in files.items():
        path = root / name
        if path.is_file() and path.read_bytes() == data:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        if old:
            moment = OLD_NS + next(_written) * 1_000_003  # never the same twice: inode numbers are used again
            os.utime(path, ns=(moment, moment))
    return root


def opened(store: Store, pipeline: PipelineId = PIPELINE) -> Opened:
    """A new attempt of the pipeline."""
    return Opened(store, pipeline, *open_writer(store, pipeline))


def checkpoint_tree(writer: Opened, root: Path, **request: object) -> Created:
    return create_checkpoint(writer, Request(parts=(Part(source=DirectorySource(root)),), **request))  # type: ignore[arg-type]  # a test's own words


def entry_of(store: Store, label: str | int, pipeline: PipelineId = PIPELINE) -> HeadEntry:
    return next(root for root in roots(store.head(pipeline).head) if root.label == str(label))


def contents(store: Store, entry: HeadEntry, head: Head | None = None) -> dict[str, bytes]:
    """What a restore of the root would write."""
    head = head or store.head(PIPELINE).head
    reader = Blobs(store.backend, PipelineId(head.pipeline), store.hash)
    manifest = store.manifest(head, entry)
    return {file.name: b"".join(reader.content(file)) for _, _, file in files_of(manifest)}


def check_roots(store: Store, pipeline: PipelineId = PIPELINE) -> Head:
    """I1: whatever a root names is there, is what it says, and is an own blob of this pipeline. Returns HEAD."""
    head = store.head(pipeline).head
    reader = Blobs(store.backend, pipeline, store.hash)
    checked: set[str] = set()
    for root in roots(head):
        if root.manifest in checked:
            continue
        checked.add(root.manifest)
        manifest = store.manifest(head, root)
        for key, size in blobs(manifest).items():
            name = layout.blob(pipeline, key)
            with store.backend.open(name) as file:
                assert digest_of(file, store.hash) == key.digest, f"{name} is not what its name says"
            found = store.backend.stat(name)
            assert found is not None
            assert found.bytes == size, f"{name} has another size than {root.label} says"
        for _, _, state_file in files_of(manifest):
            assert sum(map(len, reader.content(state_file))) == state_file.bytes
    return head


def manifest_of(session: Session, files: Mapping[str, StateFile], number: int | None = None) -> Manifest:
    """A manifest of one subtask with these files, for the session's next checkpoint."""
    packs = {pack for file in files.values() for pack in packs_of(file)}
    subtask = SubtaskState(index=0, files=tuple(files[name] for name in sorted(files)))
    operator = OperatorState(
        id=operator_id("main"), uid="main", parallelism=1, engine=Engine(kind="directory"), subtasks=(subtask,)
    )
    return Manifest(
        format="eoctl.manifest",
        version=1,
        store=session.store.record.id,
        pipeline=session.pipeline.name,
        kind="checkpoint",
        id=number or session.head.head.last_id + 1,
        txid=session.txid,
        created_at=session.store.ambient.now(),
        attempt=session.attempt or 0,
        hash=session.store.hash,
        engine=Engine(kind="directory"),
        operators=(operator,),
        packs=tuple(PackRef(key, session.pack_bytes[key]) for key in sorted(packs)),
        metrics=Metrics(full_bytes=sum(file.bytes for file in files.values()), added_bytes=0),
        base=0 if session.base is None else session.base.id,
    )


@dataclasses.dataclass
class Plan:
    """Stores each content whole unless it is known; `then` runs between plan and commit.

    `uploads`: for each time the plan was asked, the names it had to upload.
    """

    contents: Mapping[str, bytes]
    then: Callable[[Session], object] = lambda _: None
    uploads: list[list[str]] = dataclasses.field(default_factory=list)

    def __call__(self, session: Session) -> Manifest:
        self.uploads.append([])
        files = {name: self._file(session, name, data) for name, data in self.contents.items()}
        manifest = manifest_of(session, files)
        self.then(session)
        return manifest

    def _file(self, session: Session, name: str, data: bytes) -> StateFile:
        digest = session.store.hash.digest(data)
        known = session.find(digest)
        if known is not None:
            return msgspec.structs.replace(known, name=name)
        self.uploads[-1].append(name)
        key = session.upload(digest, len(data), data)
        number = session.head.head.last_id + 1
        file = StateFile(name=name, bytes=len(data), digest=digest, place=Whole(key.era), first_stored_in=number)
        session.remember(file)
        return file


def stored_keys(store: Store, pipeline: PipelineId = PIPELINE) -> dict[str, list[BlobKey]]:
    """Every blob and manifest in the store, by kind."""
    return {"o": [*_parsed(store, pipeline, "o")], "m": [*_parsed(store, pipeline, "m")]}


def _parsed(store: Store, pipeline: PipelineId, kind: str) -> Iterator[BlobKey]:
    prefix = layout.blobs(pipeline) if kind == "o" else layout.manifests(pipeline)
    for found in store.backend.list(prefix):
        yield BlobKey.parse(found.key.path.rpartition("/")[2])
