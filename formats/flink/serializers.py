"""Serializer snapshots: how Flink writes down the type of a state, and back to a `DataType`.

    snapshot     utf class name of the snapshot, i32 its version, then what that class writes:
    simple       nothing (version 2: utf name of the serializer's class)
    composite    i32 911108, i32 version of the outer part, the outer part, i32 1333245, i32 1, i32 n, n snapshots
                 outer part: of a tuple or an array utf class; of a nullable i32 bytes of padding; of a row flag
    POJO         utf class, three optional maps: fields, registered subclasses, other subclasses
    enum         utf class, i32 n, n names, utf
    Kryo         utf class, three optional maps        Avro  utf class, utf schema
    optional map i64 0x4F2C69A3D70, i32 n, n times: utf name, flag + [i32 length, key], flag + [i32 length, value]

A snapshot has no length. One that is not known here, or not wholly (a user's own, a newer version), ends the reading
of what comes after it: `UnknownSerializerError` names its class. Inside a POJO's field it has a length, and is passed.
Most users' own have no content: the caller may try that, where what follows shows whether it was right.

Source: Flink 2.3.0, `TypeSerializerSnapshot`, `CompositeTypeSerializerSnapshot`, `PojoSerializerSnapshotData`,
`LinkedOptionalMapSerializer`; compared with its own output. Avro's as of its version 2, read only.
"""

from __future__ import annotations

from formats.binary import Buffer, Cursor
from formats.datatype import (
    MAX_DEPTH,
    MAX_PADDING,
    DataType,
    EitherOf,
    EnumOf,
    ListOf,
    MapOf,
    NullableOf,
    Opaque,
    RecordOf,
    RowOf,
    Simple,
    TimerOf,
    TupleOf,
    describe,
)
from formats.errors import InvalidInputError, UnsupportedError

OUTER_MAGIC = 911108
NESTED_MAGIC = 1333245
MAP_MAGIC = 0x4F2C69A3D70

_BASE = "org.apache.flink.api.common.typeutils.base."
_RUNTIME = "org.apache.flink.api.java.typeutils.runtime."
_WINDOWS = "org.apache.flink.streaming.api.windowing.windows."
_POJO = _RUNTIME + "PojoSerializerSnapshot"
_ENUM = _BASE + "EnumSerializer$EnumSerializerSnapshot"
_KRYO = _RUNTIME + "kryo.KryoSerializerSnapshot"
_AVRO = "org.apache.flink.formats.avro.typeutils.AvroSerializerSnapshot"

_SIMPLE_CLASSES = {
    "String": "string",
    "Long": "long",
    "Int": "int",
    "Short": "short",
    "Byte": "byte",
    "Char": "char",
    "Boolean": "boolean",
    "Double": "double",
    "Float": "float",
    "BigInt": "big-int",
    "BigDec": "big-decimal",
    "Instant": "instant",
    "Date": "date",
    "LocalDate": "local-date",
    "LocalTime": "local-time",
    "LocalDateTime": "local-date-time",
    "SqlTimestamp": "timestamp",
    "Void": "void",
}
_SIMPLE: dict[str, DataType] = {
    f"{_BASE}{name}Serializer${name}SerializerSnapshot": Simple(simple) for name, simple in _SIMPLE_CLASSES.items()
}
_WRITTEN: dict[DataType, str] = {data_type: name for name, data_type in _SIMPLE.items()}
_WRITTEN[Simple("bytes")] = _BASE + "array.BytePrimitiveArraySerializer$BytePrimitiveArraySerializerSnapshot"
_WRITTEN[Simple("time-window")] = _WINDOWS + "TimeWindow$Serializer$TimeWindowSerializerSnapshot"
VOID_NAMESPACE = "org.apache.flink.runtime.state.VoidNamespaceSerializer$VoidNamespaceSerializerSnapshot"
_SIMPLE |= {name: data_type for data_type, name in _WRITTEN.items()}
_SIMPLE |= {
    VOID_NAMESPACE: Simple("void"),
    _WINDOWS + "GlobalWindow$Serializer$GlobalWindowSerializerSnapshot": Simple("void"),
    _BASE + "SqlDateSerializer$SqlDateSerializerSnapshot": Simple("date"),
    _BASE + "SqlTimeSerializer$SqlTimeSerializerSnapshot": Simple("date"),
    _BASE + "array.StringArraySerializer$StringArraySerializerSnapshot": ListOf(Simple("string")),
}
_SIMPLE |= {  # the same bytes as the plain value
    f"{_BASE}{name}ValueSerializer${name}ValueSerializerSnapshot": Simple(name.lower())
    for name in ("Long", "Int", "Short", "Byte", "Boolean", "Double", "Float", "Char")
}
_SIMPLE |= {  # the same bytes as a list
    f"{_BASE}array.{name}PrimitiveArraySerializer${name}PrimitiveArraySerializerSnapshot": ListOf(Simple(name.lower()))
    for name in ("Long", "Int", "Short", "Boolean", "Double", "Float", "Char")
}

