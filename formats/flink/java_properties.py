"""The Java object at the end of `_metadata`: what kind of snapshot it is. It is read as data; no class is ever made.

A stream of Java's serialization: a string, an enum or an object with its class's description, whose fields follow,
those of the superclass first. Only what default serialization writes is known: a class that wrote bytes of its own is
refused.
Source: Java Object Serialization Specification, section 6; Flink 2.3.0, `CheckpointProperties`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from msgspec import Struct

from formats.binary import Cursor
from formats.errors import UnsupportedError

_MAGIC, _STREAM_VERSION = 0xACED, 5
_NULL, _REFERENCE, _CLASS, _OBJECT, _STRING, _END, _ENUM = 0x70, 0x71, 0x72, 0x73, 0x74, 0x78, 0x7E
_FIRST_HANDLE = 0x7E0000
_WRITES_ITSELF, _SERIALIZABLE, _IS_ENUM = 0x01, 0x02, 0x10
_MAX_DEPTH = 16
_PROPERTIES = "org.apache.flink.runtime.checkpoint.CheckpointProperties"


class CheckpointProperties(Struct, frozen=True):
    """`type_class`: CheckpointType or SavepointType. `format`: CANONICAL or NATIVE, of a savepoint; else ""."""

    type_class: str
    name: str
    format: str = ""
    sharing: str = ""
    unclaimed: bool = False
    forced: bool = False

    @property
    def is_savepoint(self) -> bool:
        return self.type_class == "SavepointType"


class _JavaClass(NamedTuple):
    name: str
    flags: int
    fields: tuple[tuple[str, str], ...]  # type code, name
    parent: _JavaClass | None


class _JavaObject(NamedTuple):
    class_name: str
    fields: dict[str, _JavaValue]


class _JavaEnum(NamedTuple):
    class_name: str
    constant: str


_JavaValue: TypeAlias = "_JavaObject | _JavaEnum | _JavaClass | str | int | float | bool | None"


def read_properties(cursor: Cursor) -> CheckpointProperties:
    """The object from here on. Raises: CorruptError, UnsupportedError."""
    start = cursor.at
    found = _Reader(cursor).read()
    if not isinstance(found, _JavaObject) or found.class_name != _PROPERTIES:
        name = getattr(found, "class_name", type(found).__name__)
        raise _unknown(cursor, f"an object of {name!r}, not the properties of a checkpoint", start)
    kind = found.fields.get("checkpointType")
    if not isinstance(kind, _JavaObject | _JavaEnum):
        raise cursor.error("the properties say no type of checkpoint", at=start)
    fields = kind.fields if isinstance(kind, _JavaObject) else {"name": kind.constant}
    return CheckpointProperties(
        type_class=kind.class_name.rpartition(".")[2],
        name=_text(fields.get("name")),
        format=_text(fields.get("formatType")),
        sharing=_text(fields.get("sharingFilesStrategy")),
        unclaimed=found.fields.get("unclaimed") is True,
        forced=found.fields.get("forced") is True,
    )


def _text(value: _JavaValue) -> str:
    match value:
        case str():
            return value
        case _JavaEnum(constant=constant):
            return constant
    return ""


def _unknown(cursor: Cursor, what: str, at: int) -> UnsupportedError:
    hint = "a newer Flink may have written it; else the file is damaged: take another snapshot"
    return UnsupportedError(f"{cursor.what}: {what}, at byte {at}", hint=hint, offset=at)


class _Reader:
    """One stream. Objects are numbered as they begin, and may be referred to by their numbers later."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._known: list[_JavaValue] = []

    def read(self) -> _JavaValue:
        cursor = self._cursor
        if (cursor.u16("a Java object"), cursor.u16("a Java object")) != (_MAGIC, _STREAM_VERSION):
            raise cursor.error("no Java object where the properties begin", at=cursor.at - 4)
        return self._value(0)

    def _value(self, depth: int) -> _JavaValue:
        cursor = self._cursor
        if depth > _MAX_DEPTH:
            raise cursor.error(f"Java objects lie in objects, more than {_MAX_DEPTH} deep")
        match cursor.u8("a Java object"):
            case 0x70:
                return None
            case 0x71:
                return self._referred()
            case 0x74:
                self._known.append(None)
                place = len(self._known) - 1
                text = cursor.utf("a Java string")
                self._known[place] = text
                return text
            case 0x7E:
                return self._enum(depth)
            case 0x73:
                return self._object(depth)
            case tag:
                raise _unknown(cursor, f"a Java object of unknown tag {tag:#x}", cursor.at - 1)

    def _referred(self) -> _JavaValue:
        number = self._cursor.u32("a Java reference") - _FIRST_HANDLE
        if not 0 <= number < len(self._known):
            raise self._cursor.error("a Java reference to nothing", at=self._cursor.at - 4)
        return self._known[number]

    def _enum(self, depth: int) -> _JavaEnum:
        described = self._class(depth)
        place = self._number()
        constant = self._value(depth + 1)
        if described is None or not isinstance(constant, str):
            raise self._cursor.error("a Java enum without a name")
        found = _JavaEnum(described.name, constant)
        self._known[place] = found
        return found

    def _object(self, depth: int) -> _JavaObject:
        described = self._class(depth)
        if described is None:
            raise self._cursor.error("a Java object without a class")
        fields: dict[str, _JavaValue] = {}
        found = _JavaObject(described.name, fields)
        place = self._number()
        self._known[place] = found
        for level in self._levels(described):
            if level.flags & (_SERIALIZABLE | _WRITES_ITSELF) != _SERIALIZABLE:
                raise _unknown(self._cursor, f"Java class {level.name!r} writes itself", self._cursor.at)
            for code, name in level.fields:
                fields[name] = self._field(code, depth)
        return found

    def _levels(self, described: _JavaClass) -> list[_JavaClass]:
        """The class and those above it, the topmost first."""
        levels: list[_JavaClass] = []
        level: _JavaClass | None = described
        while level is not None:
            levels.append(level)
            level = level.parent
        return levels[::-1]

    def _field(self, code: str, depth: int) -> _JavaValue:
        cursor = self._cursor
        match code:
            case "Z":
                return cursor.flag("a Java flag")
            case "B":
                return cursor.i8()
            case "S" | "C":
                return cursor.i16()
            case "I":
                return cursor.i32()
            case "J":
                return cursor.i64()
            case "F":
                return cursor.f32()
            case "D":
                return cursor.f64()
            case "L":
                return self._value(depth + 1)
        raise _unknown(cursor, f"a Java field of type {code!r}", cursor.at)

    def _class(self, depth: int) -> _JavaClass | None:
        cursor = self._cursor
        if depth > _MAX_DEPTH:
            raise cursor.error(f"Java classes have parents, more than {_MAX_DEPTH}")
        tag = cursor.u8("a Java class")
        if tag == _NULL:
            return None
        if tag == _REFERENCE:
            known = self._referred()
            if not isinstance(known, _JavaClass):
                raise cursor.error("a Java class that is none", at=cursor.at - 5)
            return known
        if tag != _CLASS:
            raise _unknown(cursor, f"a Java class of unknown tag {tag:#x}", cursor.at - 1)
        name = cursor.utf("a Java class's name")
        cursor.i64("a Java class's version")
        place = self._number()
        flags = cursor.u8("a Java class's flags")
        fields = []
        for _ in range(cursor.u16("the number of Java fields")):
            code = chr(cursor.u8("a Java field's type"))
            fields.append((code, cursor.utf("a Java field's name")))
            if code in "L[":
                self._value(depth + 1)  # the name of the field's class
        if cursor.u8("the end of a Java class") != _END:
            raise _unknown(cursor, f"Java class {name!r} is annotated", cursor.at - 1)
        found = _JavaClass(name, flags, tuple(fields), self._class(depth + 1))
        self._known[place] = found
        return found

    def _number(self) -> int:
        self._known.append(None)
        return len(self._known) - 1
