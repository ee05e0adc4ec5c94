"""State of the changelog backend: a materialised part, and the changes since, replayed onto it.

    file of changes   1 byte: 1 if what follows is a framed Snappy stream; then change sets. A handle's offset counts
                      from behind that byte, in what was decompressed.
    change set        i32 groups, groups times: i32 n, i32 key group (-1: of states), n times i32 length, change
    a change          i8 operation, then of state: i16 its number, [key, namespace,] and what the operation needs
    about a state     i8 8, i32 version, the state (keyed_header.py), its time to live and default value,
                      i16 the number that it has from here on, i8 its type

    0 clear      1, 2 set to a value      3 add a whole list or map      4 merge namespaces: target, i32 n, n sources
    5 add an element (of timers: i32 n, n timers)      6 put: map key, value      7 remove: a map key, a timer

Before the first materialisation nothing says of what type the keys are but the timers; without any, the changes cannot
be taken apart, and the state is refused. Merging namespaces of a reducing state takes the job's own function: it is
refused where more than one of them holds a value.

All changes of a handle are held in memory, and the rows of the key group that they are applied to.

Source: Flink 2.3.0, `StateChangeFormat`, `AbstractStateChangeLogger`, `StateChangeOperation`, `...StateChangeApplier`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from formats.binary import Buffer, Cursor
from formats.datatype import DataType, TimerOf
from formats.errors import BombError, CorruptError, UnsupportedError
from formats.flink.changelog_replay import METADATA, Replay
from formats.flink.handles import Change, ChangeFiles, Changelog, InlineChanges, StreamHandle
from formats.flink.key_layout import KeyLayout, by_key_group, layout_of
from formats.flink.keyed import KeyedSource, OpenStream, keyed_source, safe_schema
from formats.flink.keyed_header import KEYED_VALUES, TIMERS, Header, StateMeta, read_state, write_keyed_header
from formats.flink.row_builder import RowBuilder
from formats.flink.snappy_frames import unframe
from formats.keygroups import KeyGroupRange
from formats.state import StateSchema

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CHANGES_BYTES = 1 << 30

_ABOUT_STATES = -1
_META_VERSIONS = frozenset({6, 7})


class _Log(NamedTuple):
    """The changes of one state, by key group, in order; and what it is."""

    state: StateMeta
    changes: dict[int, list[tuple[int, bytes]]]


class ChangelogSource:
    """A handle of the changelog backend. A `KeyedSource`."""

    def __init__(self, handle: Changelog, open_stream: OpenStream, max_parallelism: int, what: str) -> None:
        self.what = what
        self.groups = KeyGroupRange(handle.start, handle.stop)
        self.key_hint: DataType | None = None  # of other subtasks, which may have more
        self._handle = handle
        self._open = open_stream
        self._max_parallelism = max_parallelism
        self._bases = [
            keyed_source(part, open_stream, max_parallelism, f"{what}, materialised")
            for part in handle.materialized
            if part is not None
        ]

    @cached_property
    def header(self) -> Header:
        """What the materialised part and the changes know together."""
        states = {state.name: state for base in self._bases for state in base.header.states}
        states |= {name: log.state for name, log in self._logs.items()}
        keys = [base.header.key for base in self._bases if base.header.key is not None]
        keys += [state.value.key for state in states.values() if isinstance(state.value, TimerOf)]
        return Header(compressed=False, key=keys[0] if keys else None, states=tuple(states.values()))

    def header_bytes(self) -> bytes:
        buffer = Buffer()
        write_keyed_header(buffer, Header(compressed=False, key=self._key, states=self.header.states))
        return bytes(buffer.data)

    def layout(self, name: str) -> KeyLayout:
        state = next(state for state in self.header.states if state.name == name)
        return layout_of(state, self._key, self._max_parallelism)

    def schemas(self) -> list[StateSchema]:
        return [safe_schema(state, self._key) for state in self.header.states]

    @property
    def _key(self) -> DataType | None:
        return self.header.key or self.key_hint

    def rows(self, name: str, groups: KeyGroupRange, key: bytes | None) -> Iterator[pa.RecordBatch]:
        log = self._logs.get(name)
        if log is None:
            for base, part in self._bases_of(name, groups):
                yield from base.rows(name, part, key)
            return
        replay = Replay(log.state, self._key, self.what)
        builder = RowBuilder()
        for key_group, batches, changes in self._steps(name, groups, log):
            if not changes:
                if (batch := builder.batch()) is not None:
                    yield batch
                yield from _of_key(batches, key)
                continue
            entries = replay.replayed(batches, changes)
            chosen = sorted(scope for scope in entries if key is None or scope[0] == key)
            builder.add(
                key_group,
                [(*scope, map_key, value) for scope in chosen for map_key, value in sorted(entries[scope].items())],
            )
            if builder.is_full and (batch := builder.batch()) is not None:
                yield batch
        if (batch := builder.batch()) is not None:
            yield batch

    def _bases_of(self, name: str, groups: KeyGroupRange) -> Iterator[tuple[KeyedSource, KeyGroupRange]]:
        for base in sorted(self._bases, key=lambda base: base.groups):
            part = base.groups.intersection(groups)
            if part is not None and any(state.name == name for state in base.header.states):
                yield base, part

    def _steps(
        self, name: str, groups: KeyGroupRange, log: _Log
    ) -> Iterator[tuple[int, list[pa.RecordBatch], list[tuple[int, bytes]]]]:
        """Each key group that has rows or changes, in order, with both."""
        rows = (batch for base, part in self._bases_of(name, groups) for batch in base.rows(name, part, None))
        changed = sorted(group for group in log.changes if group in groups)
        for batches in by_key_group(rows):
            key_group = batches[0]["key_group"][0].as_py()
            while changed and changed[0] < key_group:
                yield changed[0], [], log.changes[changed.pop(0)]
            if changed and changed[0] == key_group:
                yield key_group, batches, log.changes[changed.pop(0)]
            else:
                yield key_group, batches, []
        for key_group in changed:
            yield key_group, [], log.changes[key_group]

    @cached_property
    def _logs(self) -> dict[str, _Log]:
        """The changes of each state that has any, or that is told of."""
        logs: dict[str, _Log] = {}
        numbers: dict[int, str] = {}
        held = 0
        for change in self._changes():
            held += len(change.data)
            if held > MAX_CHANGES_BYTES:
                raise BombError(f"{self.what}: more than {MAX_CHANGES_BYTES} bytes of changes")
            cursor = Cursor(change.data, what=f"{self.what}, a change")
            operation = cursor.u8("an operation")
            if operation == METADATA:
                number, state = self._read_about(cursor)
                numbers[number] = state.name
                logs[state.name] = _Log(state, logs[state.name].changes if state.name in logs else {})
                continue
            number = cursor.i16("a state's number")
            if operation > METADATA or number not in numbers:
                raise cursor.error(f"operation {operation} on state {number}, which was not told of", at=0)
            log = logs[numbers[number]]
            log.changes.setdefault(change.key_group, []).append((operation, change.data[3:]))
        return logs

    def _read_about(self, cursor: Cursor) -> tuple[int, StateMeta]:
        version = cursor.i32("the version of a state")
        if version not in _META_VERSIONS:
            raise UnsupportedError(f"{self.what}: a state of version {version} among the changes")
        state = read_state(cursor)
        if state.type not in {KEYED_VALUES, TIMERS}:
            raise UnsupportedError(f"{self.what}: state {state.name!r} is of type {state.type}")
        cursor.at = max(cursor.at, cursor.end - 3)  # time to live and default value are the job's business
        return cursor.i16("a state's number"), state

    def _changes(self) -> Iterator[Change]:
        for handle in self._handle.changes:
            if isinstance(handle, InlineChanges):
                yield from handle.changes
            elif isinstance(handle, ChangeFiles):
                for place in handle.sets:
                    if place.stream is not None:
                        yield from self._change_set(place.stream, place.offset)
            elif handle is not None:
                raise UnsupportedError(f"{self.what}: a {type(handle).__name__} among the changes")

    def _change_set(self, stream: StreamHandle, offset: int) -> Iterator[Change]:
        with self._open(stream) as file:
            what = f"{self.what}, changes"
            compressed = file.read(1)
            if compressed == b"\1":
                data = unframe(Cursor(file.read(MAX_CHANGES_BYTES), what=what))
                start = offset
            elif compressed == b"\0" and offset >= 0:
                file.seek(offset + 1)
                data, start = file.read(MAX_CHANGES_BYTES), 0
            else:
                raise CorruptError(f"{what}: not a file of changes", offset=0)
        if not 0 <= start <= len(data):
            raise CorruptError(f"{what}: a change set at byte {start} of {len(data)}", offset=max(start, 0))
        yield from _read_change_set(Cursor(data, what=what, start=start))


def _read_change_set(cursor: Cursor) -> Iterator[Change]:
    for _ in range(cursor.count("the number of key groups", 8)):
        count = cursor.count("the number of changes", 4)
        key_group = cursor.i32("a key group")
        if key_group < _ABOUT_STATES:
            raise cursor.error(f"changes of key group {key_group}", at=cursor.at - 4)
        for _ in range(count):
            yield Change(key_group, cursor.sized("a change"))


def _of_key(batches: list[pa.RecordBatch], key: bytes | None) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    for batch in batches:
        kept = batch if key is None else batch.filter(pc.equal(batch["key"], pa.scalar(key, pa.binary())))
        if kept.num_rows:
            yield kept