_SIMPLE |= {  # known to have no content, and that is all
    _BASE + "StringValueSerializer$StringValueSerializerSnapshot": Opaque("org.apache.flink.types.StringValue"),
    _BASE + "NullValueSerializer$NullValueSerializerSnapshot": Opaque("org.apache.flink.types.NullValue"),
    _RUNTIME + "Tuple0SerializerSnapshot": Opaque("org.apache.flink.api.java.tuple.Tuple0"),
}

_LIST = _BASE + "ListSerializerSnapshot"
_SET = _BASE + "SetSerializerSnapshot"
_MAP = _BASE + "MapSerializerSnapshot"
_TUPLE = _RUNTIME + "TupleSerializerSnapshot"
_NULLABLE = _RUNTIME + "NullableSerializer$NullableSerializerSnapshot"
_ROW = _RUNTIME + "RowSerializer$RowSerializerSnapshot"
_EITHER = _RUNTIME + "JavaEitherSerializerSnapshot"
_TIMER = "org.apache.flink.streaming.api.operators.TimerSerializerSnapshot"
_COMPOSITES = {  # with the version of the outer part
    _LIST: 1,
    _SET: 1,
    _MAP: 1,
    _TUPLE: 2,
    _NULLABLE: 2,
    _ROW: 4,
    _EITHER: 1,
    _TIMER: 2,
    _BASE + "GenericArraySerializerSnapshot": 1,
    "org.apache.flink.runtime.state.ttl.TtlStateFactory$TtlSerializerSnapshot": 2,
}


class UnknownSerializerError(UnsupportedError):
    """A serializer snapshot that cannot be passed over."""


def read_serializer(cursor: Cursor, depth: int = 0, *, guess: bool = False) -> DataType:
    """The type that the snapshot at the cursor stands for.

    `guess`: one that is not known has no content, as is usual; whether that fits, what comes after it tells.

    Raises: UnknownSerializerError, CorruptError.
    """
    start = cursor.at
    if depth > MAX_DEPTH // 2:
        raise cursor.error(f"serializers nested more than {MAX_DEPTH // 2} deep")
    name, version = cursor.utf("a serializer's class"), cursor.i32("a serializer's version")
    if name in _SIMPLE and version in {2, 3}:
        if version == 2:
            cursor.utf("a serializer's class")
        return _SIMPLE[name]
    if name in _COMPOSITES and version == 3:
        return _read_composite(cursor, name, depth, guess=guess)
    if name == _POJO and version == 2:
        return _read_pojo(cursor, depth)
    if name == _ENUM and version == 3:
        class_name = cursor.utf("an enum's class")
        return EnumOf(class_name, tuple(cursor.utf("a name") for _ in range(cursor.count("the number of names", 2))))
    if name == _KRYO and version == 2:
        class_name = cursor.utf("a class")
        for _ in range(3):
            _read_map(cursor)
        return Opaque(class_name)
    if name == _AVRO and version == 2:
        class_name = cursor.utf("a class")
        cursor.utf("a schema")
        return Opaque(class_name)
    if guess:
        return Opaque(name)
    raise UnknownSerializerError(
        f"{cursor.what}: a serializer that is not known: {name} of version {version}, at byte {start}",
        hint="what is described after it cannot be told apart; states before it, and other operators, can be read",
        offset=start,
        serializer=name,
    )


def _read_composite(cursor: Cursor, name: str, depth: int, *, guess: bool) -> DataType:
    if cursor.i32("a composite serializer") != OUTER_MAGIC:
        raise cursor.error("a composite serializer does not begin with its magic number", at=cursor.at - 4)
    outer = cursor.i32("the version of a composite serializer")
    if outer > _COMPOSITES[name]:
        raise UnknownSerializerError(
            f"{cursor.what}: {name} with an outer part of version {outer}, at byte {cursor.at - 4}",
            hint="upgrade eoctl",
            offset=cursor.at - 4,
            serializer=name,
        )
    class_name, padding, with_kind = "", 0, False
    if name == _TUPLE or name.endswith("GenericArraySerializerSnapshot"):
        class_name = cursor.utf("a class")
    elif name == _NULLABLE:
        padding = cursor.i32("the padding of a null")
        if not 0 <= padding <= MAX_PADDING:
            raise cursor.error(f"a null is padded with {padding} bytes", at=cursor.at - 4)
    elif name == _ROW:
        with_kind = cursor.flag("whether a row has a kind") if outer >= 4 else outer == 3
    if cursor.i32("nested serializers") != NESTED_MAGIC or cursor.i32("their version") != 1:
        raise cursor.error("nested serializers do not begin with their magic number", at=cursor.at - 8)
    nested = tuple(read_serializer(cursor, depth + 1, guess=guess) for _ in range(cursor.count("their number", 6)))
    found = _composed(name, class_name, padding, nested, with_kind=with_kind)
    if found is None:
        raise cursor.error(f"{name} of {len(nested)} serializers")
    return found


