"""Restoring a snapshot: hold it, write every file beside the target, check every byte, then rename into place.

A snapshot that is damaged is an error. With `fallback` the newest older checkpoint that is whole is restored in its
place, and the answer says which snapshots were passed over, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from eoctl.ambient import format_time
from eoctl.services.resolve import Resolved
from eoctl.services.values import FellBack, Restored, RestoredOperator, Transactions
from formats.errors import (
    AccessDeniedError,
    CorruptError,
    EoctlError,
    InvalidInputError,
    UnavailableError,
    UsageError,
)
from formats.ids import TxId
from formats.manifest import Manifest, OperatorState, StateFile, blobs
from formats.names import check_file_name
from storage import layout
from storage.audit import find_faults
from storage.blobs import Blobs
from storage.edits import Edit, hold, release
from storage.extract import Extracted, Extraction, fresh_directory, sync_tree
from storage.head import CommittedHead, swap_head
from storage.store import Store

HOLD_HOURS = 24
MAX_STATS = 256  # looks at single blobs before one listing is cheaper

Progress = Callable[[Extracted, int], None]  # so far, and how many bytes there are in all


def restore(
    store: Store,
    resolved: Resolved,
    target: Path,
    *,
    operator: str | None = None,
    link: bool = False,
    fallback: bool = False,
    progress: Progress = lambda *_: None,
) -> Restored:
    """`target` holds the snapshot's files, byte for byte, or does not exist.

    One subtask's files lie in `target` itself; those of several in `target/OPERATOR/SUBTASK`. With `fallback` it may
    be an older checkpoint (`Restored.fell_back_from`).
    Raises: UsageError, CorruptError, BlobGoneError, NoSpaceError, AccessDeniedError.
    """
    try:
        return _restore(store, resolved, target, operator, progress, link=link)
    except CorruptError as error:
        if not fallback:
            error.hint = _hint(store, resolved) or error.hint
            raise
        passed = [FellBack(snapshot=resolved.address, reason=error.message)]
        for older in _older(resolved):
            fault = _quick_fault(store, older)
            if not fault:
                try:
                    restored = _restore(store, older, target, operator, progress, link=link)
                except CorruptError as other:
                    fault = other.message
                else:
                    return msgspec.structs.replace(restored, fell_back_from=tuple(passed))
            passed.append(FellBack(snapshot=older.address, reason=fault))
        message = f"{error.message}; and no older checkpoint of {resolved.pipeline} is whole ({len(passed) - 1} tried)"
        hint = f"eoctl store repair -p {resolved.pipeline} --from DIR"
        raise CorruptError(message, hint=hint, tried=[one.snapshot for one in passed]) from error


def _older(resolved: Resolved) -> Iterator[Resolved]:
    """The live checkpoints that were committed before this snapshot, newest first."""
    for entry in reversed(resolved.head.live):
        if entry.kind == "checkpoint" and entry.seq < resolved.entry.seq:
            yield Resolved(resolved.pipeline, resolved.committed, entry)


def _quick_fault(store: Store, resolved: Resolved) -> str:
    """What a look without reading shows to be wrong, or "": the manifest, and that each blob is there with its size."""
    try:
        sizes = blobs(store.manifest(resolved.head, resolved.entry))
    except CorruptError as error:
        return error.message
    reader = Blobs(store.backend, resolved.pipeline, store.hash)
    faults = find_faults(reader, sizes, by_listing=len(sizes) > MAX_STATS)
    return next((f"{layout.blob(resolved.pipeline, key)}: {fault}" for key, fault in sorted(faults.items())), "")


def _hint(store: Store, resolved: Resolved) -> str:
    """Which older checkpoint could be restored instead, as far as a quick look tells; "" where there is none."""
    try:
        whole = next((older for older in _older(resolved) if not _quick_fault(store, older)), None)
    except EoctlError:
        return ""
    return "" if whole is None else f"{whole.address} looks whole: restore it, or add --fallback"


def _restore(
    store: Store, resolved: Resolved, target: Path, operator: str | None, progress: Progress, *, link: bool
) -> Restored:
    began = store.ambient.elapsed()
    notes: list[str] = []
    with fresh_directory(target) as temporary, held(store, resolved, notes) as found:
        manifest = store.manifest(found.head, found.entry)
        trees = _trees(manifest, operator)
        total = sum(file.bytes for _, _, _, files, _ in trees for file in files)
        extraction = Extraction(
            blobs=Blobs(store.backend, resolved.pipeline, store.hash),
            link=link,
            remote=store.place.remote,
            progress=lambda done: progress(done, total),
        )
        restored = []
        for state, subtask, folder, files, empty in trees:
            root = temporary / folder
            root.mkdir(parents=True, exist_ok=True)
            extraction.tree(root, files, empty)
            restored.append(RestoredOperator(uid=state.uid or state.id, subtask=subtask, path=str(target / folder)))
        # I7: durable and right before it has its name.
        sync_tree(temporary, extraction.done.files)
    return Restored(
        snapshot=resolved.address,
        target=str(target),
        files=extraction.done.files,
        bytes=extraction.done.total_bytes,
        linked_files=extraction.done.linked_files,
        seconds=store.ambient.elapsed() - began,
        operators=tuple(restored),
        source_offsets={source.uid: dict(source.offsets) for source in manifest.sources},
        transactions=_transactions(manifest),
        notes=tuple(notes),
    )


_Tree = tuple[OperatorState, int, str, tuple[StateFile, ...], tuple[str, ...]]


def _trees(manifest: Manifest, operator: str | None) -> list[_Tree]:
    """Operator, subtask, folder below the target, files, empty directories."""
    chosen = [state for state in manifest.operators if operator in {None, state.uid, state.id}]
    if operator is not None and not chosen:
        known = ", ".join(state.uid or state.id for state in manifest.operators)
        raise UsageError(f"the snapshot has no operator {operator!r}", hint=f"it has: {known}")
    alone = len(chosen) == 1 and len(chosen[0].subtasks) == 1 and not chosen[0].coordinator
    folders = _folders(chosen)
    trees: list[_Tree] = []
    for state in chosen:
        folder = folders[state.id]
        for subtask in state.subtasks:
            path = "" if alone else f"{folder}/{subtask.index}"
            trees.append((state, subtask.index, path, subtask.files, subtask.empty_directories))
        if state.coordinator:
            trees.append((state, -1, f"{folder}/coordinator", state.coordinator, ()))
    return trees


def _folders(states: list[OperatorState]) -> dict[str, str]:
    """A directory for each operator: its uid where that is a plain name and no other's but for case, else its id."""
    taken = Counter(name for state in states for name in {state.uid.casefold(), state.id})
    folders = {}
    for state in states:
        plain = bool(state.uid) and "/" not in state.uid and taken[state.uid.casefold()] == 1
        if plain:
            try:
                check_file_name(state.uid)
            except EoctlError:
                plain = False
        folders[state.id] = state.uid if plain else state.id
    return folders


