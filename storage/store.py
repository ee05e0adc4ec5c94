"""The store: one `store.json`, some pipelines, and the values read from them, each checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from formats.canonical import decode, encode
from formats.errors import (
    BadManifestError,
    BlobGoneError,
    ConflictError,
    CorruptError,
    EoctlError,
    InvalidInputError,
    SnapshotNotFoundError,
    StoreNotFoundError,
    TooLargeError,
    UnsupportedError,
    WrongStoreError,
)
from formats.head import LOST_HEAD, Head, HeadEntry, encode_head
from formats.ids import HEX32_PATTERN, BlobKey, HashAlgorithm, PipelineId
from formats.manifest import MAX_FILES, MAX_MANIFEST_BYTES, Manifest, check_manifest
from formats.manifest_keys import ManifestKeys
from storage import layout
from storage.backend import Backend, Folder, KeyAbsentError, Place, Reach
from storage.edits import first_head
from storage.head import Ambient, CommittedHead, read_head

MAX_STORE_BYTES = 1 << 16
_Manifest = TypeVar("_Manifest", Manifest, ManifestKeys)


class StoreRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """`store.json`. A feature that this eoctl does not know makes it refuse the store."""

    FORMAT: ClassVar[str] = "eoctl.store"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.store"]
    version: Literal[1]
    id: Annotated[str, Meta(pattern=HEX32_PATTERN)]
    hash: HashAlgorithm
    created_at: str
    features: tuple[str, ...]


class Store(Struct, frozen=True, kw_only=True):
    """An open store."""

    place: Place
    record: StoreRecord
    ambient: Ambient

    @property
    def backend(self) -> Backend:
        return self.place.backend

    @property
    def hash(self) -> HashAlgorithm:
        return self.record.hash

    def pipelines(self) -> Iterator[PipelineId]:
        """Every pipeline that has a HEAD, by name."""
        for folder in self.backend.list(layout.PIPELINES, reach=Reach.FOLDERS):
            if isinstance(folder, Folder):
                try:
                    pipeline = PipelineId(folder.key.path.rpartition("/")[2])
                except EoctlError:
                    continue  # not ours: every pipeline of ours was named by PipelineId
                if self.backend.stat(layout.head(pipeline)) is not None:
                    yield pipeline

    def head(self, pipeline: PipelineId) -> CommittedHead:
        """Raises: SnapshotNotFoundError, CorruptError (also where HEAD was lost), WrongStoreError."""
        try:
            return read_head(self.backend, self.record.id, pipeline)
        except SnapshotNotFoundError:
            return self._head_made_meanwhile(pipeline)

    def make_pipeline(self, pipeline: PipelineId) -> CommittedHead:
        """The pipeline's HEAD, made now if there was none. Raises: CorruptError where it was lost."""
        try:
            return self.head(pipeline)
        except SnapshotNotFoundError:
            pass
        self.place.make_folders(layout.folders(pipeline))
        first = first_head(self.record.id, pipeline, self.ambient.now(), self.ambient.new_id())
        self.backend.create(layout.head(pipeline), encode_head(first))
        return self.head(pipeline)

    def _head_made_meanwhile(self, pipeline: PipelineId) -> CommittedHead:
        """There is no HEAD; where blobs or manifests lie it was made since, or lost, and then it is not made up.

        Raises: SnapshotNotFoundError, CorruptError.
        """
        prefixes = (layout.blobs(pipeline), layout.manifests(pipeline), layout.backups(pipeline))
        remains = [prefix for prefix in prefixes if next(iter(self.backend.list(prefix)), None) is not None]
        try:
            return read_head(self.backend, self.record.id, pipeline)
        except SnapshotNotFoundError:
            if not remains:
                raise
        message = f"HEAD of {pipeline} is missing, but {remains[0]} is not empty"
        raise CorruptError(message, hint=LOST_HEAD)

    def manifest(self, head: Head, entry: HeadEntry, *, thorough: bool = True) -> Manifest:
        """The manifest of a root of `head`, checked against its digest and against whose it says it is.

        Not `thorough`: the rules that types cannot say are left to whoever reads the files. For a writer's own
        base, of which it names whole records again.

        Raises: BlobGoneError, CorruptError, WrongStoreError.
        """
        stored = self.manifest_bytes(head, entry)
        return decode_root(head, entry, stored, partial(decode_manifest, thorough=thorough))

    def manifest_keys(self, head: Head, entry: HeadEntry) -> ManifestKeys:
        """Which blobs the manifest names, and no more of it: for those who read the manifests of all roots.

        Raises: as `manifest`.
        """
        return decode_root(head, entry, self.manifest_bytes(head, entry), decode_manifest_keys)

    def manifest_bytes(self, head: Head, entry: HeadEntry) -> bytes:
        """The stored bytes of a root's manifest, checked against its digest. Raises: BlobGoneError, CorruptError."""
        key = BlobKey.parse(entry.manifest)
        name = layout.manifest(PipelineId(head.pipeline), key)
        try:
            with self.place.backend.open(name) as file:
                stored = file.read(min(entry.manifest_bytes, MAX_MANIFEST_BYTES) + 1)
        except KeyAbsentError as error:
            message = f"manifest of {head.pipeline}@{entry.label} is gone: {name}"
            raise BlobGoneError(message, hint=f"eoctl checkpoint verify -p {head.pipeline}") from error
        if self.hash.digest(stored) != key.digest:
            message = f"manifest of {head.pipeline}@{entry.label} does not match its digest: {name}"
            raise CorruptError(message, hint=f"eoctl checkpoint verify -p {head.pipeline}")
        return stored