def _composed(
    name: str, class_name: str, padding: int, nested: tuple[DataType, ...], *, with_kind: bool
) -> DataType | None:
    """The type of a composite; None, where it does not have that many parts."""
    if name == _ROW:
        return RowOf(tuple((f"f{place}", field) for place, field in enumerate(nested)), with_kind)
    match nested:
        case (element,) if name == _NULLABLE:
            return NullableOf(element, padding)
        case (element,) if name == _SET:
            return ListOf(NullableOf(element))
        case (element,) if name.startswith(_BASE) and name != _MAP:
            return Opaque(f"{class_name}[]") if class_name else ListOf(element)
        case (left, right) if name == _MAP:
            return MapOf(left, right)
        case (left, right) if name == _EITHER:
            return EitherOf(left, right)
        case (left, right) if name == _TIMER:
            return TimerOf(left, right)
        case (_, *_) if name == _TUPLE or name.endswith("TtlSerializerSnapshot"):
            return TupleOf(nested)
    return None


def _read_pojo(cursor: Cursor, depth: int) -> DataType:
    class_name = cursor.utf("a class")
    fields = [(name, _read_field(value, depth)) for name, value in _read_map(cursor)]
    registered, others = ([_read_subclass(*entry, depth) for entry in _read_map(cursor)] for _ in range(2))
    return RecordOf(class_name, tuple(fields), tuple(registered), tuple(others))


def _read_subclass(name: str, value: Cursor | None, depth: int) -> RecordOf | Opaque:
    found = _read_field(value, depth)
    return found if isinstance(found, RecordOf) and found.class_name == name else Opaque(name)


def _read_field(value: Cursor | None, depth: int) -> DataType:
    """A field's type; opaque where its serializer is not known, since here it has a length."""
    if value is None:
        return Opaque("a field that is no more")
    try:
        return read_serializer(value, depth + 1)
    except UnknownSerializerError as error:
        return Opaque(str(error.facts["serializer"]))


def _read_map(cursor: Cursor) -> list[tuple[str, Cursor | None]]:
    """The names and values of an optional map; a value's cursor ends where it ends."""
    if cursor.i64("an optional map") != MAP_MAGIC:
        raise cursor.error("an optional map does not begin with its magic number", at=cursor.at - 8)
    found = []
    for _ in range(cursor.count("the size of a map", 4)):
        name = cursor.utf("a name")
        for what in ("a key", "a value"):
            part = cursor.part(cursor.count(f"the length of {what}"), what) if cursor.flag(what) else None
        found.append((name, part))
    return found


def write_serializer(buffer: Buffer, data_type: DataType) -> None:
    """The snapshot that Flink would write for the type.

    Raises: InvalidInputError, for a type that is not one serializer's or whose Java classes are not known.
    """
    if isinstance(data_type, Simple):
        _write_head(buffer, _WRITTEN[data_type], 3)
        return
    match data_type:
        case ListOf(element):
            _write_composite(buffer, _LIST, (element,))
        case MapOf(key, value):
            _write_composite(buffer, _MAP, (key, value))
        case NullableOf(element, padding):
            outer = Buffer()
            outer.i32(padding)
            _write_composite(buffer, _NULLABLE, (element,), outer)
        case TupleOf(fields) if len(fields) <= 25:
            outer = Buffer()
            outer.utf(f"org.apache.flink.api.java.tuple.Tuple{len(fields)}")
            _write_composite(buffer, _TUPLE, fields, outer)
        case RowOf(fields, with_kind):
            outer = Buffer()
            outer.flag(with_kind)
            _write_composite(buffer, _ROW, tuple(field for _, field in fields), outer)
        case EitherOf(left, right):
            _write_composite(buffer, _EITHER, (left, right))
        case TimerOf(key, namespace):
            _write_composite(buffer, _TIMER, (key, namespace))
        case EnumOf(class_name, names):
            _write_head(buffer, _ENUM, 3)
            buffer.utf(class_name)
            buffer.i32(len(names))
            for name in names:
                buffer.utf(name)
        case _:
            raise InvalidInputError(
                f"no serializer of Flink's is known for {describe(data_type)}",
                hint="values, lists, maps, tuples and rows of simple types can be written",
            )


def write_void_namespace(buffer: Buffer) -> None:
    """The snapshot of the namespace of state that has none."""
    _write_head(buffer, VOID_NAMESPACE, 3)


def _write_head(buffer: Buffer, name: str, version: int) -> None:
    buffer.utf(name)
    buffer.i32(version)


def _write_composite(buffer: Buffer, name: str, nested: tuple[DataType, ...], outer: Buffer | None = None) -> None:
    _write_head(buffer, name, 3)
    buffer.i32(OUTER_MAGIC)
    buffer.i32(_COMPOSITES[name])
    if outer is not None:
        buffer.raw(bytes(outer.data))
    buffer.i32(NESTED_MAGIC)
    buffer.i32(1)
    buffer.i32(len(nested))
    for data_type in nested:
        if name == _TIMER and data_type == Simple("void"):
            write_void_namespace(buffer)
        else:
            write_serializer(buffer, data_type)
