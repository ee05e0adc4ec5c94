"""The transactions that sinks pre-committed into a snapshot, and what became of them."""

from __future__ import annotations

from msgspec import Struct

from eoctl.services.resolve import Resolved
from formats.errors import CorruptError
from formats.manifest import Manifest, Transaction
from storage.store import Store


class TransactionRow(Struct, frozen=True, kw_only=True):
    """A transaction. `state`: pending, committed, aborted, or zombie; then `fenced_by` says by what.

    *Pending*: the next recovery from this snapshot commits it, if its own attempt has not done so. *Committed*: a later
    checkpoint does not carry it any more. *Zombie*: pending, of an attempt that a newer one has fenced.
    """

    sink: str
    id: str
    state: str
    checkpoint: int
    subtask: int
    attempt: int | None
    records: int | None
    fenced_by: str = ""


def list_transactions(store: Store, resolved: Resolved) -> tuple[TransactionRow, ...]:
    """What the snapshot holds, by sink, in its order. Raises: CorruptError."""
    manifest = store.manifest(resolved.head, resolved.entry)
    later = _carried_later(store, resolved)
    newest = resolved.head.writer.attempt
    rows = []
    for sink in manifest.sinks:
        for one in sink.transactions:
            attempt = _attempt_of(one, manifest)
            state, fenced_by = _state(one, later, attempt, newest)
            records = one.properties.get("records", "")
            rows.append(
                TransactionRow(
                    sink=sink.uid,
                    id=one.id,
                    state=state,
                    checkpoint=one.checkpoint,
                    subtask=one.subtask,
                    attempt=attempt,
                    records=int(records) if records.isdecimal() else None,
                    fenced_by=fenced_by,
                )
            )
    return tuple(rows)


def _state(one: Transaction, later: frozenset[str] | None, attempt: int, newest: int) -> tuple[str, str]:
    if one.state != "pre-committed":
        return one.state, ""
    if later is not None and one.id not in later:
        return "committed", ""
    if attempt < newest:
        return "zombie", f"attempt {newest}, by HEAD"
    return "pending", ""


def _carried_later(store: Store, resolved: Resolved) -> frozenset[str] | None:
    """Ids of transactions in the newest later checkpoint that can be read; None: there is none."""
    for entry in reversed(resolved.head.live):
        if entry.kind == "checkpoint" and entry.seq > resolved.entry.seq:
            try:
                manifest = store.manifest(resolved.head, entry)
            except CorruptError:
                continue
            return frozenset(one.id for sink in manifest.sinks for one in sink.transactions)
    return None


def _attempt_of(one: Transaction, manifest: Manifest) -> int:
    """As the transaction tells it, or else the snapshot's."""
    told = one.properties.get("attempt", "")
    return int(told) if told.isdecimal() else manifest.attempt