def _transactions(manifest: Manifest) -> Transactions:
    found = [transaction for sink in manifest.sinks for transaction in sink.transactions]
    return Transactions(
        commit=tuple(transaction.id for transaction in found if transaction.state == "pre-committed"),
        abort=tuple(transaction.id for transaction in found if transaction.state == "aborted"),
    )


@contextmanager
def held(store: Store, resolved: Resolved, notes: list[str], *, reason: str = "restore") -> Iterator[Resolved]:
    """The snapshot stays whole meanwhile: under a hold, or where the store cannot be written, for the trash's time.

    What is to be read is the entry that the hold names: since it was resolved, gc may have re-packed it.
    """
    ambient = store.ambient
    hold_id = ambient.new_id()
    now = ambient.now()
    expires_at = format_time(datetime.fromisoformat(now) + timedelta(hours=HOLD_HOURS))
    label = resolved.entry.label
    try:
        holding = _edit(
            store,
            resolved,
            lambda head: hold(head, label, hold_id=hold_id, reason=reason, now=now, expires_at=expires_at),
        )
    except (AccessDeniedError, UnavailableError, InvalidInputError) as error:  # the last: HEAD has no room for it
        notes.append(f"{resolved.address} was read without a hold, as its store cannot be written: {error.message}")
        yield resolved
        return
    entry = next(found.entry for found in holding.head.holds if found.id == hold_id)
    try:
        yield Resolved(resolved.pipeline, holding, entry)
    finally:
        try:
            _edit(store, resolved, lambda head: release(head, frozenset({hold_id})))
        except EoctlError as error:
            notes.append(f"the hold {hold_id} of this {reason} is left until {expires_at}: {error.message}")


def _edit(store: Store, resolved: Resolved, edit: Edit) -> CommittedHead:
    current = store.head(resolved.pipeline)
    return swap_head(store.backend, current, edit, store.ambient, txid=TxId(store.ambient.new_id()), attempt=None)
