"""What the savepoint services answer, as services/values.py has it for the others."""

from __future__ import annotations

from msgspec import Struct

from eoctl.services.values import SnapshotRow, Transactions


class SavedState(Struct, frozen=True, kw_only=True):
    """One table of a savepoint. `path`: below the savepoint's folder."""

    operator: str
    name: str
    kind: str
    rows: int
    bytes: int
    path: str
    key: str = ""
    value: str = ""


class MoveRow(Struct, frozen=True, kw_only=True):
    """What becomes of an operator's state. `action`: kept, remapped, merged, dropped, not restored; `new` "": gone."""

    old: str
    old_id: str
    new: str
    new_id: str
    action: str
    states: tuple[str, ...]


class SavepointCreated(Struct, frozen=True, kw_only=True):
    """A savepoint that now exists."""

    snapshot: SnapshotRow
    source: str
    states: tuple[SavedState, ...]
    moves: tuple[MoveRow, ...]
    remapped: dict[str, str]
    dropped: tuple[str, ...]
    non_restored: tuple[str, ...]
    rows: int
    seconds: float
    notes: tuple[str, ...] = ()


class SavepointDetail(Struct, frozen=True, kw_only=True):
    """What a savepoint consists of."""

    snapshot: SnapshotRow
    source: str
    taken_at: str
    states: tuple[SavedState, ...]
    operators: tuple[SavedOperator, ...]
    source_offsets: dict[str, dict[str, int | str]]
    transactions: Transactions


class SavedOperator(Struct, frozen=True, kw_only=True):
    """One operator of a savepoint. `files`: carried as they are."""

    uid: str
    id: str
    parallelism: int
    max_parallelism: int
    states: int
    rows: int
    bytes: int
    files: int


class SavepointDamage(Struct, frozen=True, kw_only=True):
    """A file of a savepoint's folder that is not what the head says."""

    path: str
    reason: str


class SavepointCheck(Struct, frozen=True, kw_only=True):
    """What was looked at in a savepoint's folder, and what is wrong."""

    path: str
    tables: int
    rows: int
    files: int
    bytes: int
    damaged: tuple[SavepointDamage, ...]
    seconds: float
