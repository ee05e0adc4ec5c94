"""POJOs and rows: how each is read, written and skipped. Their bytes are told in `formats/types.py`."""

from __future__ import annotations

from typing import TypeAlias

from formats.binary import Buffer, Cursor
from formats.errors import CorruptError, UnsupportedError
from formats.types_nested import closed, nullable_codec
from formats.types_simple import Codec, mistyped, short

Named: TypeAlias = tuple[tuple[str, Codec], ...]

_KINDS = ("+I", "-U", "+U", "-D")
_POJO_NULL, _POJO_PLAIN, _POJO_OTHER, _POJO_REGISTERED = 1, 2, 4, 8


def pojo_codec(fields: Named, registered: Named, others: Named) -> Codec:
    pojo = _Pojo(fields, registered, others)
    return Codec(pojo.read, pojo.write, pojo.skip, 1)


class _Pojo:
    """Flags, then fields each behind a flag; of a subclass, which one, and a value of it with flags of its own."""

    def __init__(self, fields: Named, registered: Named, others: Named) -> None:
        self.names = [name for name, _ in fields]
        self.items = [nullable_codec(closed(field), 0) for _, field in fields]
        self.registered = [(name, closed(subclass)) for name, subclass in registered]
        self.others = {name: closed(subclass) for name, subclass in others}

    def subclass(self, data: bytes, at: int) -> tuple[str, Codec, int]:
        """The name of the class at the flags, its codec, and where its value starts."""
        cursor = Cursor(data, what="a value", start=at)
        flags = cursor.u8("flags")
        if flags == _POJO_REGISTERED:
            tag = cursor.u8("a subclass")
            if tag < len(self.registered):
                return *self.registered[tag], cursor.at
            raise UnsupportedError(f"a POJO of a subclass that is not told: {tag}, at byte {at}", offset=at)
        if flags == _POJO_OTHER:
            name = cursor.utf("a subclass")
            if name in self.others:
                return name, self.others[name], cursor.at
            raise UnsupportedError(f"a POJO of a subclass that is not told: {name}, at byte {at}", offset=at)
        raise CorruptError(f"a POJO has flags {flags}, at byte {at}", offset=at)

    def read(self, data: bytes, at: int) -> tuple[object, int]:
        if at >= len(data):
            raise short(data, at, 1)
        if data[at] == _POJO_NULL:
            return None, at + 1
        if data[at] != _POJO_PLAIN:
            name, codec, at = self.subclass(data, at)
            value, at = codec.read(data, at)
            return ({"$class": name, **value} if isinstance(value, dict) else value), at
        at += 1
        found: dict[str, object] = {}
        for name, item in zip(self.names, self.items, strict=True):
            found[name], at = item.read(data, at)
        return found, at

    def write(self, value: object, out: bytearray) -> None:
        if value is None:
            out.append(_POJO_NULL)
        elif isinstance(value, dict) and "$class" in value:
            self.write_subclass(str(value["$class"]), {k: each for k, each in value.items() if k != "$class"}, out)
        else:
            out.append(_POJO_PLAIN)
            for item, each in zip(self.items, _values(value, self.names, "pojo"), strict=True):
                item.write(each, out)

    def write_subclass(self, name: str, value: object, out: bytearray) -> None:
        for tag, (registered, codec) in enumerate(self.registered):
            if registered == name:
                out += bytes([_POJO_REGISTERED, tag])
                codec.write(value, out)
                return
        if name not in self.others:
            raise mistyped(value, f"pojo of class {name}")
        buffer = Buffer()
        buffer.utf(name)
        out += bytes([_POJO_OTHER]) + buffer.data
        self.others[name].write(value, out)

    def skip(self, data: bytes, at: int) -> int:
        if at >= len(data):
            raise short(data, at, 1)
        if data[at] not in {_POJO_NULL, _POJO_PLAIN}:
            _, codec, at = self.subclass(data, at)
            return codec.skip(data, at)
        if data[at] == _POJO_PLAIN:
            at += 1
            for item in self.items:
                at = item.skip(data, at)
            return at
        return at + 1


def row_codec(fields: Named, kind_bits: int) -> Codec:
    row = _Row(fields, kind_bits)
    return Codec(row.read, row.write, row.skip, max(row.mask_bytes, 1))


class _Row:
    """A mask, first the kind of change with its low bit in front, then a bit for each field that is null."""

    def __init__(self, fields: Named, kind_bits: int) -> None:
        self.names = [name for name, _ in fields]
        self.codecs = [closed(field) for _, field in fields]
        self.kind_bits = kind_bits
        self.mask_bytes = (kind_bits + len(fields) + 7) // 8
        self.spare_bits = 8 * self.mask_bytes - kind_bits - len(fields)

    def mask(self, data: bytes, at: int) -> tuple[int, list[bool]]:
        """The number of the kind, and which fields are null."""
        if at + self.mask_bytes > len(data):
            raise short(data, at, self.mask_bytes)
        bits = int.from_bytes(data[at : at + self.mask_bytes], "big") >> self.spare_bits
        nulls = [bool(bits >> place & 1) for place in reversed(range(len(self.codecs)))]
        kind = bits >> len(self.codecs)
        return kind >> 1 | (kind & 1) << 1, nulls

    def read(self, data: bytes, at: int) -> tuple[object, int]:
        kind, nulls = self.mask(data, at)
        at += self.mask_bytes
        found: dict[str, object] = dict.fromkeys(self.names)
        for name, field, null in zip(self.names, self.codecs, nulls, strict=True):
            if not null:
                found[name], at = field.read(data, at)
        if kind:
            found["$kind"] = _KINDS[kind]
        return found, at

    def write(self, value: object, out: bytearray) -> None:
        values = _values(value, self.names, "row")
        kind = value.get("$kind", "+I") if isinstance(value, dict) else "+I"
        if kind not in _KINDS or (kind != "+I" and not self.kind_bits):
            raise mistyped(value, "row")
        number = _KINDS.index(kind)
        bits = (number & 1) << 1 | number >> 1
        for each in values:
            bits = bits << 1 | (each is None)
        out += (bits << self.spare_bits).to_bytes(self.mask_bytes, "big")
        for field, each in zip(self.codecs, values, strict=True):
            if each is not None:
                field.write(each, out)

    def skip(self, data: bytes, at: int) -> int:
        _, nulls = self.mask(data, at)
        at += self.mask_bytes
        for field, null in zip(self.codecs, nulls, strict=True):
            if not null:
                at = field.skip(data, at)
        return at


def _values(value: object, names: list[str], kind: str) -> list[object]:
    if not isinstance(value, dict) or value.keys() - {"$kind"} != set(names):
        raise mistyped(value, kind)
    return [value[name] for name in names]
