"""Forking a pipeline: one snapshot of it, or all, in a new pipeline of the same store or of another one.

Each snapshot is read under a hold on the source and committed by a writer of the target, under the target's own
commit rule; so a fork that dies leaves the snapshots that it has committed, and garbage. The same command again goes
on after them: a copy says in its manifest what it is a copy of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from eoctl.services.checkpoint import Opened
from eoctl.services.resolve import Resolved, row_of
from eoctl.services.restore import held
from eoctl.services.values import SnapshotRow
from eoctl.services.writers import writing
from formats.errors import ConflictError, SnapshotNotFoundError, UnsupportedError, UsageError
from formats.head import Head, HeadEntry, roots
from formats.ids import Attempt, PipelineId, TxId
from formats.manifest import Manifest
from storage.backend import Body, CopyOf, Key
from storage.blobs import Blobs
from storage.copying import Copied, Copying, Original
from storage.session import Session
from storage.store import Store

COPY_OF = "eoctl.copy-of"  # property of a copy's manifest: STORE/PIPELINE@LABEL#TXID of its original

Progress = Callable[[Copied, int], None]  # so far, and how many stored bytes there are in all


class CopiedSnapshot(Struct, frozen=True, kw_only=True):
    """A snapshot that is a copy of another. Bytes are stored ones. `existed`: an earlier try had committed it."""

    source: str
    snapshot: SnapshotRow
    copied_blobs: int
    copied_bytes: int
    existed: bool = False
    notes: tuple[str, ...] = ()


class Forked(Struct, frozen=True, kw_only=True):
    """What a fork copied. `store`: the target's URL; `from_store`: the source's."""

    source: str
    from_store: str
    pipeline: str
    store: str
    copies: tuple[CopiedSnapshot, ...]
    copied_blobs: int
    copied_bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


def fork(
    source: Store, snapshots: Iterable[Resolved], target: Store, name: PipelineId, progress: Progress = lambda *_: None
) -> Forked:
    """The pipeline `name` of `target` holds copies of these snapshots of one pipeline, byte for byte, and no others.

    Ids, names, tags and times are the originals'. Safe to repeat.
    Raises: UsageError; ConflictError where the pipeline holds something else; UnsupportedError where the stores do not
    use one hash; CorruptError, BlobGoneError of the source; what the target raises.
    """
    began = target.ambient.elapsed()
    chosen = sorted(snapshots, key=lambda resolved: resolved.entry.seq)
    if not chosen:
        raise UsageError("no snapshot to fork")
    _check_hashes(source, target)
    pipeline = chosen[0].pipeline
    if name == pipeline and _same_place(source, target):
        raise UsageError(
            f"{name} is the pipeline itself", hint="give the fork another name, or another store: --to URL"
        )
    _check_new(source, pipeline, target, name)
    with writing(target, name, note="pipeline fork") as opened:
        copies = tuple(_copy_into(source, resolved, opened, progress) for resolved in chosen)
    return Forked(
        source=pipeline.name,
        from_store=source.place.url,
        pipeline=name.name,
        store=target.place.url,
        copies=copies,
        copied_blobs=sum(copy.copied_blobs for copy in copies),
        copied_bytes=sum(copy.copied_bytes for copy in copies),
        seconds=target.ambient.elapsed() - began,
        notes=tuple(dict.fromkeys(note for copy in copies for note in copy.notes)),
    )


def copy_snapshot(
    source: Store,
    snapshot: Resolved,
    target: Store,
    pipeline: PipelineId,
    *,
    name: str | None = None,
    tags: tuple[str, ...] | None = None,
    writer: tuple[Attempt, TxId] | None = None,
    progress: Progress = lambda *_: None,
) -> CopiedSnapshot:
    """The target's pipeline, made where there was none, has a copy of the snapshot, every blob of it checked.

    `name`: of a savepoint, another than its own. `writer`: the attempt that commits it; None: it is nobody's, as a
    savepoint is. Safe to repeat. Raises: ConflictError where something else has its name; as `fork`.
    """
    _check_hashes(source, target)
    target.make_pipeline(pipeline)
    entry = snapshot.entry
    label = (entry.name if name is None else name) or str(entry.id)
    original = f"{source.record.id}/{snapshot.address}#{entry.txid}"
    existing = _copy_of(target, target.head(pipeline).head, label, original)
    if existing is not None:
        row = row_of(target.head(pipeline).head, existing)
        return CopiedSnapshot(source=snapshot.address, snapshot=row, copied_blobs=0, copied_bytes=0, existed=True)
    notes: list[str] = []
    with held(source, snapshot, notes, reason="copy") as found:
        manifest = source.manifest(found.head, found.entry)
        seen = [Copied()]

        def told(done: Copied, total: int) -> None:
            seen[0] = done
            progress(done, total)

        copying = Copying(
            original=Original(
                blobs=Blobs(source.backend, snapshot.pipeline, source.hash),
                manifest=manifest,
                remote=source.place.remote,
                on_server=_on_server(source, target),
            ),
            properties={COPY_OF: original},
            tags=entry.tags if tags is None else tags,
            name=entry.name if name is None else name,
            progress=told,
        )
        attempt, owner = writer or (None, None)
        session = Session(target, pipeline, attempt, owner)
        committed = session.commit(copying.plan)
    return CopiedSnapshot(
        source=snapshot.address,
        snapshot=row_of(session.head.head, committed),
        copied_blobs=seen[0].copied_blobs,
        copied_bytes=seen[0].copied_bytes,
        notes=(*notes, *_warnings(snapshot, manifest)),
    )


def _copy_into(source: Store, snapshot: Resolved, opened: Opened, progress: Progress) -> CopiedSnapshot:
    opened.keep()
    writer = opened.attempt, opened.owner
    return copy_snapshot(source, snapshot, opened.store, opened.pipeline, writer=writer, progress=progress)


def _check_hashes(source: Store, target: Store) -> None:
    if source.hash is not target.hash:
        message = f"the stores name blobs by different hashes: {source.hash} and {target.hash}"
        raise UnsupportedError(message, hint="restore the snapshot, then take a checkpoint of it in the other store")


def _check_new(source: Store, pipeline: PipelineId, target: Store, name: PipelineId) -> None:
    """Nobody has written to the pipeline but a fork of this one. Raises: ConflictError."""
    try:
        head = target.head(name).head
    except SnapshotNotFoundError:
        return
    if head.state == "destroyed":
        raise ConflictError(f"pipeline {name} was destroyed", hint="a destroyed name is not used again; choose another")
    newest = head.live[-1] if head.live else None
    if newest is not None and not _said(target, head, newest).startswith(f"{source.record.id}/{pipeline}@"):
        message = f"the pipeline {name} exists, and {name}@{newest.label} is no copy of {pipeline}"
        raise ConflictError(message, hint="choose a new name")


def _copy_of(target: Store, head: Head, label: str, original: str) -> HeadEntry | None:
    """The entry of that label, if it is a copy of `original`; None where there is none.

    Raises: ConflictError where it is something else.
    """
    entry = next((entry for entry in roots(head) if entry.label == label), None)
    if entry is None:
        return None
    if _said(target, head, entry) != original:
        raise ConflictError(
            f"{head.pipeline}@{label} exists, and is no copy of what is to be copied", hint="choose another name"
        )
    return entry


def _said(target: Store, head: Head, entry: HeadEntry) -> str:
    """What the snapshot says that it is a copy of."""
    return target.manifest(head, entry, thorough=False).properties.get(COPY_OF, "")


def _same_place(source: Store, target: Store) -> bool:
    return source.record.id == target.record.id and source.place.url == target.place.url


def _on_server(source: Store, target: Store) -> Callable[[Key], Body | None]:
    """How the target's place takes a value of the source's without our reading it; it gives None where it cannot."""
    if _same_place(source, target):
        return CopyOf
    if source.place.server and source.place.server == target.place.server:
        return lambda key: CopyOf(key, root=source.place.root)
    return lambda _: None


def _warnings(snapshot: Resolved, manifest: Manifest) -> tuple[str, ...]:
    pending = sum(one.state == "pre-committed" for sink in manifest.sinks for one in sink.transactions)
    if not pending:
        return ()
    text = f"{snapshot.address} names {pending} pre-committed transactions"
    return (f"{text}: only one of the original and the copy may go on with them",)
