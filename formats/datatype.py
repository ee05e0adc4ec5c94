"""The terms in which types are written down, and their text.

A type is a frozen tree; its text is what manifests, savepoints and people hold:

    string   map<string, long>   tuple<int, long>   timer<string, void>   joined<string>
    pojo<lab.Order; id: long, name: string>   row<f0: string>   opaque<com.example.Money>
    pojo<lab.Animal; legs: int; pojo<lab.Bird; wings: int>; pojo<lab.Fish>>    with a registered subclass, and another

Class and field names that are more than letters, digits and `_ . $ - [ ]` are quoted as in JSON.
`parse(describe(type)) == type`, always. What the bytes of each are is told in `formats/types.py`.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from msgspec import Struct

from formats.errors import InvalidInputError, TooLargeError

MAX_DEPTH = 32
MAX_TEXT = 1 << 16
MAX_PADDING = 1 << 10

SIMPLE_NAMES = frozenset(
    {
        "string",
        "boolean",
        "byte",
        "short",
        "int",
        "long",
        "char",
        "float",
        "double",
        "bytes",
        "void",
        "time-window",
        "big-int",
        "big-decimal",
        "instant",
        "date",
        "timestamp",
        "local-date",
        "local-time",
        "local-date-time",
    }
)


class Simple(Struct, frozen=True, tag="simple"):
    """A type without parameters, one of `SIMPLE_NAMES`."""

    name: str


class ListOf(Struct, frozen=True, tag="list"):
    """A list, a set or an array: how many, then the elements."""

    element: DataType


class JoinedOf(Struct, frozen=True, tag="joined"):
    """A list as RocksDB's merge operator leaves it: elements with a comma between, up to the end."""

    element: DataType


class MapOf(Struct, frozen=True, tag="map"):
    """A whole map: how many, then keys, each with a value that may be null."""

    key: DataType
    value: DataType


class TupleOf(Struct, frozen=True, tag="tuple"):
    """Fields one after the other."""

    fields: tuple[DataType, ...]


class RecordOf(Struct, frozen=True, tag="pojo"):
    """A POJO: named fields, each may be null, and so may the whole.

    Of what subclasses a value may be instead: those that the job registered, told by their place, and others that were
    met, told by their name.
    """

    class_name: str
    fields: tuple[tuple[str, DataType], ...]
    registered: tuple[RecordOf | Opaque, ...] = ()
    others: tuple[RecordOf | Opaque, ...] = ()


class RowOf(Struct, frozen=True, tag="row"):
    """A Row: a mask of nulls, with the kind of change in front unless it was written by an old Flink."""

    fields: tuple[tuple[str, DataType], ...]
    with_kind: bool = True


class TimerOf(Struct, frozen=True, tag="timer"):
    """A timer: when, for which key and namespace."""

    key: DataType
    namespace: DataType


class NullableOf(Struct, frozen=True, tag="nullable"):
    """A value behind a flag; a null is followed by `padding` bytes."""

    element: DataType
    padding: int = 0


class EitherOf(Struct, frozen=True, tag="either"):
    """One of two, told by a flag."""

    left: DataType
    right: DataType


class EnumOf(Struct, frozen=True, tag="enum"):
    """A Java enum: the number of a name."""

    class_name: str
    names: tuple[str, ...]


class Opaque(Struct, frozen=True, tag="opaque"):
    """Bytes of a serializer that is not known here; shown raw."""

    class_name: str


DataType: TypeAlias = (
    Simple | ListOf | JoinedOf | MapOf | TupleOf | RecordOf | RowOf | TimerOf | NullableOf | EitherOf | EnumOf | Opaque
)


def children(data_type: DataType) -> tuple[DataType, ...]:
    """The types directly inside."""
    match data_type:
        case Simple() | EnumOf() | Opaque():
            return ()
        case ListOf(element) | JoinedOf(element) | NullableOf(element):
            return (element,)
        case MapOf(left, right) | EitherOf(left, right) | TimerOf(left, right):
            return (left, right)
        case TupleOf(fields):
            return fields
        case RecordOf() | RowOf():
            return tuple(field for _, field in data_type.fields)


def is_known(data_type: DataType) -> bool:
    """Nothing in it is opaque: its values can be decoded."""
    return not isinstance(data_type, Opaque) and all(map(is_known, children(data_type)))


def describe(data_type: DataType) -> str:
    """The text of a type."""
    match data_type:
        case Simple(name):
            return name
        case TupleOf(fields):
            return f"tuple<{', '.join(map(describe, fields))}>"
        case RecordOf():
            return f"pojo<{'; '.join(_sections(data_type))}>"
        case RowOf(fields, with_kind):
            return f"{'row' if with_kind else 'old-row'}<{_described(fields).removeprefix('; ')}>"
        case EnumOf(class_name, names):
            return f"enum<{_word(class_name)}{'; ' if names else ''}{', '.join(map(_word, names))}>"
        case Opaque(class_name):
            return f"opaque<{_word(class_name)}>"
        case NullableOf(element, padding) if padding:
            return f"nullable<{describe(element)}, {padding}>"
        case _:
            return f"{_tag(data_type)}<{', '.join(map(describe, children(data_type)))}>"


