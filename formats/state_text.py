"""Keys and values as people type and read them: text and JSON of decoded bytes, hex of what nobody can decode.

Nothing here runs code from data: bytes are decoded by the types of formats/types.py, or shown as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from formats.datatype import DataType, Simple, is_known, parse
from formats.errors import EoctlError, UsageError
from formats.state import COLUMNS, StateSchema
from formats.types import decode, encode

if TYPE_CHECKING:
    import pyarrow as pa

HEX = "hex:"
Shown = Any  # what JSON can say
Row = dict[str, Shown]


class RowText:
    """Rows of a state as JSON values. `raw`: every byte in hex, nothing decoded."""

    def __init__(self, schema: StateSchema, *, raw: bool = False) -> None:
        texts = {"key": schema.key, "namespace": schema.namespace, "map_key": schema.map_key, "value": schema.value}
        self._shown = {name: show_hex if raw else shower(text) for name, text in texts.items()}
        self._columns = [name for name in COLUMNS if name != "map_key" or schema.kind in {"map", "timer"}]
        if schema.kind == "timer" and not raw:
            self._shown["map_key"] = lambda data: int.from_bytes(data, "big") - (1 << 63)

    def rows(self, batch: pa.RecordBatch) -> Iterator[Row]:
        """`key_group key namespace map_key value`, a value at a time."""
        columns = [batch["key_group"].to_pylist()]
        for name in self._columns[1:]:
            show = self._shown[name]
            columns.append([None if data is None else show(data) for data in batch[name].to_pylist()])
        for values in zip(*columns, strict=True):
            yield dict(zip(self._columns, values, strict=True))


def shower(text: str) -> Callable[[bytes], Shown]:
    """From bytes of the type to what JSON can say; of bytes that are not of it, hex."""
    found = parse(text) if text else None
    if found is None or not is_known(found):
        return show_raw
    known: DataType = found

    def show(data: bytes) -> Shown:
        try:
            return plain(decode(known, data))
        except EoctlError:
            return show_hex(data)

    return show


def show_raw(data: bytes) -> Shown:
    """Text where the bytes are printable UTF-8, else hex."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return show_hex(data)
    return text if text.isprintable() else show_hex(data)


def show_hex(data: bytes) -> Shown:
    return {"hex": data.hex()}


def plain(value: object) -> Shown:
    """A decoded value in terms of JSON: maps of other than text are lists of pairs, numbers without end are text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray():
            return {"hex": value.hex()}
        case list() | tuple():
            return [plain(one) for one in value]
        case dict():
            if all(isinstance(key, str) for key in value):
                return {key: plain(one) for key, one in value.items()}
            return [[plain(key), plain(one)] for key, one in value.items()]
    return str(value)


def bytes_of(text: str, type_text: str, what: str) -> bytes:
    """The bytes that a person means by `text`: `hex:6b31`, else a value of the type; text as it is where none is known.

    Raises: UsageError.
    """
    if text.startswith(HEX):
        try:
            return bytes.fromhex(text.removeprefix(HEX))
        except ValueError as error:
            raise UsageError(f"not hex digits: {text!r}", hint=f"{what} hex:6b31") from error
    if not type_text:
        return text.encode()
    found = parse(type_text)
    try:
        value = text if isinstance(found, Simple) and found.name == "string" else json.loads(text)
        return encode(found, value)
    except (ValueError, EoctlError) as error:
        message = f"{text!r} is no {type_text}: {error}"
        raise UsageError(message, hint=f"{what} as JSON, or its bytes: {what} hex:6b31") from error
