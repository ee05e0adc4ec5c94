"""Changes of one state, applied to the rows of one key group. What they mean is told in changelog.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.binary import Cursor
from formats.datatype import DataType, ListOf, MapOf, TimerOf, describe, is_known
from formats.errors import CorruptError, UnsupportedError
from formats.flink.heap import splitter
from formats.flink.keyed_header import StateMeta
from formats.types import codec

if TYPE_CHECKING:
    import pyarrow as pa

CLEAR, SET, SET_INTERNAL, ADD, MERGE_NAMESPACES, ADD_ELEMENT, PUT, REMOVE, METADATA = range(9)

Entries = dict[tuple[bytes, bytes], dict[bytes, bytes]]  # by key and namespace: values by map key

_TIME_BYTES = 8


class Replay:
    """How changes of a state are applied."""

    def __init__(self, state: StateMeta, key: DataType | None, what: str) -> None:
        """Raises: UnsupportedError, where keys, namespaces or values cannot be told apart."""
        self._what = f"{what}, state {state.name!r}"
        self._kind = state.options.get("KEYED_STATE_TYPE", "")
        self._value = state.value
        self._is_timer = isinstance(state.value, TimerOf)
        parts = [state.value] if self._is_timer else [key, state.namespace, state.value]
        for part in parts:
            if part is None or not is_known(part):
                told = "of an unknown type" if part is None else describe(part)
                raise UnsupportedError(
                    f"{self._what}: its changes cannot be taken apart, for keys or values are {told}",
                    hint="take a canonical savepoint, or wait for the first materialisation",
                )
        if isinstance(state.value, TimerOf):
            key, namespace = state.value.key, state.value.namespace
        else:
            namespace = state.namespace
        assert key is not None
        self._key, self._namespace = codec(key), codec(namespace)
        self._split = splitter(state)

    def replayed(self, batches: list[pa.RecordBatch], changes: list[tuple[int, bytes]]) -> Entries:
        """What the rows of a key group have become.

        Raises: CorruptError, UnsupportedError.
        """
        entries: Entries = {}
        for batch in batches:
            columns = (batch[name].to_pylist() for name in ("key", "namespace", "map_key", "value"))
            for key, namespace, map_key, value in zip(*columns, strict=True):
                entries.setdefault((key, namespace), {})[map_key] = value
        for operation, data in changes:
            try:
                self._apply(entries, operation, data)
            except (UnsupportedError, CorruptError) as error:
                raise type(error)(f"{self._what}: {error.message}", hint=error.hint, **error.facts) from error
        return entries

    def _apply(self, entries: Entries, operation: int, data: bytes) -> None:
        if self._is_timer:
            self._apply_timer(entries, operation, data)
            return
        middle = self._key.skip(data, 0)
        end = self._namespace.skip(data, middle)
        scope, rest = (data[:middle], data[middle:end]), data[end:]
        if operation == CLEAR:
            entries.pop(scope, None)
        elif operation in {SET, SET_INTERNAL}:
            self._set(entries, scope, rest)
        elif operation == MERGE_NAMESPACES:
            self._merge(entries, scope[0], rest)
        elif self._kind == "MAP" and isinstance(self._value, MapOf):
            self._apply_map(entries, operation, scope, rest, self._value)
        elif self._kind == "LIST" and operation in {ADD, ADD_ELEMENT}:
            self._add(entries, scope, operation, rest)
        else:
            raise UnsupportedError(f"operation {operation} on a {self._kind.lower()} state")

    def _set(self, entries: Entries, scope: tuple[bytes, bytes], value: bytes) -> None:
        self._check(self._value, value)
        entries.pop(scope, None)
        for key, namespace, map_key, each in self._split(*scope, value):
            entries.setdefault((key, namespace), {})[map_key] = each

    def _apply_map(
        self, entries: Entries, operation: int, scope: tuple[bytes, bytes], rest: bytes, types: MapOf
    ) -> None:
        held = entries.setdefault(scope, {})
        if operation == ADD:
            self._check(types, rest)
            held.update((map_key, value) for _, _, map_key, value in self._split(*scope, rest))
        else:
            middle = codec(types.key).skip(rest, 0)
            if operation == REMOVE:
                held.pop(rest[:middle], None)
            elif operation in {ADD_ELEMENT, PUT}:
                self._check(types.value, rest[middle:])
                held[rest[:middle]] = b"\0" + rest[middle:]
            else:
                raise UnsupportedError(f"operation {operation} on a map state")
        if not held:
            del entries[scope]

    def _add(self, entries: Entries, scope: tuple[bytes, bytes], operation: int, rest: bytes) -> None:
        assert isinstance(self._value, ListOf)
        if operation == ADD_ELEMENT:
            self._check(self._value.element, rest)
            added = [rest]
        else:
            self._check(self._value, rest)
            added = [joined for *_, joined in self._split(*scope, rest)]
        held = entries.get(scope, {}).get(b"")
        joined = b",".join(added if held is None else [held, *added])
        if added:
            entries[scope] = {b"": joined}

    def _merge(self, entries: Entries, key: bytes, rest: bytes) -> None:
        """The values of several namespaces are one, under the target."""
        end = self._namespace.skip(rest, 0)
        target = rest[:end]
        cursor = Cursor(rest, what="namespaces", start=end)
        found = [held] if (held := entries.pop((key, target), {}).get(b"")) is not None else []
        for _ in range(cursor.count("the number of namespaces")):
            start = cursor.at
            cursor.at = self._namespace.skip(rest, start)
            value = entries.pop((key, rest[start : cursor.at]), {}).get(b"")
            if value is not None:
                found.append(value)
        cursor.expect_end("the namespaces")
        if len(found) > 1 and self._kind != "LIST":
            raise UnsupportedError(
                f"namespaces of a {self._kind.lower()} state were merged, which takes the job's own function",
                hint="take a canonical savepoint, or wait for the next materialisation",
            )
        if found:
            entries[key, target] = {b"": b",".join(found)}

    def _apply_timer(self, entries: Entries, operation: int, data: bytes) -> None:
        cursor = Cursor(data, what="timers")
        if operation not in {ADD_ELEMENT, REMOVE}:
            raise UnsupportedError(f"operation {operation} on timers")
        for _ in range(cursor.count("the number of timers", _TIME_BYTES) if operation == ADD_ELEMENT else 1):
            time = cursor.raw(_TIME_BYTES, "a time")
            start = cursor.at
            middle = self._key.skip(data, start)
            cursor.at = self._namespace.skip(data, middle)
            scope = data[start:middle], data[middle : cursor.at]
            if operation == ADD_ELEMENT:
                entries.setdefault(scope, {})[time] = b""
            elif (held := entries.get(scope)) is not None:
                held.pop(time, None)
        cursor.expect_end("timers")

    def _check(self, data_type: DataType, data: bytes) -> None:
        """All of `data` is one value, so that it can be taken apart."""
        if codec(data_type).skip(data, 0) != len(data):
            raise CorruptError(f"a change has {len(data)} bytes for a {describe(data_type)}", offset=0)