def parse(text: str) -> DataType:
    """The type of a text.

    Raises: InvalidInputError with the position.
    """
    if len(text) > MAX_TEXT:
        raise TooLargeError(f"the text of a type has more than {MAX_TEXT} characters", characters=len(text))
    parser = _Parser(text)
    found = parser.type(0)
    parser.end()
    return found


_plain = re.compile(r"[A-Za-z0-9_.$\-\[\]]+\Z")
_token = re.compile(r'\s*(?:([A-Za-z0-9_.$\-\[\]]+)|("(?:[^"\\]|\\.)*")|([<>,:;]))')


def _sections(record: RecordOf) -> list[str]:
    """Class, fields and subclasses, as far as there are any."""
    fields = _described(record.fields).removeprefix("; ")
    subclasses = [", ".join(map(describe, types)) for types in (record.registered, record.others)]
    sections = [_word(record.class_name), fields, *subclasses]
    while len(sections) > 1 and not sections[-1]:
        sections.pop()
    return sections


def _word(name: str) -> str:
    return name if _plain.match(name) else json.dumps(name)


def _described(fields: tuple[tuple[str, DataType], ...]) -> str:
    return "; " * bool(fields) + ", ".join(f"{_word(name)}: {describe(field)}" for name, field in fields)


def _tag(data_type: DataType) -> str:
    return str(data_type.__struct_config__.tag)


def _pair(name: str, left: DataType, right: DataType) -> DataType:
    if name == "map":
        return MapOf(left, right)
    return EitherOf(left, right) if name == "either" else TimerOf(left, right)


class _Parser:
    """Reads words and marks from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def type(self, depth: int) -> DataType:
        if depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep")
        name = self.word()
        if name in SIMPLE_NAMES:
            return Simple(name)
        self.mark("<")
        found = self.inside(name, depth + 1)
        self.mark(">")
        return found

    def inside(self, name: str, depth: int) -> DataType:
        match name:
            case "list" | "joined":
                element = self.type(depth)
                return ListOf(element) if name == "list" else JoinedOf(element)
            case "nullable":
                element = self.type(depth)
                return NullableOf(element, self.number() if self.has(",") else 0)
            case "map" | "either" | "timer":
                left = self.type(depth)
                self.mark(",")
                return _pair(name, left, self.type(depth))
            case "tuple":
                fields = [self.type(depth)]
                while self.has(","):
                    fields.append(self.type(depth))
                return TupleOf(tuple(fields))
            case "pojo":
                return self.pojo(depth)
            case "row" | "old-row":
                return RowOf(() if self.peek() == ">" else self.fields(depth), with_kind=name == "row")
            case "enum":
                class_name = self.word()
                return EnumOf(class_name, self.words() if self.has(";") else ())
            case "opaque":
                return Opaque(self.word())
            case _:
                raise self.error(f"no such type: {name[:100]!r}")

    def pojo(self, depth: int) -> DataType:
        class_name = self.word()
        fields = self.fields(depth) if self.has(";") and self.peek() not in {";", ">"} else ()
        registered = self.subclasses(depth)
        return RecordOf(class_name, fields, registered, self.subclasses(depth))

    def subclasses(self, depth: int) -> tuple[RecordOf | Opaque, ...]:
        found: list[RecordOf | Opaque] = []
        if not self.has(";"):
            return ()
        while self.peek() not in {";", ">"}:
            if found:
                self.mark(",")
            subclass = self.type(depth)
            if not isinstance(subclass, RecordOf | Opaque):
                raise self.error(f"{describe(subclass)} is no subclass")
            found.append(subclass)
        return tuple(found)

    def fields(self, depth: int) -> tuple[tuple[str, DataType], ...]:
        found = [self.field(depth)]
        while self.has(","):
            found.append(self.field(depth))
        return tuple(found)

    def field(self, depth: int) -> tuple[str, DataType]:
        name = self.word()
        self.mark(":")
        return name, self.type(depth)

    def words(self) -> tuple[str, ...]:
        found = [self.word()]
        while self.has(","):
            found.append(self.word())
        return tuple(found)

    def word(self) -> str:
        match = _token.match(self.text, self.at)
        if match is None or match[3] is not None:
            raise self.error("a name is missing")
        self.at = match.end()
        if match[1] is not None:
            return match[1]
        try:
            return str(json.loads(match[2]))
        except ValueError:
            raise self.error("a quoted name is not valid") from None

    def number(self) -> int:
        word = self.word()
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) <= MAX_PADDING):
            raise self.error(f"a number up to {MAX_PADDING} is missing")
        return int(word)

    def peek(self) -> str:
        match = _token.match(self.text, self.at)
        return (match[3] or "") if match else ""

    def has(self, mark: str) -> bool:
        if self.peek() != mark:
            return False
        self.mark(mark)
        return True

    def mark(self, mark: str) -> None:
        match = _token.match(self.text, self.at)
        if match is None or match[3] != mark:
            raise self.error(f"{mark!r} is missing")
        self.at = match.end()

    def end(self) -> None:
        if self.text[self.at :].strip():
            raise self.error("more than one type")

    def error(self, reason: str) -> InvalidInputError:
        return InvalidInputError(
            f"not a type: {reason} (position {self.at} of {self.text[:100]!r})",
            hint="types are written like `long`, `map<string, long>`, `tuple<int, string>`",
            position=self.at,
        )
