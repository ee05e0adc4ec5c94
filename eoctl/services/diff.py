"""What one snapshot has that another has not, by content."""

from __future__ import annotations

from eoctl.services.inspect import file_row
from eoctl.services.resolve import Resolved
from eoctl.services.values import ChangedFile, Difference, FileRow
from formats.manifest import Manifest, OperatorState, StateFile, SubtaskState, blobs, files_of
from storage.blobs import Blobs
from storage.references import file_id, full_name
from storage.store import Store

_Found = tuple[OperatorState, SubtaskState | None, StateFile]


def diff(store: Store, a: Resolved, b: Resolved) -> Difference:
    """From `a` to `b`, which may be of two pipelines of the store: then no stored byte is shared.

    The same file is that of the same operator id, subtask and name. `added_bytes` counts the content of added files
    and the new content of changed ones, `removed_bytes` that of removed files and the old content of changed ones:
    the full size of `b` is that of `a`, plus the first, minus the second.
    Raises: CorruptError, BlobGoneError.
    """
    before, after = store.manifest(a.head, a.entry), store.manifest(b.head, b.entry)
    old, new = _by_id(before), _by_id(after)
    changed = [(old[key], new[key]) for key in new if key in old and old[key][2].digest != new[key][2].digest]
    gone = [found for key, found in old.items() if key not in new]
    come = [found for key, found in new.items() if key not in old]
    return Difference(
        a=a.address,
        b=b.address,
        added=_rows(store, b, come),
        removed=_rows(store, a, gone),
        changed=tuple(
            ChangedFile(name=full_name(*now), old_bytes=was[2].bytes, new_bytes=now[2].bytes) for was, now in changed
        ),
        same_files=len(new) - len(come) - len(changed),
        added_bytes=_bytes(come) + _bytes([now for _, now in changed]),
        removed_bytes=_bytes(gone) + _bytes([was for was, _ in changed]),
        shared_stored_bytes=_shared_stored_bytes(before, after) if a.pipeline == b.pipeline else 0,
    )


def _by_id(manifest: Manifest) -> dict[tuple[str, int, str], _Found]:
    return {file_id(*found): found for found in files_of(manifest)}


def _rows(store: Store, resolved: Resolved, found: list[_Found]) -> tuple[FileRow, ...]:
    reader = Blobs(store.backend, resolved.pipeline, store.hash)
    return tuple(file_row(reader, *each) for each in found)


def _bytes(found: list[_Found]) -> int:
    return sum(file.bytes for _, _, file in found)


def _shared_stored_bytes(a: Manifest, b: Manifest) -> int:
    other = blobs(b)
    return sum(size for key, size in blobs(a).items() if key in other)
