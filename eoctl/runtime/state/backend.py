"""Keyed state of one subtask: what operators ask of it, and what a checkpoint takes from it.

A table is one named state. Operators read and write it through `view(namespace)`, a mapping of keys to values, and say
which keys they changed; the values that they put in are never changed afterwards. So a checkpoint costs what was
changed since the one before: `freeze` takes the changes at once, and `Frozen.write` writes them, later and perhaps in
another thread, as sorted tables.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec import Struct

from formats.keygroups import KeyGroupRange
from formats.manifest import Engine, StateFile, StateInfo
from formats.sst import SortedTable

VOID = None  # the namespace of state that has only one; a zero byte on disk, as Flink writes it
View = MutableMapping[Hashable, Any]


class StateSpec(Struct, frozen=True, kw_only=True):
    """A named state as an operator declares it. Types are texts of formats/types; "": plain values.

    `map`: a view's values are entries under `(key, map key)`. `list`: values are lists. `timer`: under `(key, time)`.
    `by_group`: keys are key groups themselves.
    """

    name: str
    kind: Literal["value", "list", "map", "timer"] = "value"
    key: str = ""
    namespace: str = "void"
    map_key: str = ""
    value: str = ""
    by_group: bool = False

    def info(self) -> StateInfo:
        """As a manifest tells it."""
        types = {"key": self.key, "namespace": self.namespace, "map_key": self.map_key, "value": self.value}
        return StateInfo(name=self.name, kind=self.kind, properties={k: v for k, v in types.items() if v})


class TableFile(Struct, frozen=True):
    """A sorted table on local disk, below the subtask's directory. Later ones replace rows of earlier ones.

    `bytes`: about; by them it is judged when to merge.
    """

    name: str
    state: str
    rows: int
    bytes: int
    sequence: int
    timer: bool = False


class Restored(Struct, frozen=True):
    """What an earlier subtask left of one state: its tables, newest first."""

    state: str
    tables: tuple[SortedTable, ...]


class OldState(Struct, frozen=True):
    """What an earlier subtask left: its files in `folder`. `in_place`: it is this subtask, and goes on with them."""

    folder: Path
    files: tuple[StateFile, ...]
    in_place: bool


class Table(Protocol):
    """One state."""

    spec: StateSpec

    def view(self, namespace: Hashable) -> View:
        """The values by key, to be read and changed; for a map or timers by `(key, map key)`.

        It is good until the namespace is drained, whatever is frozen meanwhile.
        """
        ...

    def touched(self, namespace: Hashable, keys: Iterable[Hashable]) -> None:
        """These keys of the view were set or deleted, since the view was changed."""
        ...

    def drain(self, namespaces: Collection[Hashable]) -> dict[Hashable, list[tuple[Any, Any]]]:
        """The entries of each of these namespaces, with nothing in them any more."""
        ...

    def namespaces(self) -> Iterator[Hashable]:
        """Those that hold something."""
        ...

    def map_keys(self, namespace: Hashable, key: Hashable) -> list[Hashable]:
        """Of a map: those under which the key has something."""
        ...


class Frozen(Protocol):
    """The changes up to one moment. Its files lie in `directory`."""

    @property
    def directory(self) -> Path: ...

    def write(self) -> tuple[TableFile, ...]:
        """The tables on disk that are the state of that moment. Called once, in the order of freezing."""
        ...


class StateBackend(Protocol):
    """All keyed state of one subtask."""

    def table(self, spec: StateSpec) -> Table:
        """The state of that name, with what was restored of it. Raises: IncompatibleError."""
        ...

    @property
    def engine(self) -> Engine: ...

    def load(self, old: Iterable[OldState], key_groups: KeyGroupRange | None) -> None:
        """Tables hold what was found, of these key groups. Before the first `table`."""
        ...

    def freeze(self) -> Frozen:
        """The changes since the last call, taken out now."""
        ...

    def unclaimed(self) -> tuple[str, ...]:
        """States that were restored, and that no operator has asked for."""
        ...

    def describe(self) -> tuple[StateInfo, ...]:
        """The states for the manifest."""
        ...

    def sweep(self, keep: frozenset[str]) -> None:
        """Local files that neither the state nor a checkpoint under way (`keep`) needs are gone."""
        ...

    def close(self) -> None: ...


def directory_of(root: Path, operator_id: str, subtask: int) -> Path:
    """Where a subtask has its files."""
    return root / operator_id / str(subtask)