def decode_root(head: Head, entry: HeadEntry, stored: bytes, decode: Callable[[bytes, str], _Manifest]) -> _Manifest:
    """What `decode` makes of the stored bytes of a root's manifest, which says that it is that root's.

    Raises: CorruptError, WrongStoreError.
    """
    what = f"manifest of {head.pipeline}@{entry.label}"
    try:
        manifest = decode(stored, what)
    except InvalidInputError as error:
        raise CorruptError(error.message) from error
    whose = (manifest.store, manifest.pipeline, manifest.txid, manifest.id, manifest.name)
    if whose != (head.store, head.pipeline, entry.txid, entry.id, entry.name):
        message = f"{what} belongs to {manifest.pipeline}@{manifest.name or manifest.id} of store {manifest.store}"
        raise WrongStoreError(message)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The stored bytes: canonical JSON in one zstd frame that declares its size.

    What came from outside is checked as a reader will check it; files and places are right by how they were
    made (storage/ingest.py), and a million of them are not decoded again.
    Raises: TooLargeError, BadManifestError.
    """
    import zstandard  # noqa: PLC0415  (start-up)

    data = encode(manifest)
    what = f"manifest of {manifest.pipeline}@{manifest.name or manifest.id}"
    files = sum(len(subtask.files) for operator in manifest.operators for subtask in operator.subtasks)
    if len(data) > MAX_MANIFEST_BYTES or files > MAX_FILES:
        message = f"{what} is too large: {files} files, {len(data)} bytes (limits {MAX_FILES}, {MAX_MANIFEST_BYTES})"
        raise TooLargeError(message, hint="pack small files at the source, or split the pipeline")
    decode(encode(_without_files(manifest)), Manifest, what=what, max_bytes=MAX_MANIFEST_BYTES)
    return zstandard.ZstdCompressor(level=1, write_content_size=True).compress(data)


def _without_files(manifest: Manifest) -> Manifest:
    operators = tuple(
        replace(operator, subtasks=tuple(replace(subtask, files=()) for subtask in operator.subtasks))
        for operator in manifest.operators
    )
    return replace(manifest, operators=operators, packs=())


def decode_manifest(stored: bytes, what: str, *, thorough: bool = True) -> Manifest:
    """Raises: BadManifestError, TooLargeError before anything is unpacked."""
    data = unpack_manifest(stored, what)
    manifest = decode(data, Manifest, what=what, max_bytes=MAX_MANIFEST_BYTES, canonical=thorough)
    if thorough:
        check_manifest(manifest)
    return manifest


def decode_manifest_keys(stored: bytes, what: str) -> ManifestKeys:
    """Raises: as `decode_manifest`."""
    data = unpack_manifest(stored, what)
    return decode(data, ManifestKeys, what=what, max_bytes=MAX_MANIFEST_BYTES, canonical=False)


def unpack_manifest(stored: bytes, what: str) -> bytes:
    """Its JSON. Raises: BadManifestError, before anything is unpacked where that would be too large."""
    import zstandard  # noqa: PLC0415  (start-up)

    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= MAX_MANIFEST_BYTES:
            message = f"{what} declares {size} bytes (limit {MAX_MANIFEST_BYTES})"
            raise BadManifestError(message)
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        message = f"{what} cannot be unpacked: {error}"
        raise BadManifestError(message) from error


def init_store(place: Place, algorithm: HashAlgorithm, ambient: Ambient, *, allow_network_fs: bool = False) -> Store:
    """A new, empty store. Raises: ConflictError if there is one; UnsafeBackendError."""
    place.check(allow_network_fs)
    record = StoreRecord(
        format="eoctl.store",
        version=1,
        id=ambient.new_id(),
        hash=algorithm,
        created_at=ambient.now(),
        features=(),
    )
    if not place.backend.create(layout.STORE, encode(record)):
        message = f"there is a store already: {place.url}"
        raise ConflictError(message, hint=f"eoctl store info --store {place.url}")
    return Store(place=place, record=record, ambient=ambient)


def open_store(place: Place, ambient: Ambient) -> Store:
    """Raises: StoreNotFoundError, CorruptError, UnsupportedError."""
    try:
        with place.backend.open(layout.STORE) as file:
            data = file.read(MAX_STORE_BYTES + 1)
    except KeyAbsentError as error:
        message = f"there is no store: {place.url}"
        raise StoreNotFoundError(message, hint=f"eoctl store init {place.url}", url=place.url) from error
    try:
        record = decode(data, StoreRecord, what="store.json", max_bytes=MAX_STORE_BYTES)
    except InvalidInputError as error:
        message = f"store.json is damaged: {error.message}"
        hint = f"put store.json of {place.url} back from a copy; nothing was changed"
        raise CorruptError(message, hint=hint) from error
    if record.features:
        message = f"the store needs {', '.join(record.features)}, which this eoctl does not know: {place.url}"
        raise UnsupportedError(message, hint="upgrade eoctl")
    return Store(place=place, record=record, ambient=ambient)
