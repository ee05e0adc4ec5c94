"""What stands in front of keyed state and of operator state: which states there are, and of what types.

    keyed      i32 version, flag compressed, i32 2, snapshot of the key's serializer, i16 n, n states
    operator   i32 version, flag compressed (not in version 5), i16 n, n list states, i16 n, n broadcast states
    a state    utf name, i32 type, i32 k, k options (utf, utf), i32 m, m serializers (utf which, i32 2, snapshot)

Types: 0 keyed values, 1 operator, 2 broadcast, 3 timers, 4 the newer interface to state (ForSt). Options and
serializers come in any order. A serializer that is not known is taken to have no content if all that follows then
makes sense; else reading ends there: `stopped_at` names its class, and the states before it are known.

Source: Flink 2.3.0, `KeyedBackendSerializationProxy`, `OperatorBackendSerializationProxy`,
`StateMetaInfoSnapshotReadersWriters`, `StateMetaInfoSnapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from msgspec import Struct

from formats.binary import Buffer, Cursor
from formats.datatype import (
    DataType,
    JoinedOf,
    ListOf,
    MapOf,
    NullableOf,
    Opaque,
    Simple,
    TimerOf,
    describe,
    is_known,
    parse,
)
from formats.errors import CorruptError, InvalidInputError, UnsupportedError
from formats.flink.serializers import UnknownSerializerError, read_serializer, write_serializer, write_void_namespace
from formats.state import Kind, StateSchema

VERSION = 6
KEYED_VALUES, OPERATOR, BROADCAST, TIMERS, NEWER = range(5)
MAX_TYPE_TEXT = 1 << 16

_LAST_WITHOUT_FLAG = 5  # of operator state, Flink before 1.20
_PROXY_VERSION = 2
_KINDS = frozenset({"value", "list", "map", "reducing", "aggregating"})
_MODES = {"SPLIT_DISTRIBUTE": "operator-list", "UNION": "operator-union", "BROADCAST": "broadcast"}


class StateMeta(Struct, frozen=True):
    """One state, as it stands there."""

    name: str
    type: int
    options: dict[str, str]
    serializers: dict[str, DataType]

    @property
    def value(self) -> DataType:
        return self.serializers.get("VALUE_SERIALIZER", Opaque("nothing"))

    @property
    def namespace(self) -> DataType:
        return self.serializers.get("NAMESPACE_SERIALIZER", Simple("void"))


class Header(Struct, frozen=True):
    """The head of a stream of state. `key`: of keyed state. `stopped_at`: the serializer that ended the reading."""

    compressed: bool
    key: DataType | None
    states: tuple[StateMeta, ...]
    stopped_at: str = ""
    size: int = 0


def read_keyed_header(cursor: Cursor, end: int | None = None) -> Header:
    """The header at the cursor, which is behind it afterwards unless it was `stopped_at`.

    `end`: where it ends, if that is known.

    Raises: CorruptError, UnsupportedError.
    """
    return _read(cursor, _read_keyed, end)


def read_operator_header(cursor: Cursor) -> Header:
    """As `read_keyed_header`; list states come first."""
    return _read(cursor, _read_operator, None)


def _read(cursor: Cursor, read: Callable[..., Header], end: int | None) -> Header:
    """What was read; where a serializer is not known, it is tried whether it has no content."""
    start = cursor.at
    found = read(cursor, guess=False)
    if not found.stopped_at:
        return found
    again = Cursor(cursor.data, what=cursor.what, start=start, end=cursor.end)
    try:
        guessed = read(again, guess=True)
    except (CorruptError, UnsupportedError):
        return found
    if guessed.size != (guessed.size if end is None else end - start):
        return found
    cursor.at = again.at
    return guessed


def _read_keyed(cursor: Cursor, *, guess: bool) -> Header:
    start, compressed = cursor.at, _read_version(cursor, VERSION)
    states: list[StateMeta] = []
    key: DataType | None = None
    try:
        key = _read_serializer(cursor, guess=guess)
        _read_states(cursor, states, guess=guess)
    except UnknownSerializerError as error:
        return Header(compressed, key, tuple(states), str(error.facts["serializer"]), cursor.at - start)
    return Header(compressed, key, tuple(states), size=cursor.at - start)


def _read_operator(cursor: Cursor, *, guess: bool) -> Header:
    start, compressed = cursor.at, _read_version(cursor, _LAST_WITHOUT_FLAG)
    states: list[StateMeta] = []
    try:
        _read_states(cursor, states, guess=guess)
        _read_states(cursor, states, guess=guess)
    except UnknownSerializerError as error:
        return Header(compressed, None, tuple(states), str(error.facts["serializer"]), cursor.at - start)
    return Header(compressed, None, tuple(states), size=cursor.at - start)


def _read_version(cursor: Cursor, oldest: int) -> bool:
    """Whether state is compressed."""
    version = cursor.i32("the version of state")
    if not oldest <= version <= VERSION:
        raise UnsupportedError(
            f"{cursor.what}: state of version {version} (known: {oldest} to {VERSION}), at byte {cursor.at - 4}",
            hint="let a newer Flink write a savepoint",
            offset=cursor.at - 4,
        )
    return version > _LAST_WITHOUT_FLAG and cursor.flag("whether state is compressed")


def _read_serializer(cursor: Cursor, *, guess: bool) -> DataType:
    version = cursor.i32("the version of a serializer")
    if version != _PROXY_VERSION:
        raise UnsupportedError(
            f"{cursor.what}: a serializer written as of Flink before 1.7, at byte {cursor.at - 4}",
            hint="let a newer Flink write a savepoint",
            offset=cursor.at - 4,
        )
    return read_serializer(cursor, guess=guess)


def _read_states(cursor: Cursor, states: list[StateMeta], *, guess: bool) -> None:
    count = cursor.i16("the number of states")
    if count < 0:
        raise cursor.error(f"{count} states", at=cursor.at - 2)
    states.extend(read_state(cursor, guess=guess) for _ in range(count))


def read_state(cursor: Cursor, *, guess: bool = False) -> StateMeta:
    """Raises: UnknownSerializerError, CorruptError."""
    name = cursor.utf("a state's name")
    state_type = cursor.i32("a state's type")
    if not KEYED_VALUES <= state_type <= NEWER:
        raise cursor.error(f"state {name!r} has an unknown type {state_type}", at=cursor.at - 4)
    options: dict[str, str] = {}
    for _ in range(cursor.count("the number of options", 4)):
        option = cursor.utf("an option")
        options[option] = cursor.utf("an option's value")
    serializers: dict[str, DataType] = {}
    for _ in range(cursor.count("the number of serializers", 12)):
        which = cursor.utf("which serializer")
        serializers[which] = _read_serializer(cursor, guess=guess)
    return StateMeta(name, state_type, options, serializers)


def schema_of(state: StateMeta, key: DataType | None) -> StateSchema:
    """How the rows of the state are to be read; what is not known is an empty text.

    Raises: UnsupportedError, CorruptError.
    """
    value, namespace = state.value, state.namespace
    if state.type == TIMERS:
        if not isinstance(value, TimerOf):
            raise UnsupportedError(f"state {state.name!r} is a queue of {describe(value)}, not of timers")
        return StateSchema(name=state.name, kind="timer", key=_text(value.key), namespace=_text(value.namespace))
    if state.type == NEWER:
        raise UnsupportedError(
            f"state {state.name!r} was written by the newer interface to state (ForSt)",
            hint="take a canonical savepoint",
        )
    kind = state.options.get("KEYED_STATE_TYPE", "").lower()
    if state.type != KEYED_VALUES or kind not in _KINDS:
        raise CorruptError(f"state {state.name!r} is of no kind that is known: {kind!r}")
    map_key = ""
    if kind == "map":
        if not isinstance(value, MapOf):
            raise CorruptError(f"state {state.name!r} is a map and holds a {describe(value)}")
        map_key, value = _text(value.key), NullableOf(value.value)
    elif kind == "list":
        if not isinstance(value, ListOf):
            raise CorruptError(f"state {state.name!r} is a list and holds a {describe(value)}")
        value = JoinedOf(value.element)
    return StateSchema(
        name=state.name,
        kind=cast("Kind", kind),
        key="" if key is None else _text(key),
        namespace=_text(namespace),
        map_key=map_key,
        value=_text(value),
    )


def _text(data_type: DataType) -> str:
    """The text of a type; "" where it is not known in full, or has too many words."""
    text = describe(data_type) if is_known(data_type) or isinstance(data_type, Opaque) else ""
    return text if len(text) <= MAX_TYPE_TEXT else ""


def state_of(schema: StateSchema) -> StateMeta:
    """The reverse of `schema_of`, for state that Flink shall restore.

    Raises: InvalidInputError, where a type is not known, or the kind is not one of keyed state.
    """
    if not schema.keyed:
        raise InvalidInputError(f"state {schema.name!r} is no keyed state: {schema.kind}")
    namespace = parse(schema.namespace) if schema.namespace else Simple("void")
    if schema.kind == "timer":
        return StateMeta(schema.name, TIMERS, {}, {"VALUE_SERIALIZER": TimerOf(parse(schema.key), namespace)})
    value = parse(schema.value)
    if schema.kind == "list":
        if not isinstance(value, JoinedOf):
            raise InvalidInputError(f"state {schema.name!r} is a list and holds a {schema.value}")
        value = ListOf(value.element)
    elif schema.kind == "map":
        if not isinstance(value, NullableOf) or value.padding:
            raise InvalidInputError(f"state {schema.name!r} is a map whose values are not nullable: {schema.value}")
        value = MapOf(parse(schema.map_key), value.element)
    serializers = {"NAMESPACE_SERIALIZER": namespace, "VALUE_SERIALIZER": value}
    return StateMeta(schema.name, KEYED_VALUES, {"KEYED_STATE_TYPE": schema.kind.upper()}, serializers)


def header_of(schemas: Sequence[StateSchema]) -> Header:
    """The header of an operator's keyed state, in canonical form.

    Raises: InvalidInputError, where the states have keys of several types.
    """
    keys = {schema.key for schema in schemas}
    if len(keys) != 1:
        raise InvalidInputError(f"keyed state of an operator has one type of key, not {len(keys)}: {sorted(keys)}")
    return Header(compressed=False, key=parse(keys.pop()), states=tuple(map(state_of, schemas)))


def write_keyed_header(buffer: Buffer, header: Header) -> None:
    """The header as Flink writes it.

    Raises: InvalidInputError, for types that it has no serializer of.
    """
    if header.key is None:
        raise InvalidInputError("keyed state without a type of key")
    buffer.i32(VERSION)
    buffer.flag(header.compressed)
    buffer.i32(_PROXY_VERSION)
    write_serializer(buffer, header.key)
    _write_states(buffer, header.states)


def write_operator_header(buffer: Buffer, header: Header) -> None:
    """As `write_keyed_header`."""
    buffer.i32(VERSION)
    buffer.flag(header.compressed)
    for broadcast in (False, True):
        _write_states(buffer, tuple(state for state in header.states if (state.type == BROADCAST) == broadcast))


def _write_states(buffer: Buffer, states: tuple[StateMeta, ...]) -> None:
    buffer.i16(len(states))
    for state in states:
        buffer.utf(state.name)
        buffer.i32(state.type)
        buffer.i32(len(state.options))
        for option, value in state.options.items():
            buffer.utf(option)
            buffer.utf(value)
        buffer.i32(len(state.serializers))
        for which, data_type in state.serializers.items():
            buffer.utf(which)
            buffer.i32(_PROXY_VERSION)
            if which == "NAMESPACE_SERIALIZER" and data_type == Simple("void"):
                write_void_namespace(buffer)
            else:
                write_serializer(buffer, data_type)
